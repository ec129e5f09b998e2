"""The benchmark still runs, and its two sides still do the same work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rmt_compress.checkpoints import open_checkpoint
from tests.samples.repository import REPOSITORY

BENCHMARKS = REPOSITORY / "benchmarks"


def run(*arguments):
    """A Python process that finds the benchmark's modules."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=BENCHMARKS)


@pytest.mark.slow
def test_quick_parts_report_every_comparison(python, tmp_path):
    file = tmp_path / "report.md"
    parts = ("--parts", "fit", "eigenvalues", "jobs")
    done = python.run(BENCHMARKS / "analyze.py", "--quick", *parts, "--output", file)
    assert done.returncode == 0, done.stderr
    report = file.read_text()
    assert report.strip() == done.stdout.strip()
    for section in ("## One layer's fit", "## Whole networks against their bare eigenvalues", "## Workers"):
        assert section in report
    # One row per size or network, every ratio a number.
    rows = [line for line in report.splitlines() if line.startswith(("| 60 |", "| MLP 64,96,64,10 |"))]
    assert len(rows) == 4
    for cell in rows[0].split("|")[-4:-1]:
        assert float(cell.strip().removesuffix("×")) > 0
    assert report.count("**Met:**") + report.count("**Missed:**") == 5


@pytest.mark.slow
def test_a_run_of_all_in_short_is_a_line_of_the_history(python, tmp_path):
    parts = ("notebook", "size", "layers", "bytes", "workers")
    done = python.run(BENCHMARKS / "bench.py", "--quick", "--parts", *parts, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = (tmp_path / "history.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record == {
        key: value for key, value in json.loads((tmp_path / "bench.json").read_text()).items() if key in record
    }
    assert 1 < record["numbers"]["two workers, simulated"] <= 2
    assert all(value > 0 for value in record["numbers"].values())
    assert all(
        f"| {name} | {value:g} |" in (tmp_path / "bench.md").read_text()
        for name, value in record["numbers"].items()
    )


@pytest.mark.slow
def test_quick_prune_reports_every_comparison(python):
    done = python.run(BENCHMARKS / "prune.py", "--quick")
    assert done.returncode == 0, done.stderr
    titles = [line for line in done.stdout.splitlines() if line.startswith("## ")]
    assert titles == [
        "## Cutting MLP 64,96,64,10",
        "## Latency: MLP 64,96,64,10",
        "## Latency: --rank-multiple",
        "## Latency: the CIFAR-10 sample CNN",
    ]
    dense = [line for line in done.stdout.splitlines() if line.startswith("| dense |")]
    # Whatever is compared with itself is as large and as fast.
    assert all(line.split("|")[2:4] == [" 100.0% ", " 1.0× "] and line.count("(1×)") == 3 for line in dense)


@pytest.mark.slow
def test_quick_budget_compares_every_method(python, tmp_path):
    done = python.run(BENCHMARKS / "budget.py", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "budget.json").read_text())["rows"]
    assert [row["method"] for row in rows].count("uncut") == 1
    cut = [row for row in rows if row["method"] != "uncut"]
    assert len(cut) == 9 * 2
    assert all(("whole" in row) is (row["method"] == "rmt-compress, portfolio") for row in cut)
    # No method takes more than the others may, and all are asked twice where there are batch norms.
    assert all(0.8 * row["keep"] < row["left"] <= row["keep"] + 1e-9 and "renewed" in row for row in cut)
    assert {row["evaluations"] for row in cut if row["method"] == "rmt-compress, one rule"} == {0}
    table = (tmp_path / "budget.md").read_text()
    assert table.count("| BALF |") == 3  # as cut, statistics renewed, seconds
    assert (tmp_path / "budget.png").read_bytes().startswith(b"\x89PNG")
    # What has been measured is not measured again.
    again = python.run(BENCHMARKS / "budget.py", "--quick", "--out", tmp_path)
    assert again.stdout == ""
    assert (tmp_path / "budget.md").read_text() == table


@pytest.mark.slow
def test_quick_startup_says_what_a_small_file_takes(python):
    done = python.run(BENCHMARKS / "startup.py", "--quick")
    assert done.returncode == 0, done.stderr
    assert "| rmt-compress analyze |" in done.stdout
    assert "| interpreter |" in done.stdout
    assert "| 128 |" in done.stdout


@pytest.mark.slow
def test_quick_budget_does_not_overwrite_the_results(python):
    done = python.run(BENCHMARKS / "budget.py", "--quick")
    assert done.returncode == 2
    assert "add --out" in done.stderr


def test_the_table_of_budgets_is_that_of_its_numbers(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    record = json.loads((BENCHMARKS / "results" / "budget.json").read_text(encoding="utf-8"))
    table = (BENCHMARKS / "results" / "budget.md").read_text(encoding="utf-8")
    assert table == __import__("budget_report").markdown(record)
    assert set(record["networks"]) == {"lm", "resnet", "fashion_mlp", "cifar10_cnn"}


def test_joined_rows_of_another_run_take_the_place_of_the_same_ones(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def row(seed, score, method="BALF"):
        return {"network": "lm", "seed": seed, "method": method, "keep": 0.5, "score": score}

    first = {"machine": ["date: 1"], "networks": {"lm": "old"}, "rows": [row(0, 0.1), row(2, 0.2)]}
    other = {
        "machine": ["date: 2", "load average: 3", "versions: 4"],
        "networks": {"lm": "new"},
        "rows": [row(1, 0.3), row(0, 0.4), row(0, 0.9, "uncut")],
    }
    found = __import__("budget_report").joined(first, [other])
    assert [(each["seed"], each["score"]) for each in found["rows"]] == [(0, 0.4), (0, 0.9), (1, 0.3), (2, 0.2)]
    assert found["networks"] == {"lm": "new"}
    assert found["machine"] == ["date: 1", "another run: date: 2; load average: 3: lm, BALF, seeds 1, 0"]


def test_quadrature_agrees_with_our_fit_or_the_benchmark_stops(monkeypatch, rng):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import numpy as np
    import quadrature_peer

    from rmt_compress.spectrum import fit_bulk, noise_eigenvalues

    spectrum = np.append(noise_eigenvalues(39, 80, rng), 9.0)
    peer = quadrature_peer.fit(spectrum, 80)
    ours = fit_bulk(spectrum, 80, quantiles="paper")
    assert peer.sigma2 == pytest.approx(ours.sigma2, rel=1e-8)
    assert peer.lambda_plus == pytest.approx(ours.lambda_plus, rel=1e-5)  # the table's quantile has four digits
    assert peer.gof == pytest.approx(ours.gof, abs=1e-8)
    assert peer.spikes == ours.spikes == 1


def test_made_checkpoint_is_a_sharded_model_of_the_size_asked_for(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import make_checkpoint

    folder = tmp_path / "model"
    arguments = [str(folder), "--gigabytes", "0.004", "--hidden", "64", "--dtype", "float32"]
    monkeypatch.setattr(sys, "argv", ["make_checkpoint.py", *arguments])
    make_checkpoint.main()
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.tensors["lm_head.weight"].dtype == "float32"
        # Whole blocks only: at most one of 54,000 weights more than asked for.
        assert 4e6 <= 4 * checkpoint.parameters <= 4.3e6
        assert checkpoint.read("model.layers.0.mlp.down_proj.weight").shape == (64, 176)
    with pytest.raises(SystemExit, match="holds a checkpoint already"):
        make_checkpoint.main()


def test_shards_are_filled_in_turn(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import make_checkpoint

    total = make_checkpoint.make(tmp_path, gigabytes=0.002, hidden=64, shard_gigabytes=0.0005, experts=2)
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) >= 4
    assert all(shard.stat().st_size <= 0.0005e9 + 20_000 for shard in shards)
    with open_checkpoint(tmp_path) as checkpoint:
        assert 2 * checkpoint.parameters == total
        assert checkpoint.format == f"safetensors, {len(shards)} shards"
        # Every fourth block is a mixture of experts.
        assert checkpoint.tensors["model.layers.3.mlp.experts.gate_up_proj"].shape == (2, 176, 64)


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="no peak memory of a process on this system")
def test_memory_counts_what_the_process_held():
    program = "import json; x = bytearray({} * 10**6); print(json.dumps({{'totals': {{'layers_analyzed': 3}}}}))"
    peaks = []
    for size in (1, 400):
        command = [sys.executable, "-c", program.format(size)]
        done = run("-c", f"import json, memory; print(json.dumps(memory.measure({command!r})))")
        assert done.returncode == 0, done.stderr
        measured = json.loads(done.stdout)
        assert measured["layers"] == 3
        peaks.append(measured["peak_megabytes"])
    assert 380 < peaks[1] - peaks[0] < 420


def test_memory_reports_a_failing_command():
    done = run("-c", "import memory, sys; memory.measure([sys.executable, '-c', 'raise ValueError(17)'])")
    assert done.returncode == 1
    assert "ValueError: 17" in done.stderr


def test_networks_are_the_same_every_time(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import networks

    import rmt_compress

    first, second = (json.dumps(rmt_compress.analyze(networks.build("tiny")).to_json()) for _ in range(2))
    assert first == second
    spikes = [layer.fit.spikes for layer in rmt_compress.analyze(networks.build("tiny")).analyzed if layer.fit]
    assert all(count >= 5 for count in spikes), spikes


@pytest.mark.slow
def test_a_stream_is_gone_through_within_the_memory_of_a_few_batches(python):
    done = python.run(BENCHMARKS / "streaming.py", "--gigabytes", "1")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    # 51 batches of 19 MB each; two of every eight samples are the test part.
    assert report["test_samples"] == 51 * 32 // 4
    assert report["peak_megabytes"] < report["peak_megabytes_before"] + 400


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no memory of a process is told on this system")
def test_calibration_stays_within_its_limit_and_goes_on_after_a_kill(python):
    small = (
        BENCHMARKS / "calibration_memory.py",
        "--width",
        "512",
        "--layers",
        "3",
        "--memory",
        "8",
        "--vectors",
        "64",
    )
    done = python.run(*small)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # 4 MiB a layer and 1.5 beside: one at a time. What libraries keep for themselves is a few megabytes.
    assert found["passes"] >= 3
    assert 3 < found["beside"] < 8 + 8
    done = python.run(*small, "--kill")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["same"] is True
    assert found["killed"] is False or "calibration.json" in found["left"]


def test_workers_take_what_comes_next_and_the_longest_is_the_least(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import cluster

    found = cluster.simulated(lambda workers: [3.0, 2.0, 2.0, 1.0], 1.0)
    assert found["seconds"][:3] == [9.0, 5.0, 4.0]
    assert found["limit"] == 4.0 == found["seconds"][-1]


@pytest.mark.slow
def test_killed_half_way_a_large_checkpoint_is_gone_on_with(python, tmp_path):
    script = BENCHMARKS / "larger_than_memory.py"
    size = ("--gigabytes", "0.008", "--hidden", "96", "--words", "1536", "--experts", "2", "--jobs", "1")
    arguments = (*size, "--others", "--max-memory 800MB --jobs 2", "--output", tmp_path / "result.md")
    # The seven programs that it starts need not load torch: their memory is judged by nobody here.
    forking = "import subprocess, sys; from tests.samples.fork_server import Forked, become; "
    forking += "subprocess.Popen = Forked; become(sys.argv[1:])"
    done = python.run("-c", forking, script, tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "result.json").read_text())
    assert (tmp_path / "result.md").read_text().strip() == done.stdout.strip()
    analyze_killed, analyzed, prune_killed, pruned, undisturbed = record["runs"]
    assert record["same_bytes_with_others"]
    assert undisturbed["taken"] == 0
    # On a busy machine a kill may come when the last of such small layers is done.
    assert record["layers"] // 2 <= analyze_killed["kept"] == analyzed["taken"] <= record["layers"]
    assert prune_killed["taken"] == record["layers"]
    assert 0 < record["factors_kept_at_the_kill"] == pruned["taken"] <= record["layers_cut"]
    assert record["same_analysis_again"]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    # The others are memory, which 4 MB of weights say nothing of.
    assert done.stdout.count("**Met:** what was finished") == done.stdout.count("**Met:** the analysis is") == 1


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="no memory of a process is told here")
def test_streamed_calibration_is_killed_and_gone_on_with(python, tmp_path):
    pytest.importorskip("transformers")
    script = BENCHMARKS / "streamed_calibration.py"
    size = ("--gigabytes", "0.006", "--hidden", "128", "--max-memory", "335MB", "--inputs", "8", "64")
    done = python.run(script, tmp_path, *size, "--output", tmp_path / "result.md")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "result.md").read_text().strip() == done.stdout.strip()
    record = json.loads((tmp_path / "result.json").read_text())
    whole, blocks = record["runs"]
    assert 0 < record["measured_when_killed"] < blocks["blocks"] == 17
    assert whole["layers"] == blocks["layers"]
    # What was measured before the kill counts: a pass for each block but the one that measures nothing.
    assert blocks["passes"] == 16
    assert record["difference"] < 1e-5
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="no memory of a process is told here")
@pytest.mark.parametrize(("family", "blocks"), (("mixtral", 7), ("t5", 22)))
def test_streamed_calibration_of_other_families(python, tmp_path, family, blocks):
    pytest.importorskip("transformers", minversion="5")
    size = ("--gigabytes", "0.012", "--hidden", "128", "--max-memory", "340MB", "--inputs", "8", "64")
    words = ("--family", family, *size, "--output", tmp_path / "result.md")
    done = python.run(BENCHMARKS / "streamed_calibration.py", tmp_path, *words)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "result.json").read_text())
    assert 0 < record["measured_when_killed"] < record["runs"][1]["blocks"] == blocks
    assert record["rounding"]["blocks"] <= 2 * record["rounding"]["whole"] < 1e-2


@pytest.mark.slow
def test_quick_spectra_are_compared(python, tmp_path):
    file = tmp_path / "report.md"
    done = python.run(BENCHMARKS / "approximate_spectra.py", "--quick", "--output", file)
    assert done.returncode == 0, done.stderr
    report = file.read_text()
    assert report.count("\n| 300, ") == 5 + 4
    assert report.count("**Met:**") == 2
