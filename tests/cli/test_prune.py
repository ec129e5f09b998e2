"""`rmt-compress prune` as a user types it, on trained networks and on bad input."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import rmt_compress as rmt
from tests.samples.command_line import one_error_line
from tests.samples.repository import DIGITS, MODELS


def plain_accuracy(state, images, labels):
    """A ReLU network of Linear layers, down/up pairs included, with nothing of this project."""
    with torch.no_grad():
        x = images.flatten(1)
        names = sorted({name.split(".")[0] for name in state})
        for name in names:
            if f"{name}.down.weight" in state:
                x = x @ state[f"{name}.down.weight"].T @ state[f"{name}.up.weight"].T + state[f"{name}.up.bias"]
            else:
                x = x @ state[f"{name}.weight"].T + state[f"{name}.bias"]
            if name != names[-1]:
                x = torch.relu(x)
        return float((x.argmax(1) == labels).double().mean())


def test_one_line_gives_a_smaller_model(run, tmp_path):
    result = run("prune", DIGITS, "-o", "small.safetensors")
    assert result.returncode == 0, result.stderr
    assert all(len(line) <= 100 for line in result.stdout.splitlines())
    assert "rank 10 of 512" in result.stdout
    assert "times smaller" in result.stdout
    state = load_file(tmp_path / "small.safetensors")
    assert state["fc2.down.weight"].shape == (10, 512)
    assert state["fc2.up.weight"].shape == (512, 10)
    torch.testing.assert_close(state["fc2.up.bias"], load_file(DIGITS)["fc2.bias"])
    # The product is the best approximation of that rank: its error is the tail of the singular values.
    weight = load_file(DIGITS)["fc2.weight"].double()
    product = state["fc2.up.weight"].double() @ state["fc2.down.weight"].double()
    tail = torch.linalg.svdvals(weight)[10:]
    assert torch.linalg.norm(weight - product) == pytest.approx(float(tail.norm()), rel=1e-5)


@pytest.mark.slow
@pytest.mark.traced
def test_json_names_what_was_done_and_the_numbers_hold(run, tmp_path):
    result = run("prune", DIGITS, "-o", "small.safetensors", "--data", "digits", "--sparsify", "0.01", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    layers = {layer["name"]: layer for layer in report["layers"]}
    assert layers["fc2"]["action"] == "factorized"
    assert layers["fc2"]["rank"] == layers["fc2"]["spikes"]
    assert layers["fc3"]["action"] == "skipped"
    assert "10 is below 32" in layers["fc3"]["reason"]
    assert report["totals"]["bytes_in"] == DIGITS.stat().st_size
    assert report["totals"]["bytes_out"] == (tmp_path / "small.safetensors").stat().st_size
    dense = rmt.load_dense(tmp_path / "small.safetensors")
    with rmt.open_checkpoint(tmp_path / "small.safetensors") as checkpoint:
        state = {name: checkpoint.read(name) for name in checkpoint.tensors}
    assert report["totals"]["nonzeros"] == sum(int((t != 0).sum()) for t in state.values())
    assert all((t[t != 0].abs() >= 0.01).all() for name, t in state.items() if name.endswith("weight"))

    from rmt_compress.data import load_data

    test = load_data("digits", split="test")
    before = plain_accuracy(load_file(DIGITS), test.images, test.labels)
    assert report["accuracy"]["before"] == pytest.approx(before, abs=1e-12)
    assert report["accuracy"]["after"] == pytest.approx(plain_accuracy(state, test.images, test.labels), abs=1e-12)
    assert report["accuracy"]["after"] == pytest.approx(plain_accuracy(dense, test.images, test.labels), abs=3e-3)
    assert {path.name for path in tmp_path.iterdir()} == {
        "small.safetensors",
        "small.sweep.csv",
        "small.sweep.json",
        "small.sweep.png",
    }


@pytest.mark.slow
@pytest.mark.realdata
def test_mnist_sample_is_five_times_smaller(run, tmp_path, real_data):
    source = MODELS / "mnist_mlp.safetensors"
    result = run(
        "prune", source, "-o", "s.safetensors", "--gof", "0.1", "--sparsify", "0.01", "--data", "mnist", "--json"
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert 5 * (tmp_path / "s.safetensors").stat().st_size <= source.stat().st_size
    from rmt_compress.data import load_data

    test = load_data("mnist", split="test")
    with rmt.open_checkpoint(tmp_path / "s.safetensors") as checkpoint:
        state = {name: checkpoint.read(name) for name in checkpoint.tensors}
    assert report["accuracy"]["before"] == pytest.approx(
        plain_accuracy(load_file(source), test.images, test.labels)
    )
    after = plain_accuracy(state, test.images, test.labels)
    assert report["accuracy"]["after"] == pytest.approx(after, abs=1e-3)
    assert after > report["accuracy"]["before"] - 0.025


@pytest.mark.slow
@pytest.mark.realdata
def test_fashion_sample_keeps_its_accuracy(run, tmp_path, real_data):
    """method.md §9: without data, a ninth of the weights at a fraction of a point."""
    source = MODELS / "fashion_mlp.safetensors"
    report = json.loads(run("prune", source, "-o", "s.safetensors", "--json").stdout)
    assert report["totals"]["nonzeros"] <= 0.13 * report["totals"]["parameters"]
    done = run("evaluate", "s.safetensors", "--against", source, "--data", "fashion-mnist", "--json")
    measured = json.loads(done.stdout)
    assert measured["model"]["accuracy"] >= measured["against"]["accuracy"] - 0.004


def test_default_output_and_only_checkpoint(run, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"")
    torch.save(nn.Sequential(nn.Linear(100, 80)).state_dict(), tmp_path / "model.pt")
    result = run("prune")
    assert result.returncode == 0, result.stderr
    assert "taking model.pt" in result.stderr
    assert (tmp_path / "model.pruned.pt").exists()


def test_dense_layout_loads_anywhere(run, tmp_path):
    result = run("prune", DIGITS, "-o", "dense.safetensors", "--layout", "dense")
    assert result.returncode == 0
    # What was done, not what the plan would have split.
    assert "truncated" in result.stdout
    assert "factorized" not in result.stdout
    state, original = load_file(tmp_path / "dense.safetensors"), load_file(DIGITS)
    assert {name: tensor.shape for name, tensor in state.items()} == {n: t.shape for n, t in original.items()}
    assert int(torch.linalg.matrix_rank(state["fc2.weight"].double(), rtol=1e-5)) == 10


def test_plan_is_saved_edited_and_carried_out(run, tmp_path):
    result = run("prune", DIGITS, "--dry-run", "--save-plan", "plan.json")
    assert result.returncode == 0, result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"plan.json"}
    plan = json.loads((tmp_path / "plan.json").read_text())
    (fc2,) = [layer for layer in plan["layers"] if layer["name"] == "fc2"]
    fc2["rank"] = 25
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert run("prune", DIGITS, "-o", "small.pt", "--plan", "plan.json").returncode == 0
    state = torch.load(tmp_path / "small.pt", weights_only=True)["state_dict"]
    assert state["fc2.down.weight"].shape == (25, 512)

    line = one_error_line(run("prune", DIGITS, "--plan", "plan.json", "--gof", "0.2"))
    assert "--gof cannot be combined with --plan" in line
    fc2["rank"] = 600
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert "rank 600 is above its 512" in one_error_line(run("prune", DIGITS, "-o", "x.pt", "--plan", "plan.json"))
    other = run("prune", MODELS / "mnist_mlp.safetensors", "-o", "x.pt", "--plan", "plan.json")
    assert "does not suit this checkpoint" in one_error_line(other)
    assert not (tmp_path / "x.pt").exists()


def test_rank_options(run, tmp_path):
    for options, rank in (
        (["--rule", "rank:40"], 40),
        (["--rank-multiple", "16"], 16),
        (["--keep-bulk", "0.1"], 10 + int(0.1 * 502)),
        (["--rule", "ratio:0.05"], 26),
    ):
        assert run("prune", DIGITS, "-o", "s.safetensors", "--force", "--include", "fc2", *options).returncode == 0
        assert load_file(tmp_path / "s.safetensors")["fc2.down.weight"].shape[0] == rank


def test_outputs_are_protected(run, tmp_path):
    source = tmp_path / "model.safetensors"
    source.write_bytes(DIGITS.read_bytes())
    assert "the output is the input" in one_error_line(run("prune", source, "-o", source, "--force"))
    assert source.read_bytes() == DIGITS.read_bytes()
    assert run("prune", source, "-o", "s.safetensors").returncode == 0
    before = (tmp_path / "s.safetensors").read_bytes()
    assert "exists already" in one_error_line(run("prune", source, "-o", "s.safetensors"))
    assert (tmp_path / "s.safetensors").read_bytes() == before
    assert "does not exist" in one_error_line(run("prune", source, "-o", "no/s.safetensors"))
    assert "compressed already" in one_error_line(run("prune", "s.safetensors", "-o", "t.safetensors"))
    assert "s.gguf" in one_error_line(run("prune", source, "-o", "s.gguf"))


def test_a_shard_of_the_input_is_not_overwritten(run, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(DIGITS.read_bytes())
    result = run("prune", folder, "-o", folder / "model.safetensors", "--force")
    assert "the output is the input" in one_error_line(result)
    assert run("prune", folder).returncode == 0
    assert (tmp_path / "folder.pruned.safetensors").exists()


def test_bad_settings_are_all_named(run):
    line = one_error_line(run("prune", DIGITS, "--keep-bulk", "2", "--rule", "magic", "--sparsify", "-1"))
    assert "keep-bulk must lie" in line
    assert "the rule must be" in line
    assert "sparsify must be" in line


def test_nothing_to_cut_writes_nothing(run, tmp_path):
    save_file({"a.weight": torch.randn(8, 8)}, tmp_path / "tiny.safetensors")
    assert one_error_line(run("prune", "tiny.safetensors"), status=1)
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.safetensors"}


def test_damaged_layer_is_left_alone(run, tmp_path):
    weight = torch.randn(64, 64)
    weight[1, 2] = float("nan")
    save_file({"bad.weight": weight, "good.weight": torch.randn(64, 64)}, tmp_path / "n.safetensors")
    result = run("prune", "n.safetensors", "-o", "o.safetensors", "--sparsify", "0.1")
    assert result.returncode == 2
    assert "bad.weight" in result.stderr
    state = load_file(tmp_path / "o.safetensors")
    torch.testing.assert_close(state["bad.weight"], weight, equal_nan=True)
    assert "good.down.weight" in state or "good.down.weight.bits" in state


def test_a_plan_that_changes_nothing_is_no_dry_run(run, tmp_path):
    save_file({"a.weight": torch.ones(2, 2)}, tmp_path / "a.safetensors")
    assert "--dry-run" not in run("prune", "a.safetensors").stdout
    torch.manual_seed(0)
    save_file({"a.weight": torch.randn(128, 64)}, tmp_path / "b.safetensors")
    assert "--dry-run" in run("prune", "b.safetensors", "--dry-run").stdout


def structured(rows, columns):
    """A matrix whose singular values fall evenly: nothing of it is noise."""
    left, _ = torch.linalg.qr(torch.randn(rows, columns))
    right, _ = torch.linalg.qr(torch.randn(columns, columns))
    return left @ torch.diag(torch.linspace(3, 0.01, columns) ** 3) @ right


def test_next_to_nothing_saved_is_said_with_what_saves_more(run, tmp_path):
    torch.manual_seed(0)
    state = {"big.weight": structured(600, 400), "small.weight": torch.randn(64, 64)}
    save_file(state, tmp_path / "model.safetensors")
    result = run("prune", "model.safetensors", "-o", "small.safetensors")
    assert result.returncode == 0, result.stderr
    line = next(line for line in result.stderr.splitlines() if "to save more" in line)
    command = line[line.index("rmt-compress ") :].partition(" (")[0].split()[1:]
    again = run(*command, "--json")
    assert again.returncode == 0, again.stderr
    totals = json.loads(again.stdout)["totals"]
    assert totals["nonzeros"] < 0.95 * totals["parameters"]
    assert totals["bytes_out"] < (tmp_path / "model.safetensors").stat().st_size


def test_a_file_that_grew_is_no_success(run, tmp_path):
    torch.manual_seed(0)
    save_file({"a.weight": torch.randn(40, 32).half()}, tmp_path / "tiny.safetensors")
    result = run("prune", "tiny.safetensors", "-o", "small.safetensors", "--sparsify", "0", "--keep-bulk", "0.5")
    assert result.returncode == 1
    assert "bytes larger than before" in result.stderr
    assert (tmp_path / "small.safetensors").exists()


def test_bad_data_and_architecture(run, tmp_path):
    assert "fantasy" in one_error_line(run("prune", DIGITS, "-o", "s.safetensors", "--data", "fantasy"))
    wrong = run("prune", DIGITS, "-o", "s.safetensors", "--data", "digits", "--arch", "mlp:64,100,10")
    assert "fc1.weight" in one_error_line(wrong)
    assert list(tmp_path.iterdir()) == []
