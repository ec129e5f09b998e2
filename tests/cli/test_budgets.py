"""`prune` within a budget as a user types it: with data, without, missed, from files, and wrong pairings."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

import rmt_compress as rmt
from tests.samples.command_line import one_error_line
from tests.samples.repository import DIGITS

ARCH = "mlp:64,512,512,10"


@pytest.fixture
def bare(tmp_path):
    """The sample without the name of its architecture, so that it cannot run."""
    save_file(load_file(DIGITS), tmp_path / "bare.safetensors")
    return tmp_path / "bare.safetensors"


@pytest.mark.slow
def test_a_share_of_the_weights_with_data(run, tmp_path):
    result = run("prune", DIGITS, "-o", "small.safetensors", "--keep", "0.2", "--data", "digits", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["verified"] == "measured"
    assert report["metric"] in ("plain", "input", "two-sided")
    assert report["budget"]["asked"] == {"keep": 0.2}
    state = load_file(tmp_path / "small.safetensors")
    left = sum(tensor.numel() for tensor in state.values())
    assert left / 301_066 == pytest.approx(report["budget"]["reached"]["keep"], abs=1e-9)
    assert 0.19 < left / 301_066 <= 0.2
    losses = {layer["name"]: layer["predicted_loss"] for layer in report["layers"]}
    assert losses["fc2"] > 0
    # A fifth of the weights costs this network next to nothing.
    assert report["accuracy"]["after"] >= report["accuracy"]["before"] - 0.01
    # Which samples chose is told, and that they are not those that score.
    assert "180 samples of digits (calibration)" in result.stderr
    assert "180 samples of digits (selection)" in result.stderr
    assert report["evaluation"]["after"]["samples"] == 180


@pytest.mark.slow
def test_without_data_the_network_makes_its_inputs(run, tmp_path):
    result = run("prune", DIGITS, "-o", "small.safetensors", "--keep", "0.2", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["verified"] == "synthetic"
    assert report["metric"] in ("input", "two-sided", "plain")
    budget = report["budget"]
    assert budget["score_name"] == "negative divergence"
    assert budget["score"] == max(each["score"] for each in budget["tried"]) < 0
    assert budget["rule"] == next(each["rule"] for each in budget["tried"] if each["score"] == budget["score"])
    assert "accuracy" not in report
    assert "inputs that the network made itself" in result.stderr
    assert "note: synthetic: no data say what the cut costs" in result.stderr
    assert report["totals"]["parameters_after"] <= 0.2 * 301_066


def test_a_file_that_cannot_run_is_unverified(run, bare):
    result = run("prune", bare, "-o", "small.safetensors", "--keep", "0.2", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["verified"], report["metric"]) == ("unverified", "plain")
    assert "note: unverified: the network does not run" in result.stderr
    assert report["totals"]["parameters_after"] <= 0.2 * 301_066


@pytest.mark.slow
@pytest.mark.traced
def test_a_drop_that_is_missed_writes_nothing_until_accepted(run, tmp_path):
    words = ("prune", DIGITS, "-o", "s.safetensors", "--keep", "0.03", "--max-drop", "0.5", "--data", "digits")
    missed = run(*words)
    assert "→ nothing written (the budget was missed)" in missed.stdout
    line = one_error_line(missed, status=1)
    assert re.search(r"budget was missed: the accuracy is \d+\.\d\d% where it was 96\.67%: -\d+\.\d\d points", line)
    assert line.endswith("nothing was written; --accept writes it")
    assert not list(tmp_path.iterdir())
    line = one_error_line(run(*words, "--accept"), status=1)
    # Options that no budget goes with are not advised.
    assert "s.safetensors: is written, but its accuracy" in line
    assert "; allow it more (--keep, --macs) or win it back: rmt-compress finetune" in line
    assert (tmp_path / "s.safetensors").is_file()


@pytest.mark.slow
def test_the_smallest_network_within_two_points(run, tmp_path):
    words = ("prune", DIGITS, "-o", "s.safetensors", "--max-drop", "2", "--data", "digits", "--json")
    result = run(*words)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["budget"]["drop"] <= 0.02
    assert report["budget"]["allowed"] == 0.02
    assert report["accuracy"]["before"] - report["accuracy"]["after"] <= 0.02
    assert report["totals"]["parameters_after"] < 0.1 * 301_066


@pytest.mark.slow
def test_moments_in_a_file_give_the_same_plan(run, tmp_path):
    words = ("prune", DIGITS, "--keep", "0.2", "--calibration-samples", "64", "--metric", "two-sided", "-o")
    first = run(*words, "a.safetensors", "--save-moments", "moments.safetensors", "--save-plan", "a.json")
    again = run(*words, "b.safetensors", "--moments", "moments.safetensors", "--save-plan", "b.json")
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    ours, theirs = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    # The plan makes the same file again where its moments are at hand, and only there.
    assert "needs the moments" in one_error_line(run("prune", DIGITS, "--plan", "a.json", "-o", "c.safetensors"))
    carried = run("prune", DIGITS, "--plan", "a.json", "--moments", "moments.safetensors", "-o", "c.safetensors")
    assert carried.returncode == 0, carried.stderr
    theirs = load_file(tmp_path / "c.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_another_budget_from_the_plan(run, tmp_path):
    """Neither data nor the network are read again, and what is asked at once is the same."""
    words = ("prune", DIGITS, "--calibration-samples", "64", "--search", "one", "-o")
    kept = ("--save-moments", "m", "--save-plan", "plan.json")
    assert run(*words, "a.safetensors", "--keep", "0.4", *kept).returncode == 0
    assert run(*words, "b.safetensors", "--keep", "0.2", "--moments", "m").returncode == 0
    another = ("prune", DIGITS, "--plan", "plan.json", "--moments", "m", "-o", "c.safetensors")
    assert "ask it for --keep alone" in one_error_line(run(*another, "--macs", "0.5"))
    result = run(*another, "--keep", "0.2")
    assert result.returncode == 0, result.stderr
    direct, again = load_file(tmp_path / "b.safetensors"), load_file(tmp_path / "c.safetensors")
    assert direct.keys() == again.keys()
    assert all(torch.equal(direct[name], again[name]) for name in direct)


@pytest.mark.slow
def test_the_fastest_network_within_a_point(run, tmp_path):
    """In a time that any machine keeps: what it takes is told, and not tested."""
    words = ("--latency", "100000ms", "--latency-batch", "4", "--max-drop", "1", "--data", "digits", "--json")
    result = run("prune", DIGITS, "-o", "s.safetensors", *words, "--save-plan", "plan.json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["budget"]["kind"] == "latency, max_drop"
    timed = report["budget"]["latency"]
    assert timed["allowed_ms"] == 100000
    assert timed["share"] == pytest.approx(timed["after_ms"] / timed["before_ms"])
    assert "one pass of 4 samples takes" in result.stderr
    times = json.loads((tmp_path / "plan.json").read_text())["times"]
    assert times["batch"] == 4
    assert "times" not in json.loads(rmt.open_checkpoint(tmp_path / "s.safetensors").manifest.plan.to_json())


@pytest.mark.slow
def test_moments_serve_a_file_that_cannot_run(run, bare, tmp_path):
    assert run("prune", DIGITS, "--keep", "0.2", "-o", "a.safetensors", "--save-moments", "m").returncode == 0
    result = run("prune", bare, "--keep", "0.2", "-o", "b.safetensors", "--moments", "m", "--json")
    report = json.loads(result.stdout)
    assert (report["verified"], report["metric"]) == ("unverified", "two-sided")


@pytest.mark.slow
@pytest.mark.traced
def test_moments_of_another_network(run, tmp_path):
    torch.manual_seed(0)
    other = torch.nn.Sequential(torch.nn.Linear(40, 48), torch.nn.ReLU(), torch.nn.Linear(48, 10))
    rmt.save_moments(rmt.calibrate(other, [torch.randn(16, 40)]), tmp_path / "m.safetensors")
    line = one_error_line(
        run("prune", DIGITS, "--keep", "0.2", "--moments", "m.safetensors", "-o", "s.safetensors")
    )
    assert "not those of this network" in line
    assert not (tmp_path / "s.safetensors").exists()


@pytest.mark.slow
def test_half_precision_is_calibrated_in_single(run, tmp_path):
    state = {name: tensor.half() for name, tensor in load_file(DIGITS).items()}
    save_file(state, tmp_path / "half.safetensors", {"architecture": ARCH})
    result = run("prune", "half.safetensors", "--keep", "0.2", "--data", "digits", "-o", "s.safetensors", "--json")
    assert result.returncode == 0, result.stderr
    assert {tensor.dtype for tensor in load_file(tmp_path / "s.safetensors").values()} == {torch.float16}
    assert json.loads(result.stdout)["accuracy"]["after"] > 0.95


@pytest.mark.slow
def test_a_folder_of_a_language_model(run, tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.LlamaConfig(
        vocab_size=256, max_position_embeddings=32, **sizes, pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    # As most folders store their weights; it computes in float32.
    transformers.LlamaForCausalLM(config).half().save_pretrained(tmp_path / "llama")
    (tmp_path / "text.txt").write_text("In the beginning was the word, and the word was long. " * 60)
    words = ("--data", "text:text.txt", "--sequence-length", "16", "--calibration-samples", "8")
    result = run("prune", "llama", "-o", "small", "--keep", "0.7", *words, "--selection-samples", "8", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["verified"] == "measured"
    assert report["budget"]["reached"]["keep"] <= 0.7
    assert report["score"]["after"] > 0
    assert (tmp_path / "small" / "config.json").is_file()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--keep", "0"), "keep must lie in (0, 1], got 0"),
        (("--keep", "0.2", "--calibrate", "nothing:there"), "importing nothing failed"),
        (("--keep", "0.2", "--calibrate", "digit"), "did you mean digits?"),
        (("--accept",), "--accept needs a budget: add --keep, --macs, --latency or --max-drop"),
        (("--moments", "m.safetensors"), "--moments needs a budget"),
        (("--save-moments", "m.safetensors"), "--save-moments needs a budget"),
        (("--caps", "fc1:0.5"), "--caps needs a budget"),
        (("--keep", "0.2", "--rule", "energy:0.9"), "--rule cannot be combined with a budget"),
        (("--keep", "0.2", "--shrink", "frobenius"), "--shrink cannot be combined with a budget"),
        (("--metric", "plain", "--plan", "plan.json"), "--metric cannot be combined with --plan"),
        (("--max-drop", "1", "--plan", "plan.json"), "--max-drop cannot be combined with --plan"),
        (("--keep", "0.2", "--plan", "plan.json"), "plan.json: cannot be read as a plan"),
        (("--keep", "0.2", "--times", "plan.json"), "--times needs a budget of time: add --latency"),
        (("--latency", "5"), "latency takes a share in (0, 1], or milliseconds as 5ms, got '5'"),
        (("--keep", "0.2", "--caps", "fc1"), "caps takes GLOB:SHARE"),
        (("--keep", "0.2", "--moments", "gone.safetensors"), "gone.safetensors"),
        (("--max-drop", "abc", "--data", "digits"), "got 'abc'"),
    ],
)
def test_what_does_not_go_together(run, tmp_path, words, says):
    assert says in one_error_line(run("prune", DIGITS, "-o", "s.safetensors", *words))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--max-drop", "1"), "max-drop needs a network that runs: add --arch"),
        (("--latency", "0.5"), "latency needs a network that runs: add --arch"),
        (("--latency", "5ms"), "latency needs a network that runs: add --arch"),
        (("--keep", "0.001"), "keep 0.001 cannot be reached: 0.0258 is the least there is"),
        (("--keep", "0.2", "--calibrate", "self"), "calibrating needs a network that runs: add --arch"),
        (("--keep", "0.2", "--save-moments", "m"), "calibrating needs a network that runs: add --arch"),
        (("--keep", "0.2", "--repair", "blocks"), "repair blocks needs a network that runs: add --arch"),
    ],
)
def test_a_file_that_cannot_run(run, bare, tmp_path, words, says):
    assert says in one_error_line(run("prune", bare, "-o", "s.safetensors", *words))
    assert [path.name for path in tmp_path.iterdir()] == ["bare.safetensors"]


@pytest.mark.parametrize("architecture", [{"architecture": ARCH}, None])
def test_damaged_weights(run, tmp_path, architecture):
    state = load_file(DIGITS)
    state["fc1.weight"][3, 4] = torch.nan
    save_file(state, tmp_path / "nan.safetensors", architecture)
    line = one_error_line(run("prune", "nan.safetensors", "--keep", "0.2", "-o", "s.safetensors"))
    assert "nan.safetensors: fc1.weight: 1 of its entries are NaN or Inf" in line
    assert not (tmp_path / "s.safetensors").exists()


def test_an_empty_file(run, tmp_path):
    (tmp_path / "empty.safetensors").touch()
    line = one_error_line(run("prune", "empty.safetensors", "--keep", "0.2"))
    assert "empty.safetensors: is empty" in line


@pytest.mark.slow
@pytest.mark.traced
def test_without_data_cuts_are_compared_with_the_network_as_it_was(run):
    """Not with the cut itself, which stands in the network's place while it is tried."""
    report = json.loads(run("prune", DIGITS, "--max-drop", "5", "--dry-run", "--json").stdout)
    cuts = [each for each in report["budget"]["tried"] if each["rule"] != "uncut"]
    assert min(each["score"] for each in cuts) < 0.95 <= max(each["score"] for each in cuts)


@pytest.mark.slow
@pytest.mark.traced
def test_a_drop_without_data_says_what_it_was_seen_on(run, tmp_path):
    result = run("prune", DIGITS, "-o", "s.safetensors", "--keep", "0.03", "--max-drop", "0.1")
    assert result.returncode == 1
    line = result.stderr.splitlines()[-1]
    assert "the budget was missed" in line
    assert "samples that chose it, made by the network itself" in line
    assert not (tmp_path / "s.safetensors").exists()


@pytest.mark.slow
def test_calibrating_with_the_data_themselves_sees_none_that_score(run, tmp_path):
    calls = [("--data", "digits"), ("--data", "digits", "--calibrate", "digits")]
    said = []
    for index, options in enumerate(calls):
        result = run("prune", DIGITS, "-o", f"{index}.safetensors", "--keep", "0.5", "--search", "one", *options)
        assert result.returncode == 0, result.stderr
        said.append(next(line for line in result.stderr.splitlines() if "calibrated with" in line))
    assert said[0] == said[1]
    assert (tmp_path / "0.safetensors").read_bytes() == (tmp_path / "1.safetensors").read_bytes()
