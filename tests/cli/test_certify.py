"""`rmt-compress certify` as a user types it."""

import json

import pytest
import torch
from safetensors.torch import save_file

from rmt_compress.plan import load_plan
from tests.samples.command_line import one_error_line
from tests.samples.learners import LEARNERS
from tests.samples.repository import DIGITS

ASKED = ("--data", "digits", "--limit", "60")


@pytest.fixture
def plan(tmp_path):
    """The plan of the digits network at its edges, and one of its last cut layer alone."""
    import rmt_compress as rmt

    made = rmt.make_plan(rmt.analyze(DIGITS))
    (tmp_path / "plan.json").write_text(made.to_json())
    last = [
        each.model_copy(update={"rank": 200, "action": "truncated"}) for each in made.layers if each.name == "fc2"
    ]
    (tmp_path / "last.json").write_text(made.model_copy(update={"layers": tuple(last)}).to_json())
    return tmp_path / "plan.json"


@pytest.mark.slow
def test_tables(run, plan):
    result = run("certify", DIGITS, "--plan", plan, *ASKED, "--plot", "bound.png")
    assert result.returncode == 0, result.stderr
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert max(map(len, result.stdout.splitlines())) <= 100
    assert "60 test samples of digits: what the cut can change at most" in lines[0]
    assert any(line.startswith("accuracy 98.33% 98.33% at least 0.00%") for line in lines)
    ranks = {each.name: each.rank for each in load_plan(plan).layers if each.changes}
    for name, rank in ranks.items():
        assert any(line.startswith(f"{name} {rank} ") for line in lines)
    assert "note: the bound is vacuous here: it certifies 0.00%" in result.stderr
    assert (plan.parent / "bound.png").read_bytes().startswith(b"\x89PNG")
    again = run("certify", DIGITS, "--plan", plan, *ASKED, "--plot", "bound.png")
    assert "bound.png: exists already" in one_error_line(again)


def test_json(run, plan):
    result = run("certify", DIGITS, "--plan", "last.json", *ASKED, "--json")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    report = json.loads(result.stdout)
    assert report["schema"] == "rmt-compress/certificate/1"
    assert report["samples"] == 60
    accuracy = report["accuracy"]
    assert 0.5 < accuracy["certified"] <= accuracy["after"]
    assert accuracy["certified"] == report["bounds"]["best"]["accuracy"]
    assert report["same_answer"]["certified"] <= report["same_answer"]["measured"]
    (layer,) = report["layers"]
    assert layer["name"] == "fc2"
    assert layer["violations"] == report["violations"] == 0
    assert layer["measured"]["median"] < layer["bound"]["median"] <= layer["bound"]["max"]
    assert layer["ratio"] > 1


def test_a_file_that_was_cut_instead_of_a_plan(run, plan):
    small = plan.parent / "small.safetensors"
    assert run("prune", DIGITS, "-o", small, "--plan", plan).returncode == 0
    by_file = json.loads(run("certify", DIGITS, "--cut", small, *ASKED, "--json").stdout)
    by_plan = json.loads(run("certify", DIGITS, "--plan", plan, *ASKED, "--json").stdout)
    assert by_file["accuracy"] == by_plan["accuracy"]
    assert by_file["layers"][0]["bound"]["median"] == pytest.approx(
        by_plan["layers"][0]["bound"]["median"], rel=1e-4
    )


def test_mistakes_are_one_line(run, plan):
    cases = (
        ((), "--plan FILE (prune --save-plan writes one) or as --cut FILE"),
        (("--plan", plan, "--cut", DIGITS), "one of both"),
        (("--cut", DIGITS, "--moments", "m.safetensors"), "--moments belong to a plan"),
        (("--cut", DIGITS), "the cut changes no layer"),
        (("--plan", "nowhere.json"), "nowhere.json: cannot be read as a plan"),
        (("--plan", plan, "--device", "toaster"), "cannot run on device 'toaster'"),
    )
    for words, message in cases:
        assert message in one_error_line(run("certify", DIGITS, *ASKED, *words))
    assert "add --data" in one_error_line(run("certify", DIGITS, "--plan", plan))


@pytest.mark.parametrize("value", (float("nan"), float("inf")))
def test_a_weight_that_is_no_number_in_the_network_or_in_its_cut(run, tmp_path, value):
    for name in ("whole", "broken"):
        torch.manual_seed(0)
        state = {f"fc{number}.weight": torch.randn(*shape) for number, shape in ((1, (30, 64)), (2, (10, 30)))}
        state |= {f"fc{number}.bias": torch.zeros(rows) for number, rows in ((1, 30), (2, 10))}
        if name == "broken":
            state["fc1.weight"][3, 4] = value
        save_file(state, tmp_path / f"{name}.safetensors", {"architecture": "mlp:64,30,10"})
    outputs = ("--plot", "bound.png", "--report", "page.html")
    result = run("certify", "whole.safetensors", "--cut", "broken.safetensors", *ASKED, *outputs)
    assert one_error_line(result).startswith(
        "error: the cut network: NaN or Inf in fc1.weight, so no bound holds; "
    )
    assert "broken.safetensors" in one_error_line(
        run("certify", "broken.safetensors", "--cut", "whole.safetensors", *ASKED, *outputs)
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.safetensors", "whole.safetensors"]


def test_what_is_no_classifier_of_whole_samples(run, tmp_path):
    import torch
    from safetensors.torch import save_file

    from tests.samples.learners import bigrams, line

    cases = ((line, "table", "for classification, not for regression"), (bigrams, "tagged", "certificates"))
    for build, data, message in cases:
        save_file(build().state_dict(), tmp_path / "net.safetensors")
        (tmp_path / "empty.json").write_text('{"schema": "rmt-compress/plan/1", "layers": []}')
        words = ("--plan", "empty.json", "--arch", f"{LEARNERS}:{build.__name__}", "--data", f"{LEARNERS}:{data}")
        assert message in one_error_line(run("certify", "net.safetensors", *words))
    assert torch.is_grad_enabled()


@pytest.mark.slow
@pytest.mark.traced
def test_prune_certifies_what_it_has_written(run, plan):
    line = one_error_line(run("prune", DIGITS, "-o", "no.safetensors", "--certify"))
    assert "certify: bounds are for samples, and there are none: add --data" in line
    words = ("prune", DIGITS, "-o", "small.safetensors", "--plan", "last.json", "--data", "digits", "--certify")
    report = json.loads(run(*words, "--json").stdout)
    found = report["certificate"]
    assert found["samples"] == report["evaluation"]["after"]["samples"] == 360
    assert 0.5 < found["accuracy"]["certified"] <= found["accuracy"]["after"] == report["accuracy"]["after"]
    assert "what the cut can change at most" in run(*words, "--force").stdout


def test_prune_refuses_before_it_writes(run, tmp_path):
    from safetensors.torch import save_file
    from torch import nn

    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef Net():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 10))\n"
    )
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 10))
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    words = ("prune", "net.safetensors", "--arch", "net.py:Net", "--data", "digits", "--certify")
    assert "net.safetensors: 2 (LayerNorm): no Lipschitz constant of it is known" in one_error_line(run(*words))
    assert not (tmp_path / "net.pruned.safetensors").exists()
