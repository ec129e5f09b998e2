"""Networks and data that do not belong together: one line that says what to do, and nothing written."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.samples.command_line import one_error_line

CODE = """
import torch
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3))


class Pixels(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 40, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 3))


def nothing(model=None):
    pass


def text(model=None):
    return "good"


def labelled(*labels):
    yield torch.rand(8, 6), torch.tensor(labels)


def outside():
    return labelled(0, 1, 2, 7, 0, 1, 2, 1)


def none_asked():
    return labelled(*8 * [-100])


def places():
    yield torch.rand(8, 6), torch.zeros(8, 2, 2, dtype=torch.int64)


def one_in_a_batch():
    yield torch.rand(2, 6), torch.tensor([-100, -100])
    yield torch.rand(2, 6), torch.tensor([0, 1])
"""

CASES = (
    ("--data text:book.txt", "no table of tokens in it: text is for networks that take tokens"),
    ("--data net:outside", "8 classes: labels lie from 0 to 7; give data of 3 classes"),
    ("--data net:none_asked", "data net:none_asked: no class of it can be asked"),
    ("--data net:places", "×2×2; (N, 1, 2, 2) are needed"),
    ("--data array:pairs.npz", "×2 in array:pairs.npz; give targets of the network's own shape"),
    ("--data array:pairs.npz --task causal", "has numbers, and causal needs text"),
    ("--data array:named.npz", "inputs are given by name here, a: call them as its forward does"),
    ("--data array:bad.npz", "no readable numpy file of numbers (ValueError: it does not begin as one)"),
    ("--data csv:table.csv:species", "no column 'species'; it has a, b, label"),
    ("--data csv:empty.csv", "the file is empty"),
    ("--data empty", "empty: nothing known in it"),
    ("--data images:empty", "no images in it"),
    ("--data net:nothing", "it is nothing (None); data are"),
    ("--data net:text", "it is a str; data are"),
    ("--data net:outside --task net:nothing", "net:nothing: returns nothing for"),
    ("--data net:outside --task net:text", "net:text: returns a str for"),
    (
        "--data net:outside --mean imagenot",
        "mean must be a number, numbers with commas between, or one of imagenet",
    ),
    ("--data net:outside --task regresion", "did you mean regression?"),
    ("--data net:outside --arch net:Missing", "net has no Missing"),
    ("--data net:outside --arch net:Pixels", "is no net:Pixels"),
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "net.py").write_text(CODE)
    names = {}
    exec(CODE, names)
    for name in ("Net", "Pixels"):
        torch.save(names[name]().state_dict(), tmp_path / f"{name}.pt".lower())
    (tmp_path / "book.txt").write_text("In the beginning. " * 400)
    (tmp_path / "table.csv").write_text("a,b,label\n" + "1,2,0\n" * 40)
    (tmp_path / "empty.csv").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.npz").write_text("garbage")
    np.savez(tmp_path / "pairs.npz", x=np.ones((320, 6), "f"), y=np.ones((320, 2), "f"))
    np.savez(tmp_path / "named.npz", a=np.ones((320, 6), "f"), y=np.zeros(320, "i8"))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("command", ["evaluate", "prune", "sweep"])
@pytest.mark.traced
def test_one_line_and_nothing_written(run, folder, command):
    before = {path.name for path in folder.iterdir()}
    for words, said in CASES:
        given = words.split()
        arch = () if "--arch" in given else ("--arch", "net:Net")
        line = one_error_line(run(command, "net.pt", *given, *arch))
        assert said in line, (words, line)
        assert {path.name for path in folder.iterdir()} - {"__pycache__"} == before


@pytest.mark.slow
@pytest.mark.traced
def test_training_that_meets_wrong_labels_leaves_nothing(run, folder):
    """Of the stream the test part, asked first, is all right."""
    before = {path.name for path in folder.iterdir()}
    line = one_error_line(run("finetune", "net.pt", "--arch", "net:Net", "--data", "net:outside", "-o", "o.pt"))
    assert "give data of 3 classes" in line
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == before


def test_a_batch_in_which_nothing_is_asked_is_passed_over(run, folder):
    result = run("evaluate", "net.pt", "--arch", "net:Net", "--data", "net:one_in_a_batch", "--batch-size", "2")
    assert result.returncode == 0, result.stderr


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_torchscript_program_says_what_went_wrong_and_not_where(run, folder):
    net = nn.Sequential(nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 3))
    torch.jit.save(torch.jit.trace(net, torch.rand(2, 8)), folder / "script.pt")
    line = one_error_line(run("evaluate", "script.pt", "--trust", "--data", "net:outside"))
    assert "cannot take inputs of 6 from data net:outside, 8 at once: RuntimeError: mat1 and mat2 shapes" in line
    assert "TorchScript" not in line


def test_images_for_a_language_model(run, folder):
    transformers_models = pytest.importorskip("tests.samples.transformers_models")
    pytest.importorskip("transformers")
    image = pytest.importorskip("PIL.Image")
    transformers_models.built("llama").save_pretrained(folder / "llama")
    image.new("RGB", (16, 16)).save(folder / "empty" / "a.png")
    for words, said in (
        ("--data images:empty", "give --data of the kind it was trained on"),
        ("--data images:empty --task causal", "has no labels, and causal needs text"),
        ("--data text:book.txt", "there is no tokenizer in llama, and its vocabulary is 64"),
        ("--data text:nowhere.txt", "no such file"),
    ):
        assert said in one_error_line(run("evaluate", "llama", *words.split()))
    small = ("--arch", "net:Pixels", "--data", "images:empty", "--size", "4")
    assert "cannot take inputs of 3×4×4" in one_error_line(run("evaluate", "pixels.pt", *small))
