"""`rmt-compress analyze` as a user types it."""

import csv
import json
import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

import rmt_compress as rmt
from rmt_compress.cli.app import main
from rmt_compress.errors import CheckpointError
from tests.samples.command_line import one_error_line


@pytest.fixture
def checkpoint(tmp_path):
    """Two layers that can be analysed, and a head that cannot."""
    path = tmp_path / "model.safetensors"
    state = {
        "fc1.weight": torch.randn(64, 100),
        "fc1.bias": torch.randn(64),
        "fc2.weight": torch.randn(48, 64) + torch.outer(torch.ones(48), torch.ones(64)),
        "head.weight": torch.randn(10, 48),
    }
    save_file(state, path)
    return path


def test_table(run, checkpoint):
    result = run("analyze", checkpoint)
    assert result.returncode == 0
    assert result.stderr == f"next: rmt-compress prune {checkpoint}\n"
    assert all(len(line) <= 100 for line in result.stdout.splitlines())
    assert "fc1" in result.stdout
    assert "noise" in result.stdout
    assert "1/48" in result.stdout
    assert "skipped head: min(rows, columns) = 10 is below 32" in result.stdout
    assert "2 layers analysed, 1 skipped, 1 bias or other vector" in result.stdout
    assert "\x1b[" not in result.stdout


def test_json_is_the_library_s_analysis(run, checkpoint):
    result = run("analyze", checkpoint, "--json", "--gof", "0.2", "--beta", "0.05", "--alpha", "0.2")
    assert result.returncode == 0
    report = json.loads(result.stdout)
    assert report == json.loads(json.dumps(rmt.analyze(checkpoint, gof=0.2, beta=0.05, alpha=0.2).to_json()))
    assert report["settings"]["gof"] == 0.2
    assert [layer["name"] for layer in report["layers"] if layer["status"] == "analyzed"] == ["fc1", "fc2"]


def test_paper_rule_differs(run, checkpoint):
    edges = [
        json.loads(run("analyze", checkpoint, "--json", "--quantiles", rule, "--include", "fc1.weight").stdout)
        for rule in ("midpoint", "paper")
    ]
    edges = [next(layer["edge"] for layer in report["layers"] if layer["edge"]) for report in edges]
    assert edges[0] != edges[1]
    assert edges[0] == pytest.approx(edges[1], rel=0.1)


@pytest.mark.slow
@pytest.mark.traced
def test_csv_and_plots(run, checkpoint, tmp_path):
    result = run("analyze", checkpoint, "--csv", "out.csv", "--plots", "pictures")
    assert result.returncode == 0, result.stderr
    with (tmp_path / "out.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert rows["fc1"]["shape"] == "64x100"
    assert float(rows["fc2"]["spikes"]) == 1
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["fc1.png", "fc2.png"]
    assert (tmp_path / "pictures" / "fc1.png").read_bytes().startswith(b"\x89PNG")
    again = run("analyze", checkpoint, "--csv", "out.csv")
    assert "out.csv: exists already" in one_error_line(again)
    again = run("analyze", checkpoint, "--plots", "pictures")
    assert "not empty" in one_error_line(again)
    assert run("analyze", checkpoint, "--csv", "out.csv", "--plots", "pictures", "--force").returncode == 0


def test_input_is_never_overwritten(run, checkpoint):
    before = checkpoint.read_bytes()
    assert "the output is the input" in one_error_line(run("analyze", checkpoint, "--csv", checkpoint, "--force"))
    assert checkpoint.read_bytes() == before


def test_sorting(run, checkpoint):
    def order(choice):
        rows = run("analyze", checkpoint, "--sort", choice).stdout.splitlines()
        return [line.split()[0] for line in rows if line.strip().startswith("fc")]

    assert order("order") == ["fc1", "fc2"]
    assert order("spikes") == ["fc2", "fc1"]
    assert order("size") == ["fc1", "fc2"]
    assert order("name") == ["fc1", "fc2"]


def test_the_only_checkpoint_here_is_taken(run, checkpoint, tmp_path):
    result = run("analyze")
    assert result.returncode == 0
    assert "taking model.safetensors" in result.stderr
    (tmp_path / "other.pt").write_bytes(b"")
    assert "several: model.safetensors, other.pt" in one_error_line(run("analyze"))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no checkpoint given, and none" in one_error_line(run("analyze", cwd=empty))


def test_nan_is_named_and_the_rest_analysed(run, tmp_path):
    weight = torch.randn(64, 64)
    weight[0, 0] = float("nan")
    save_file({"bad.weight": weight, "good.weight": torch.randn(64, 64)}, tmp_path / "nan.safetensors")
    result = run("analyze", "nan.safetensors", "--json")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "bad.weight skipped: 1 of its entries are NaN or Inf" in result.stderr
    layers = {layer["name"]: layer for layer in json.loads(result.stdout)["layers"]}
    assert layers["good"]["status"] == "analyzed"
    assert layers["bad"]["status"] == "skipped"


def test_nothing_to_analyse_says_why_for_each_tensor(run, tmp_path):
    save_file({"a.weight": torch.randn(4, 4), "b": torch.randn(3)}, tmp_path / "small.safetensors")
    result = run("analyze", "small.safetensors")
    assert "none of its 2 tensors can be analysed" in one_error_line(result, status=1)
    assert "skipped a: min(rows, columns) = 4 is below 32" in result.stdout
    assert "skipped b: a vector or scalar" in result.stdout


class Payload:
    """Runs code when unpickled."""

    def __reduce__(self):
        return (exec, ("open('ran', 'w')",))


BAD_FILES = {
    "empty.safetensors": b"",
    "empty.pt": b"",
    "text.pt": b"these are no weights\n",
    "huge_header.safetensors": (2**40).to_bytes(8, "little") + b"{}",
    "pickle.pt": pickle.dumps(Payload()),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file_is_one_line(run, tmp_path, name):
    (tmp_path / name).write_bytes(BAD_FILES[name])
    result = run("analyze", name)
    assert name in one_error_line(result)
    assert result.stdout == ""
    assert not (tmp_path / "ran").exists()


def test_other_bad_input(run, checkpoint, tmp_path):
    assert "nowhere.pt" in one_error_line(run("analyze", "nowhere.pt"))
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "folder" in one_error_line(run("analyze", folder))
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    assert "model.safetensors" in one_error_line(run("analyze", checkpoint))
    assert "alpha must lie between 0 and 0.5, got 0.7; beta must" in one_error_line(
        run("analyze", checkpoint, "--alpha", "0.7", "--beta", "2")
    )


def test_unknown_glob(run, checkpoint):
    assert "'fc9*' matches no layer; the layers are fc1, fc2, head" in one_error_line(
        run("analyze", checkpoint, "--include", "fc9*")
    )


def test_bad_usage_is_status_2(run):
    result = run("analyze", "--jobs", "0")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_as_a_process_of_its_own(run_process, checkpoint):
    """Streams, warnings as errors and exit status as a shell sees them, imports included."""
    command = [sys.executable, "-W", "error", "-m", "rmt_compress", "analyze", checkpoint, "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert json.loads(result.stdout)["totals"]["layers_analyzed"] == 2
    assert "nowhere.pt" in one_error_line(run_process("analyze", "nowhere.pt"))


def test_debug_shows_the_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["rmt-compress", "--debug", "analyze", str(tmp_path / "nowhere.pt")])
    with pytest.raises(CheckpointError, match=r"nowhere\.pt"):
        main()


def test_help_and_version(run):
    for args in (["--help"], ["analyze", "--help"], ["-h"]):
        result = run(*args)
        assert result.returncode == 0
        assert "Usage" in result.stdout
    assert run("--version").stdout.startswith("rmt-compress 0.")


def test_help_does_not_import_torch(run):
    code = (
        "import sys; from rmt_compress.cli.app import app; print({'torch', 'scipy', 'numpy'} & sys.modules.keys())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


@pytest.mark.slow
def test_table_says_what_the_layers_look_like(run, checkpoint):
    plain = run("analyze", checkpoint).stdout
    assert "Diagnosis: 1 noise, 1 noise plus spikes (--noise all says why)" in plain
    full = run("analyze", checkpoint, "--noise", "all").stdout
    assert "1 of 48 are spikes" in full
    assert "Hill α" in full
    assert "--noise all" not in full
