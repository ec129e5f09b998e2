"""Networks that are stored in half precision, and the type that they are asked in."""

import json

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.samples.command_line import one_error_line
from tests.samples.transformers_models import built

transformers = pytest.importorskip("transformers", minversion="5")

DATA = """
import torch


def tokens():
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        yield torch.randint(3, 64, (8, 16), generator=generator)


def rows():
    yield torch.linspace(-1, 1, 60).view(10, 6), torch.arange(10) % 3
"""
NET = """
from torch import nn


def net():
    return nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 3))
"""


@pytest.fixture
def folder(tmp_path):
    """A folder in bfloat16 whose weights are large enough for rounding to show in the loss."""
    (tmp_path / "halves.py").write_text(DATA + NET)
    model = built("llama")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "llama")
    return tmp_path


def loss_of(result):
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)["model"]["loss"]


def plain_loss(folder, dtype):
    """Of a loop that knows nothing of this package."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "llama", dtype=dtype).eval()
    names = {}
    exec(DATA, names)
    with torch.no_grad():
        found = [
            cross_entropy(model(input_ids=ids).logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())
            for ids in names["tokens"]()
        ]
    return float(torch.stack(found).mean())


@pytest.mark.slow
def test_half_precision_is_computed_in_single_unless_asked(run, folder):
    evaluate = ("evaluate", "llama", "--data", "halves:tokens", "--json")
    single, half = plain_loss(folder, torch.float32), plain_loss(folder, torch.bfloat16)
    assert abs(single - half) > 1e-4
    assert loss_of(run(*evaluate)) == pytest.approx(single, abs=1e-5)
    for name in ("bfloat16", "stored"):
        assert loss_of(run(*evaluate, "--dtype", name)) == pytest.approx(half, abs=2e-5)
    assert loss_of(run(*evaluate, "--dtype", "float64")) == pytest.approx(single, abs=1e-5)


@pytest.mark.slow
def test_sweep_and_prune_ask_in_it_too(run, folder):
    data = ("--data", "halves:tokens", "--dtype", "bfloat16")
    half = plain_loss(folder, torch.bfloat16)
    result = run("sweep", "llama", *data, "--what", "rank", "--points", "2", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["sweeps"][0]["score"] == pytest.approx(half, abs=2e-5)
    result = run("prune", "llama", *data, "--layout", "dense", "--rule", "rank:4", "-o", "small", "--json")
    assert result.returncode == 0, result.stderr
    measured = json.loads(result.stdout)["evaluation"]
    assert measured["before"]["loss"] == pytest.approx(half, abs=2e-5)
    assert loss_of(run("evaluate", "small", *data, "--json")) == pytest.approx(measured["after"]["loss"], abs=2e-5)
    assert transformers.AutoConfig.from_pretrained(folder / "small").dtype == torch.bfloat16


def test_a_network_of_ones_own_is_asked_in_it(run, folder):
    names = {}
    exec(NET, names)
    model = names["net"]()
    torch.save(model.state_dict(), folder / "net.pt")
    exec(DATA, names)
    ((inputs, labels),) = names["rows"]()
    evaluate = ("evaluate", "net.pt", "--arch", "halves:net", "--data", "halves:rows", "--json")
    with torch.no_grad():
        half = float(cross_entropy(model.bfloat16()(inputs.bfloat16()).float(), labels))
    assert loss_of(run(*evaluate, "--dtype", "bfloat16")) == pytest.approx(half, abs=1e-6)
    assert loss_of(run(*evaluate)) != pytest.approx(half, abs=1e-6)


@pytest.mark.parametrize(
    ("words", "said"),
    (
        ("prune llama --dtype bfloat16", "dtype: of the network while it is asked, and nothing is: add --data"),
        ("prune llama --data halves:tokens --keep .5 --dtype bfloat16", "dtype: a budget is met in float32"),
        ("sweep llama --data halves:tokens --what budget --dtype float16", "dtype: a budget sweep computes in"),
        ("evaluate llama --dtype half", "'half' is not one of 'float32', 'float16'"),
        ("finetune llama --data halves:tokens --dtype bfloat16", "No such option: --dtype"),
    ),
)
def test_where_it_says_nothing_it_is_refused(run, folder, words, said):
    before = sorted(path.name for path in folder.iterdir())
    assert said in one_error_line(run(*words.split()))
    assert sorted(path.name for path in folder.iterdir() if path.name != "__pycache__") == before
