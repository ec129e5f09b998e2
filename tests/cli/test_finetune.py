import json
import signal
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rmt_compress.networks import architectures
from rmt_compress.training.event_log import read_lines
from tests.samples.pages import Page
from tests.samples.repository import DIGITS, REPOSITORY

SHORT = ("--data", "digits", "--epochs", "2", "--prune-every", "1", "--gof", "0.3")
FEW = (*SHORT, "--samples", "300")


@pytest.mark.slow
@pytest.mark.traced
def test_a_checkpoint_becomes_smaller_and_says_how(run, tmp_path):
    plots, board = tmp_path / "plots", tmp_path / "board"
    pictures = ("--plots", plots, "--tensorboard", board, "--report", "r.html")
    done = run("finetune", DIGITS, "-o", "x.safetensors", *SHORT, *pictures)
    assert done.returncode == 0
    assert "fewer" in done.stdout
    lines = done.stderr.splitlines()
    assert lines[0].startswith("start      97.50%, 301,066 parameters")
    assert sum(line.startswith("epoch ") for line in lines) == 2
    assert sum(line.startswith("  cut ") for line in lines) == 2
    assert "ranks fc1" in done.stderr
    assert (tmp_path / "x.safetensors").exists()
    assert (plots / "training.png").read_bytes().startswith(b"\x89PNG")
    assert list(board.glob("run/events.out.tfevents.*"))
    events = read_lines(tmp_path / "x.log.jsonl")
    page = Page((tmp_path / "r.html").read_text("utf-8"))
    first, last = events[0], events[-1]
    assert f"Test accuracy {first['test_score']:.2%} → {last['test_score']:.2%}" in page.text
    assert f"{last['nonzeros'] / first['nonzeros']:.1%} of the weights left after 2 cuts" in page.text
    cuts = sorted({event["epoch"] for event in events if event["event"] == "cycle"})
    assert [chart["marks"] for chart in page.data["charts"]] == [cuts] * 3
    scores = [event["test_score"] for event in events if event["event"] != "end"]
    assert [point[1] for point in page.data["charts"][0]["series"][0]["points"]] == scores
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.slow
@pytest.mark.traced
def test_a_whole_pickled_model_has_to_be_unpacked_first(run, tmp_path):
    model = architectures.build("mlp:64,40,10", seed=0)
    torch.save(model, tmp_path / "whole.pt")
    line = run("finetune", tmp_path / "whole.pt", *SHORT).stderr.strip()
    command = f"rmt-compress export {tmp_path}/whole.pt --trust -o weights.safetensors"
    assert line.endswith(f"if you trust it, write its weights alone first: {command}")
    # The way out works.
    assert run(*command.split()[1:]).returncode == 0
    done = run("finetune", "weights.safetensors", *SHORT, "--arch", "mlp:64,40,10", "--samples", "40", "-o", "x.pt")
    assert done.returncode == 1, done.stderr
    assert "x.pt: is written, but its accuracy" in done.stderr


@pytest.mark.slow
def test_json_is_all_there_is_on_stdout(run, tmp_path):
    done = run("finetune", DIGITS, "-o", "x.pt", *FEW, "--json")
    report = json.loads(done.stdout)
    assert report["schema"] == "rmt-compress/finetune/1"
    (only,) = report["runs"]
    assert only["parameters"] < only["parameters_first"] == 301066
    assert only["cycles"] == 2
    assert report["bytes"] == (tmp_path / "x.pt").stat().st_size


@pytest.mark.slow
@pytest.mark.traced
def test_seeds_and_comparison_side_by_side(run):
    done = run(
        "finetune", "--data", "digits", "--arch", "mlp:64,80,10", "--epochs", "2", "--prune-every", "1",
        "--seeds", "1,2", "--compare", "-o", "x.safetensors",
    )  # fmt: skip
    assert done.returncode == 1
    assert "than to the best on the way" in done.stderr
    assert "pruned, mean" in done.stdout
    assert "baseline, mean" in done.stdout
    assert "±" in done.stdout


LEARN = "tests.samples.learners"


@pytest.mark.slow
def test_text_is_told_in_its_own_metric(run, tmp_path):
    """The lines, the table, the picture and the log name the loss; a limit that is missed is exit status 1."""
    (tmp_path / "book.txt").write_bytes(b"to be or not to be, that is the question. " * 20)
    text = ("--data", "text:book.txt", "--arch", f"{LEARN}:bigrams", "--sequence-length", "16", "--data-seed", "3")
    options = ("--epochs", "2", "--no-prune", "--samples", "30", "--worst-score", "0.5", "-o", "x.safetensors")
    done = run("finetune", *text, *options, "--plots", "plots")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0].startswith("start     test loss 5.")
    assert lines[2].startswith("epoch 2   test loss ")
    assert ", training loss " in lines[2]
    assert any(line.startswith("error: the loss asked for, 0.5000, was not reached: ") for line in lines)
    assert "loss in nats per token" in done.stdout
    assert (tmp_path / "plots" / "training.png").read_bytes().startswith(b"\x89PNG")
    first, *_, last = read_lines(tmp_path / "x.log.jsonl")
    assert first["score"] == {"name": "loss", "unit": "nats per token", "higher_is_better": False}
    assert last["test_score"] < first["test_score"]
    evaluated = run(
        *("evaluate", "x.safetensors", "--data", "text:book.txt", "--arch", f"{LEARN}:bigrams"),
        *("--sequence-length", "16", "--json"),
    )
    assert json.loads(evaluated.stdout)["model"]["score"]["unit"] == "nats per token"


@pytest.mark.slow
@pytest.mark.traced
def test_json_of_numbers_says_what_the_score_is(run):
    arguments = ("--data", f"{LEARN}:table", "--arch", f"{LEARN}:line", "--epochs", "2", "--seeds", "1,2")
    report = json.loads(run("finetune", *arguments, "--no-prune", "-o", "x.pt", "--json").stdout)
    for each in report["runs"]:
        assert each["score"]["name"] == "mean square error"
        assert each["score"]["value"] == each["test_loss"] < each["score_first"]
        assert "test_accuracy" not in each
    values = [each["score"]["value"] for each in report["runs"]]
    assert report["mean"]["baseline"]["test_score"]["mean"] == pytest.approx(sum(values) / 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((DIGITS,), ["--data mnist"]),
        ((DIGITS, "--data", "digits", "--epochs", "0"), ["epochs must be at least 1"]),
        ((DIGITS, "--data", "nothing"), ["'nothing'", "known sets"]),
        ((DIGITS, "--data", "digits", "--arch", "mlp:784,10"), ["fc1.weight", "mlp:64,512,512,10"]),
        (("--data", "digits", "--arch", "mlp:784,60,10"), ["64"]),
        ((DIGITS, "--data", "digits", "--seeds", "1,1"), ["different numbers"]),
        ((DIGITS, "--data", "digits", "--seeds", "a"), ["whole numbers"]),
        ((DIGITS, "--data", "digits", "--no-prune", "--compare"), ["--no-prune"]),
        ((DIGITS, "--data", "digits", "--keep-bulk", "2"), ["retained share"]),
        ((DIGITS, "--data", "digits", "--device", "nowhere"), ["cannot train there"]),
        ((DIGITS, "--data", "digits", "--resume"), ["no training state"]),
        ((DIGITS, "--data", "digits", "-o", "x.onnx"), [".safetensors"]),
        ((DIGITS, "--data", "digits", "--include", "zzz*"), ["zzz*"]),
        (("missing.pt", "--data", "digits"), ["missing.pt", "no such file"]),
        ((DIGITS, "--data", "digits", "--task", f"{LEARN}:length"), [f"{LEARN}:length", "no loss to train with"]),
        ((DIGITS, "--data", "digits", "--task", "agreement"), ["digits", "agreement is with another network"]),
        (("--data", f"{LEARN}:table", "--arch", f"{LEARN}:line", "--min-accuracy", "0.9"), ["give worst-score"]),
        (("--data", f"{LEARN}:table", "--arch", "mlp:64,10"), ["inputs of 6"]),
        ((DIGITS, "--data", "text:nothing.txt"), ["no such file"]),
        (
            (DIGITS, "--data", f"text:{REPOSITORY / 'README.md'}"),
            ["no tokenizer", "text is for networks that take tokens"],
        ),
        ((DIGITS, "--data", "digits", "--min-accuracy", "0.9", "--worst-score", "1"), ["give one"]),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(run, tmp_path, arguments, words):
    output = () if "-o" in arguments else ("-o", "x.safetensors")
    done = run("finetune", *arguments, *output)
    assert done.returncode == 2
    assert done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in errors[0]
    assert not list(tmp_path.iterdir())


def test_nan_in_a_checkpoint_is_said(run, tmp_path):
    state = load_file(DIGITS)
    state["fc1.weight"][3, 4] = float("nan")
    save_file(state, tmp_path / "bad.safetensors", {"architecture": "mlp:64,512,512,10"})
    done = run("finetune", "bad.safetensors", *SHORT)
    assert done.returncode == 2
    assert "bad.safetensors" in done.stderr
    assert "fc1.weight" in done.stderr


@pytest.mark.slow
@pytest.mark.traced
def test_a_file_with_a_graph_of_its_own_is_not_trained(run, exported_digits):
    done = run("finetune", exported_digits, *FEW)
    assert done.returncode == 2
    assert "own graph" in done.stderr


@pytest.mark.slow
def test_settings_of_one_run_do_not_bind_the_next(run):
    """Accelerate keeps its settings for the life of a process."""
    for precision in ("no", "bf16", "no"):
        arguments = ("-o", "x.pt", "--force", "--mixed-precision", precision, "--device", "cpu")
        assert run("finetune", DIGITS, *FEW, *arguments).returncode == 0


@pytest.mark.slow
def test_an_accuracy_that_is_not_reached_exits_1(run):
    done = run("finetune", DIGITS, "-o", "x.safetensors", *FEW, "--min-accuracy", "0.9999")
    assert done.returncode == 1
    assert "99.99%" in done.stderr


@pytest.mark.slow
def test_existing_output_is_refused_without_force(run, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"mine")
    done = run("finetune", DIGITS, "-o", "x.safetensors", *SHORT)
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert (tmp_path / "x.safetensors").read_bytes() == b"mine"
    assert run("finetune", DIGITS, "-o", "x.safetensors", *FEW, "--force").returncode == 0


@pytest.mark.slow
def test_ctrl_c_keeps_the_state_and_says_how_to_go_on(python, tmp_path):
    out = tmp_path / "x.safetensors"
    state, said = tmp_path / "x.training.pt", tmp_path / "stderr"
    with said.open("w") as stderr:
        process = python.start(
            *("-m", "rmt_compress", "finetune", DIGITS, "--data", "digits", "--epochs", "4000", "-o", out),
            stderr=stderr,
        )
        try:
            while not state.exists() and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            status = process.wait()
        finally:
            process.send_signal(signal.SIGKILL)
    text = said.read_text()
    assert status == 130
    assert "--resume" in text
    assert "Traceback" not in text
    assert torch.load(state, weights_only=True)["epoch"] >= 0
    assert not out.exists()


@pytest.mark.slow
def test_a_network_of_ones_own_with_convolutions_of_every_kind(run, tmp_path, monkeypatch):
    (tmp_path / "ours.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    return nn.Sequential(\n"
        "        nn.Conv2d(1, 40, 3), nn.ReLU(), nn.ConvTranspose2d(40, 36, 3), nn.Unflatten(1, (4, 9)),\n"
        "        nn.Conv3d(4, 5, 3), nn.Flatten(), nn.Linear(5 * 7 * 6 * 6, 40), nn.ReLU(), nn.Linear(40, 10))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    options = ("--arch", "ours:net", "--gof", "1", "--keep-bulk", "0", "--epochs", "2", "--prune-every", "1")
    done = run("finetune", "--data", "digits", "--samples", "300", *options, "-o", "x.safetensors", "--json")
    assert done.returncode == 1
    assert "no better than guessing" in done.stderr
    report = json.loads(done.stdout)["runs"][0]
    assert report["parameters"] < report["parameters_first"]
    evaluated = run("evaluate", "x.safetensors", "--data", "digits", "--arch", "ours:net", "--json")
    assert json.loads(evaluated.stdout)["model"]["accuracy"] == report["test_accuracy"]


@pytest.mark.slow
@pytest.mark.traced
def test_a_callable_as_data(run, tmp_path, monkeypatch):
    # The seeds make training and test points differ around the same centres.
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def load(split):\n"
        "    random = torch.Generator().manual_seed(0 if split == 'train' else 1)\n"
        "    centres = torch.randn(4, 64, generator=torch.Generator().manual_seed(2))\n"
        "    labels = torch.randint(0, 4, (400,), generator=random)\n"
        "    yield centres[labels] + torch.randn(400, 64, generator=random), labels\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = ("--data", "mine:load", "--arch", "mlp:64,200,4", "--epochs", "3", "-o", "x.pt", "--json")
    done = run("finetune", *arguments, "--sparsify", "0.01", "--optimizer", "adamw", "--lr", "0.01")
    assert done.returncode == 0
    report = json.loads(done.stdout)["runs"][0]
    assert report["test_accuracy"] > 0.9
    assert report["nonzeros"] < report["parameters"]
    assert np.isfinite(report["test_loss"])
