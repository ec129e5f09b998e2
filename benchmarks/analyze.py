"""How fast and how lean `rmt-compress analyze` is, beside what people would use otherwise.

    python benchmarks/analyze.py                      # what `make bench` leaves out: some minutes on two idle cores
    python benchmarks/analyze.py --parts fit help     # some of it
    python benchmarks/analyze.py --quick              # tiny sizes: whether the script still runs

Parts: ``eigenvalues`` whole networks against their bare eigenvalue computations; ``jobs`` one worker against one
per core; ``memory`` the peak on a 2 GB checkpoint, which is made and deleted; ``help`` the time of --help. And
those of `make bench`, at more sizes: ``fit`` one layer against quadrature, ``notebook`` from its entries on;
``peer`` whole networks against WeightWatcher, which is installed into benchmarks/.venv-weightwatcher on first use.

The sides of a comparison run in turn and medians are compared. A run without --parts replaces
benchmarks/results/analyze.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import networks
import numpy as np
import quadrature_peer
import torch
from measuring import (
    QUICK,
    Report,
    Scale,
    Times,
    duration,
    interleaved,
    machine,
    processor_seconds,
    ratio,
    stopwatch,
)
from numpy.typing import NDArray
from whole_networks import part_eigenvalues, part_jobs, part_peer

import rmt_compress
from rmt_compress.spectrum import (
    bulk,
    fit_bulk,
    fit_error_p_value,
    fit_error_quantile,
    marchenko_pastur,
    noise_eigenvalues,
    tracy_widom,
)

FloatArray = NDArray[np.float64]

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "analyze.md"


def part_fit(report: Report, scale: Scale) -> None:
    """One layer's fit, its spectrum known."""
    report.say(
        "## One layer's fit",
        "Spectrum known, p eigenvalues of p × 2p noise. Ours: `fit_bulk`, the null point and the p-value; *cold*: "
        "the first in its process, all caches empty; *new size*: the first of its size, with the Tracy–Widom "
        "quantile known; *warm*: a layer of that size came before. Peer: the same fit by one adaptive quadrature "
        "per value and one root search per quantile (`quadrature_peer.py`).",
    )
    rows = []
    for p in scale.sizes:
        spectrum = noise_eigenvalues(p, 2 * p, np.random.default_rng(p))
        _check_against_peer(spectrum)
        emptied = {"cold": (bulk, marchenko_pastur, tracy_widom), "new size": (bulk, marchenko_pastur), "warm": ()}
        ours = {state: partial(_fit_seconds, spectrum, modules) for state, modules in emptied.items()}
        quadrature = {"peer": partial(stopwatch, partial(quadrature_peer.fit, spectrum, 2 * p))}
        # A few runs among the peer's, for the same busy spells; ours are so short that they need more of them.
        times = interleaved(quadrature | ours, scale.peer_runs)
        again = interleaved(ours, 3 * scale.runs)
        times |= {side: Times(times[side].seconds + again[side].seconds) for side in ours}
        cells = [*map(str, times.values()), *(ratio(times["peer"], times[state]) for state in ours)]
        rows.append([f"{p:,}", *cells])
    report.table(["p", "quadrature", *ours, *(f"ratio {state}" for state in ours)], rows)
    for state in ours:
        report.number(f"quadrature, p = {scale.sizes[-1]}, {state}", times["peer"].median / times[state].median)
        median = times[state].median
        report.target(f"{scale.sizes[-1]:,} eigenvalues, {state}, under 20 ms: {duration(median)}", median < 0.02)


def _fit_seconds(spectrum: FloatArray, emptied: Iterable[ModuleType]) -> float:
    for module in emptied:
        for member in vars(module).values():
            if hasattr(member, "cache_clear"):
                member.cache_clear()
    return stopwatch(lambda: _fit(spectrum))


def _fit(spectrum: FloatArray) -> None:
    p, n = len(spectrum), 2 * len(spectrum)
    found = fit_bulk(spectrum, n)
    fit_error_quantile(0.95, p, n)
    fit_error_p_value(found.gof, p, n)


def _check_against_peer(spectrum: FloatArray) -> None:
    """Both sides of the comparison must do the same work: compare their numbers under the paper's rule."""
    peer = quadrature_peer.fit(spectrum, 2 * len(spectrum))
    ours = fit_bulk(spectrum, 2 * len(spectrum), quantiles="paper")
    same = np.allclose(
        (ours.sigma2, ours.lambda_plus, ours.gof), (peer.sigma2, peer.lambda_plus, peer.gof), rtol=1e-4, atol=1e-7
    )
    if not same or ours.spikes != peer.spikes:
        raise AssertionError(f"the fits disagree: ours {ours}, quadrature {peer}")


def part_notebook(report: Report, scale: Scale) -> None:
    """One weight from its entries on, as the published notebook goes about it."""
    report.say(
        "## One weight by the published notebook's route",
        "A p × 2p weight: its whole SVD and the fit by quadrature (`quadrature_peer.py`, our own writing of the "
        "published formulas), against `rmt_compress.analyze`; processor time.",
    )
    rows = []
    for p in scale.sizes:
        weight = np.random.default_rng(p).standard_normal((p, 2 * p)).astype(np.float32)

        def notebook(weight: NDArray[np.float32] = weight, n: int = 2 * p) -> None:
            values = np.linalg.svd(weight, full_matrices=False)[1].astype(np.float64)
            quadrature_peer.fit(np.sort(values**2 / n), n)

        slow = processor_seconds(notebook, 1)
        fast = processor_seconds(partial(rmt_compress.analyze, {"fc.weight": torch.from_numpy(weight)}, jobs=1))
        rows.append([f"{p:,}", duration(slow), duration(fast), f"{slow / fast:.3g}×"])
        report.number(f"notebook's route, p = {p}", slow / fast)
    report.table(["p", "notebook's route", "ours", "ratio"], rows)


def part_memory(report: Report, scale: Scale) -> None:
    """Peak memory on a large sharded checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        size = f"--gigabytes={scale.gigabytes}", f"--hidden={scale.hidden}"
        _run(sys.executable, HERE / "make_checkpoint.py", folder, *size)
        total = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
        measured = json.loads(_run(sys.executable, HERE / "memory.py", folder))
    peak = measured["peak_megabytes"]
    report.say(
        "## Memory",
        f"`rmt-compress analyze FOLDER --json` on {total / 1e9:.3g} GB of sharded bfloat16 safetensors, "
        f"{measured['layers']} layers: peak of {peak:.0f} MB resident, {measured['seconds']:.1f} s.",
    )
    report.target(f"peak below 1 GB: {peak:.0f} MB", peak < 1000)


def part_help(report: Report, scale: Scale) -> None:
    """Start of the program."""
    program = Path(sys.executable).with_name("rmt-compress")
    commands = {"help": [str(program), "--help"], "python": [sys.executable, "-c", "pass"]}
    times = interleaved({name: partial(stopwatch, partial(_run, *words)) for name, words in commands.items()}, 10)
    report.say(
        "## Start",
        f"`rmt-compress --help`: {times['help']}; `python -c pass`: {times['python']}.",
    )
    report.target(f"--help below 0.3 s: {duration(times['help'].median)}", times["help"].median < 0.3)


def _run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


PARTS: dict[str, Callable[[Report, Scale], None]] = {
    "fit": part_fit,
    "notebook": part_notebook,
    "peer": part_peer,
    "eigenvalues": part_eigenvalues,
    "jobs": part_jobs,
    "memory": part_memory,
    "help": part_help,
}
# What bench.py records is not recorded here once more.
OWN = ("eigenvalues", "jobs", "memory", "help")


def main() -> None:
    """Read the command line, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, help=f"by default {' '.join(OWN)}")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--runs", type=int, help=f"of what is short, {Scale.runs} by default")
    parser.add_argument("--peer-runs", type=int, help=f"of the peers, {Scale.peer_runs} by default")
    parser.add_argument("--output", type=Path, help=f"by default {RESULTS} after a complete run, else none")
    arguments = parser.parse_args()
    parts = arguments.parts or OWN
    complete = not arguments.quick and set(parts) == set(OWN)
    scale = QUICK if arguments.quick else Scale()
    scale = replace(scale, runs=arguments.runs or scale.runs, peer_runs=arguments.peer_runs or scale.peer_runs)
    report = Report()
    report.say(
        "# Benchmark of `analyze`",
        f"Written by `python benchmarks/analyze.py`: medians (fastest–slowest) of {scale.runs} runs, "
        f"{scale.peer_runs} where a peer takes part.",
    )
    report.say("\n".join(f"- {item}" for item in machine()))
    rmt_compress.analyze(networks.build("tiny"))  # imports what it imports on first use
    for name in parts:
        PARTS[name](report, scale)
    output = arguments.output or (RESULTS if complete else None)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(report.text)
        print(f"written to {output}", file=sys.stderr)


if __name__ == "__main__":
    main()
