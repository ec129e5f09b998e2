"""`rmt-compress show` as a user types it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from tests.samples import compressed


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(compressed.network().state_dict(), path, {"architecture": "tests.samples.compressed:network"})
    return path


def test_table(run, tmp_path, source):
    compressed.write(tmp_path / "small.safetensors", source=source, sparsify=0.02)
    result = run("show", "small.safetensors")
    assert result.returncode == 0, result.stderr
    assert result.stderr == "next: rmt-compress evaluate small.safetensors --data DATA\n"
    assert "\x1b[" not in result.stdout
    assert all(len(line) <= 100 for line in result.stdout.splitlines())
    for text in (
        f"model.safetensors (safetensors), {source.stat().st_size:,} bytes",
        f"{(tmp_path / 'small.safetensors').stat().st_size:,} bytes",
        "architecture  tests.samples.compressed:network",
        "gof=0.1",
        "5×1200 + 40×5",
        "(bitmask)",
        ", fc, head: so the test wants it",
        "biases and other vectors",
    ):
        assert text in result.stdout
    (row,) = (line.split() for line in result.stdout.splitlines() if line.startswith("  fc "))
    assert row[:4] == ["fc", "factorized", "40×1200", "5"]


@pytest.mark.parametrize("name", ["small.safetensors", "small.pt"])
def test_json(run, tmp_path, source, name):
    small = compressed.write(tmp_path / name, source=source, sparsify=0.02)
    result = run("show", name, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["compressed"] is True
    assert report["source"]["name"] == "model.safetensors"
    layers = {layer["name"]: layer for layer in report["layers"]}
    fc = layers["fc"]
    assert (fc["action"], fc["rank"], fc["shape"], fc["factors"]) == (
        "factorized",
        5,
        [40, 1200],
        [[5, 1200], [40, 5]],
    )
    assert (fc["parameters_before"], fc["parameters"]) == (48_000, 5 * 1240)
    factors = [small.fc.down.weight, small.fc.up.weight]
    assert fc["nonzeros"] == sum(int(factor.count_nonzero()) for factor in factors) < fc["parameters"]
    assert layers["head"]["action"] == "kept"
    totals = report["totals"]
    assert totals["parameters"] == sum(parameter.numel() for parameter in small.parameters())
    assert totals["parameters_before"] == sum(parameter.numel() for parameter in compressed.network().parameters())
    assert totals["buffers"] == sum(buffer.numel() for buffer in small.buffers())
    assert totals["bytes"] == (tmp_path / name).stat().st_size


def test_dense_layout(run, tmp_path, source):
    compressed.write(tmp_path / "dense.pt", source=source, layout="dense")
    report = json.loads(run("show", "dense.pt", "--json").stdout)
    assert report["layout"] == "dense"
    assert all(layer["factors"] == [] for layer in report["layers"])
    assert report["totals"]["parameters"] == report["totals"]["parameters_before"]
    assert "as it was" in run("show", "dense.pt").stdout


def test_an_ordinary_checkpoint_is_listed_and_named_as_such(run, source):
    result = run("show", source)
    assert result.returncode == 0
    assert "was not compressed by rmt-compress" in result.stderr
    assert "40×1200" in result.stdout
    report = json.loads(run("show", source, "--json").stdout)
    assert report["compressed"] is False
    assert report["source"] is None


def test_the_only_one_here_and_what_a_killed_run_left(run, tmp_path, source):
    shutil.copy(source, tmp_path / ".model.safetensors.x1.safetensors")
    assert "taking model.safetensors" in run("show").stderr


def test_damaged_file_is_one_line(run, tmp_path, source):
    compressed.write(tmp_path / "small.safetensors", source=source)
    data = (tmp_path / "small.safetensors").read_bytes()
    (tmp_path / "small.safetensors").write_bytes(
        data.replace(b"rmt-compress/manifest/1", b"rmt-compress/manifest/9")
    )
    result = run("show", "small.safetensors")
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert "small.safetensors: its manifest is damaged or newer than this version" in line
    assert run("show", "nowhere.pt").returncode == 2


def test_names_cannot_write_to_the_terminal(run, tmp_path):
    save_file({"evil\x1b[2J\nname": torch.zeros(3, 3)}, tmp_path / "m.safetensors")
    result = run("show", "m.safetensors")
    assert result.returncode == 0
    assert "\x1b" not in result.stdout
    assert "evil\\x1b" in result.stdout
