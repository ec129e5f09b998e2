"""Approximate spectra against exact ones: what both routes of `analyze` say of a weight, and how long they take.

    python benchmarks/approximate_spectra.py                       # everything: ten minutes on an idle machine
    python benchmarks/approximate_spectra.py --sizes 4096          # some of it
    python benchmarks/approximate_spectra.py --networks FILE …     # other networks
    python benchmarks/approximate_spectra.py --quick               # tiny sizes: whether the script still runs

Made weights of p × p: even noise, spikes planted in it, the same rounded to bfloat16, entries of heavy tails
(Student's t of 3 degrees of freedom), and rows and columns of uneven variance. They are not those that the stages
of the approximate route were chosen with, whose seeds were p and p + 1. Both routes run in turn, as often as --runs
says, and medians are compared. Of networks every layer is forced through the approximate route, however small.

A complete run replaces benchmarks/results/approximate_spectra.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from measuring import Report, machine
from numpy.typing import NDArray

import rmt_compress
from rmt_compress.analysis import AnalysisSettings, AnalyzedLayer, approximating
from rmt_compress.analysis.noise_models import NOISE_MODELS, Measured, NoiseFit
from rmt_compress.spectrum import UncertainSpectrumError

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "approximate_spectra.md"
SHARED = HERE.parents[1] / "shared" / "models"
SIZES = (4096, 8192)
# Of what is asked whether the stated errors hold.
COVERED = (2048, 3000)
# Beside p, the seed of a made weight: 0 and 1 are those of the weights which stages of the route were chosen with.
SEED = 2
# What is asked of the approximate route: its edge as a share, its fit error, its spikes (one in a hundred, or one),
# and how many times faster it is.
EDGE, GOF, SPIKES = 0.005, 0.005, 0.01
FASTER = {4096: 3.0, 8192: 6.0}


@dataclass(frozen=True)
class Difference:
    """How far an approximate layer is from an exact one: edge as a share, fit error, spikes."""

    edge: float
    gof: float
    spikes: int
    of: int

    @property
    def small(self) -> bool:
        """Whether it is as small as is asked."""
        return self.edge <= EDGE and self.gof <= GOF and self.spikes <= max(1, SPIKES * self.of)


def difference(approximate: AnalyzedLayer, exact: AnalyzedLayer) -> Difference:
    """The difference between two analyses of one layer."""
    one, other = approximate.fit, exact.fit
    return Difference(
        abs(one.edge / other.edge - 1), abs(one.gof - other.gof), abs(one.spikes - other.spikes), other.spikes
    )


def noise(p: int, generator: torch.Generator) -> torch.Tensor:
    """Even Gaussian noise."""
    return torch.randn(p, p, generator=generator)


def spiked(p: int, generator: torch.Generator) -> torch.Tensor:
    """Noise with sixty spikes of 1.1 to 6 times the least that shows."""
    rank = min(60, p // 8)
    left = torch.linalg.qr(torch.randn(p, rank, generator=generator))[0]
    right = torch.linalg.qr(torch.randn(p, rank, generator=generator))[0]
    strengths = p**0.5 * torch.linspace(1.1, 6, rank)
    planted: torch.Tensor = (left * strengths) @ right.T
    return noise(p, generator).add(planted)


def heavy(p: int, generator: torch.Generator) -> torch.Tensor:
    """Entries of Student's t of three degrees of freedom."""
    squares = torch.zeros(p, p)
    for _ in range(3):
        squares += torch.randn(p, p, generator=generator) ** 2
    return noise(p, generator).div(squares.div(3).sqrt())


def uneven(p: int, generator: torch.Generator) -> torch.Tensor:
    """Noise whose rows and columns have log-normal scales."""
    rows, columns = (0.5 * torch.randn(2, p, generator=generator)).exp()
    return noise(p, generator).mul(rows[:, None]).mul(columns)


INPUTS: dict[str, Callable[[int, torch.Generator], torch.Tensor]] = {
    "even noise": noise,
    "60 spikes": spiked,
    "60 spikes, bfloat16": lambda p, generator: spiked(p, generator).bfloat16(),
    "heavy tails": heavy,
    "uneven rows and columns": uneven,
}


@dataclass(frozen=True)
class Run:
    """One analysis of a weight."""

    layer: AnalyzedLayer
    seconds: float
    processor: float


def run(weight: torch.Tensor, *, exact: bool) -> Run:
    """Analyse one weight."""
    start, processor = time.perf_counter(), time.process_time()
    layer = rmt_compress.analyze({"weight": weight}, exact=exact, jobs=1).analyzed[0]
    return Run(layer, time.perf_counter() - start, time.process_time() - processor)


def part_inputs(report: Report, sizes: Sequence[int], runs: int) -> None:
    """Made weights."""
    header = ["p, weight", "route", "edge off by", "said", "fit error off by", "said"]
    header += ["spikes", "off by", "exact, wall (processor)", "approximate", "ratio of wall", "of processor"]
    rows, large, slow = [], [], []
    for p in sizes:
        for name, make in INPUTS.items():
            weight = make(p, torch.Generator().manual_seed(p + SEED))
            both = [(run(weight, exact=True), run(weight, exact=False)) for _ in range(runs)]
            off, route = difference(both[0][1].layer, both[0][0].layer), both[0][1].layer.route
            error = route.approximation
            if not off.small:
                large.append(f"{p} {name}")
            walls = [median(pair[side].seconds for pair in both) for side in (0, 1)]
            processors = [median(pair[side].processor for pair in both) for side in (0, 1)]
            ratio = median(pair[0].processor / pair[1].processor for pair in both)
            if ratio < FASTER.get(p, 1.0):
                slow.append(f"{p} {name} {ratio:.1f}×")
            rows.append(
                [
                    f"{p}, {name}",
                    "approximate" if error else "exact",
                    f"{off.edge:.3%}",
                    f"{error.edge_error:.2%}" if error else "–",
                    f"{off.gof:.4f}",
                    f"{error.gof_error:.4f}" if error else "–",
                    f"{off.of}",
                    f"{off.spikes}",
                    *(f"{wall:.2f} s ({used:.2f} s)" for wall, used in zip(walls, processors, strict=True)),
                    f"{median(pair[0].seconds / pair[1].seconds for pair in both):.1f}×",
                    f"{ratio:.1f}×",
                ]
            )
            print(rows[-1], file=sys.stderr, flush=True)
    report.say(
        "## Made weights",
        "*Route* is the one that was taken in the end; *said* is the error that the approximate route states "
        "itself (2.6 standard errors and the bias that it sees). Ratios are medians of those of runs side by side; "
        "those of processor time count, as the machine is shared. Where an error stays beyond its tolerance, "
        "`analyze` takes the exact route by itself, and its table says why.",
    )
    report.table(header, rows)
    report.target(
        f"edges within {EDGE:.1%}, fit errors within {GOF}, spikes within one, or one in a hundred"
        + (f", but not {', '.join(large)}" if large else ""),
        not large,
    )
    asked = ", ".join(f"{ratio:g} at {p}" for p, ratio in FASTER.items() if p in sizes)
    if asked:
        report.target(
            f"times faster in processor time: {asked}" + (f"; below: {', '.join(slow)}" if slow else ""), not slow
        )


def _fitted(values: NDArray[np.float64], n: int) -> NoiseFit:
    """Marchenko and Pastur's fit to the singular values of a matrix with n columns."""
    return NOISE_MODELS["mp"].fit(Measured(values, n, lambda: np.empty(0)), AnalysisSettings())


def part_coverage(report: Report, sizes: Sequence[int], seeds: int) -> None:
    """How often the error that the route states is as large as the one it makes, over choices of its directions."""
    rows, all_within = [], []
    for p in sizes:
        for name, make in INPUTS.items():
            if "bfloat16" in name:
                continue
            weight = make(p, torch.Generator().manual_seed(p + SEED))
            exact = run(weight, exact=True).layer
            within, far = [], [0.0, 0.0, 0.0]
            for seed in range(seeds):
                try:
                    _, found, route = approximating.ApproximateSpectrum(weight, seed).fit(partial(_fitted, n=p))
                except UncertainSpectrumError:
                    continue
                error, fit = route.approximation, found.fit
                assert error is not None
                off = (
                    abs(fit.edge / exact.fit.edge - 1),
                    abs(fit.gof - exact.fit.gof),
                    float(abs(fit.spikes - exact.fit.spikes)),
                )
                said = (error.edge_error, error.gof_error, max(1.0, error.spikes_error))
                within.append([each <= most for each, most in zip(off, said, strict=True)])
                far = [max(pair) for pair in zip(far, off, strict=True)]
            all_within += within
            counts = [sum(column) for column in zip(*within, strict=True)] or [0, 0, 0]
            rows.append(
                [
                    f"{p}, {name}",
                    f"{len(within)} of {seeds}",
                    *(f"{count} of {len(within)}" for count in counts),
                    f"{far[0]:.3%}",
                    f"{far[1]:.4f}",
                    f"{far[2]:.0f}",
                ]
            )
            print(rows[-1], file=sys.stderr, flush=True)
    report.say(
        "## Whether the stated errors hold",
        f"The same weights, each with {seeds} choices of the random directions: how many answers are believed, "
        "how many of these are within the error they state (spikes: or within one), and the farthest one is off.",
    )
    header = ["p, weight", "believed", "edge within", "fit error within", "spikes within"]
    report.table([*header, "farthest edge", "fit error", "spikes"], rows)
    if all_within:
        shares = [sum(column) / len(all_within) for column in zip(*all_within, strict=True)]
        named = zip(shares, ("edges", "fit errors", "spikes"), strict=True)
        said_of = ", ".join(f"{share:.1%} of the {what}" for share, what in named)
        report.target(f"at least 95 in 100 within what is stated: {said_of}", min(shares) >= 0.95)


def part_networks(report: Report, files: Sequence[Path]) -> None:
    """Every layer of networks, forced through the approximate route."""
    rows, large = [], []
    for file in files:
        exact = {layer.tensor: layer for layer in rmt_compress.analyze(file, exact=True).analyzed}
        known, approximating.SMALLEST = approximating.SMALLEST, 2
        try:
            layers = rmt_compress.analyze(file).analyzed
        finally:
            approximating.SMALLEST = known
        believed = [layer for layer in layers if layer.route.approximation is not None]
        off = [difference(layer, exact[layer.tensor]) for layer in believed]
        large += [layer.name for layer, each in zip(believed, off, strict=True) if not each.small]
        rows.append(
            [
                f"{file.parent.name}/{file.name}" if file.is_file() else file.name,
                f"{len(layers)}",
                f"{len(believed)}",
                f"{max((each.edge for each in off), default=0):.3%}",
                f"{max((each.gof for each in off), default=0):.4f}",
                f"{max((each.spikes for each in off), default=0)}",
            ]
        )
    report.say(
        "## Networks",
        "Every layer is asked of the approximate route here, which `analyze` does of large ones alone; most small "
        "ones are refused, as chance is too great in few directions, and found exactly.",
    )
    header = ["network", "layers", "believed", "largest difference of edges", "of fit errors", "of spikes"]
    report.table(header, rows)
    report.target("what is believed is as exact" + (f", but not {', '.join(large)}" if large else ""), not large)


def networks() -> list[Path]:
    """The networks at hand."""
    samples = sorted(path for path in (HERE.parent / "sample_models").iterdir() if path.suffix != ".py")
    shared = [SHARED / "lm", SHARED / "resnet" / "resnet.pt"]
    return [path for path in samples if path.suffix in (".pt", ".safetensors")] + [
        path for path in shared if path.exists()
    ]


def main() -> None:
    """Read the command line, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", type=int, default=SIZES, help="p of the made weights; none for none")
    parser.add_argument("--networks", nargs="*", type=Path, help="by default all at hand; none for none")
    parser.add_argument("--runs", type=int, default=3, help="of both routes for each made weight")
    parser.add_argument("--seeds", type=int, default=20, help="choices of directions, 0 for none")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--output", type=Path, help=f"by default {RESULTS} after a complete run, else none")
    arguments = parser.parse_args()
    sizes, runs = ([300], 1) if arguments.quick else (arguments.sizes, arguments.runs)
    files = networks() if arguments.networks is None else arguments.networks
    if arguments.quick:
        files = files[:1]
        approximating.SMALLEST = 2
    report = Report()
    report.say(
        "# Approximate spectra against exact ones",
        f"Written by `python benchmarks/approximate_spectra.py`: medians of {runs} runs.",
    )
    report.say("\n".join(f"- {item}" for item in machine()))
    warm = torch.randn(2048, 2048)  # imports what it imports on first use
    for exact in (True, False):
        run(warm[:64, :64] if exact else warm, exact=exact)
    if sizes:
        part_inputs(report, sizes, runs)
    if arguments.seeds:
        part_coverage(report, [300] if arguments.quick else COVERED, 2 if arguments.quick else arguments.seeds)
    if files:
        part_networks(report, files)
    complete = not arguments.quick and tuple(sizes) == SIZES and arguments.networks is None
    output = arguments.output or (RESULTS if complete else None)
    if output is not None:
        output.write_text(report.text)
        print(f"written to {output}", file=sys.stderr)


if __name__ == "__main__":
    main()
