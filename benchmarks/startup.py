"""How long `rmt-compress` takes until it answers about a small file, and what of it is loading libraries.

    python benchmarks/startup.py                      # a minute
    python benchmarks/startup.py --against FOLDER     # another checkout of the project beside this one
    python benchmarks/startup.py --quick              # one run of little: whether the script still works

Every run is a process of its own. Beside the seconds on the clock stands the processor time of all its threads,
user and system, which other programs disturb less. Runs of all commands take turns. A complete run replaces
benchmarks/results/startup.md.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from statistics import median
from unittest.mock import patch

from measuring import Report, Times, duration, interleaved, machine

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results" / "startup.md"
MODEL = REPOSITORY / "sample_models" / "digits_mlp.safetensors"
PROGRAM = ("-m", "rmt_compress")
QUICK = {
    "python -c pass": ("-c", "pass"),
    "python -c 'import numpy'": ("-c", "import numpy"),
    "rmt-compress analyze": (*PROGRAM, "analyze", str(MODEL)),
}
COMMANDS = {
    **QUICK,
    "rmt-compress analyze --json": (*PROGRAM, "analyze", "--json", str(MODEL)),
    "rmt-compress show": (*PROGRAM, "show", str(MODEL)),
    "rmt-compress --help": (*PROGRAM, "--help"),
    "rmt-compress prune --dry-run": (*PROGRAM, "prune", "--dry-run", str(MODEL)),
    "python -c 'import torch'": ("-c", "import torch"),
}
LIMIT = 0.7
RUNS = 11
# p of the matrices whose eigenvalues both libraries find, and of the layers that both analyse.
SIZES = (64, 128, 256, 512, 768, 1024, 1536, 2048)
# Processor time from the beginning of the interpreter to the end of each part, in one process.
PARTS = """
import sys, time
at = [time.process_time()]
import rmt_compress.cli.app, rmt_compress.cli.analyze
at.append(time.process_time())
import numpy
at.append(time.process_time())
import rmt_compress.analysis.analyzing, rmt_compress.checkpoints.moved, rmt_compress.analysis.without_torch
at.append(time.process_time())
import io, contextlib
from rmt_compress.analysis.analyzing import analyze_with
from rmt_compress.analysis.settings import AnalysisSettings
analyze_with(sys.argv[1], AnalysisSettings())
at.append(time.process_time())
sys.argv = ["rmt-compress", "analyze", sys.argv[1]]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    rmt_compress.cli.app.main()
at.append(time.process_time())
print(*at)
"""
NAMES = ("interpreter", "command line", "numpy", "our modules", "analysis", "the whole command again, all loaded")


def main() -> None:
    """Read the command line, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout, to set beside this one")
    parser.add_argument("--runs", type=int, default=RUNS, help=f"of each command, {RUNS} by default")
    parser.add_argument("--quick", action="store_true", help="one run of little, nothing written")
    asked = parser.parse_args()
    report = Report()
    report.say("# How long a small file takes", "\n".join(f"- {line}" for line in machine()))
    runs = 1 if asked.quick else asked.runs
    commands(report, runs, asked.against, QUICK if asked.quick else COMMANDS)
    parts(report, runs)
    roads(report, 1 if asked.quick else 5, SIZES[:2] if asked.quick else SIZES)
    if not asked.quick:
        RESULTS.write_text(report.text, encoding="utf-8")


def commands(report: Report, runs: int, against: Path | None, asked: Mapping[str, tuple[str, ...]]) -> None:
    """Whole commands, from the start of the interpreter to its end."""
    folders = {"": REPOSITORY} | ({"before": against.resolve()} if against else {})
    cpu: dict[str, list[float]] = {}

    def run(name: str, words: tuple[str, ...], folder: Path) -> Callable[[], float]:
        def once() -> float:
            clock, used = process(words, folder)
            cpu.setdefault(name, []).append(used)
            return clock

        return once

    sides = {
        f"{name} {place}".strip(): run(f"{name} {place}".strip(), words, folder)
        for name, words in asked.items()
        for place, folder in folders.items()
        if not place or "rmt_compress" in words
    }
    if runs > 1:  # the disk's cache, and compiled modules
        for once in sides.values():
            once()
        cpu.clear()
    clock = interleaved(sides, runs)
    base = median(cpu["python -c 'import numpy'"])
    report.say(f"## Commands, {runs} runs each: median (range)", f"`{MODEL.name}`, {MODEL.stat().st_size:,} bytes.")
    header = ["command", "processor", "on the clock", "times `import numpy`"]
    rows = []
    for name, times in clock.items():
        row = [name, str(Times(tuple(cpu[name]))), str(times), f"{median(cpu[name]) / base:.1f}"]
        if against:
            before = cpu.get(f"{name} before")
            row.append(f"{median(before) / median(cpu[name]):.1f}×" if before else "")
        rows.append(row)
    report.table([*header, "before : now"] if against else header, rows)
    found = median(cpu["rmt-compress analyze"])
    report.target(f"`analyze` of a 1 MB file below {LIMIT} s of processor time: {duration(found)}", found < LIMIT)


def process(words: tuple[str, ...], folder: Path) -> tuple[float, float]:
    """Seconds on the clock and of all processors that a Python process takes, the project being in a folder."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    # Elsewhere, as Python looks for modules in the current folder first.
    subprocess.run(
        [sys.executable, *words], cwd=tempfile.gettempdir(), env=environment, capture_output=True, check=True
    )
    clock, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return clock, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def parts(report: Report, runs: int) -> None:
    """What one process spends its time on."""
    found: list[list[float]] = []
    for _ in range(runs):
        done = subprocess.run(
            [sys.executable, "-c", PARTS, str(MODEL)],
            cwd=tempfile.gettempdir(),
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=True,
        )
        at = [0.0, *map(float, done.stdout.splitlines()[-1].split())]
        found.append([after - before for before, after in pairwise(at)])
    report.say(f"## Its parts, processor time, median of {runs} runs")
    columns = zip(NAMES, zip(*found, strict=True), strict=True)
    report.table(["part", "seconds"], [[name, duration(median(seconds))] for name, seconds in columns])


def roads(report: Report, runs: int, sizes: tuple[int, ...]) -> None:
    """Layers of one size, analysed in a process that has loaded torch already, by numpy and by torch."""
    import torch

    import rmt_compress
    from rmt_compress.analysis import threads

    def analysis(model: torch.nn.Module, numpy: bool) -> Callable[[], float]:
        def once() -> float:
            with patch.object(threads, "suits_numpy", return_value=numpy):
                start = time.process_time()
                rmt_compress.analyze(model, jobs=1)
                return time.process_time() - start

        return once

    report.say(
        f"## Numpy or torch, processor time of {runs} runs: median (range)",
        "One p × 2p layer in float32, `--jobs 1`, both libraries loaded.",
    )
    rows = []
    torch.set_num_threads(1)
    for p in sizes:
        model = torch.nn.Linear(2 * p, p, bias=False)
        sides = {"numpy": analysis(model, True), "torch": analysis(model, False)}
        for once in sides.values() if runs > 1 else ():  # tables of the law of this size, libraries not loaded yet
            once()
        times = interleaved(sides, runs)
        loss = times["numpy"].median / times["torch"].median
        rows.append([str(p), str(times["numpy"]), str(times["torch"]), f"{loss:.2f}"])
    report.table(["p", "numpy", "torch", "numpy : torch"], rows)


if __name__ == "__main__":
    main()
