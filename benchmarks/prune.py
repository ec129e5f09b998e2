"""What pruning takes, and what a factorized network wins: time against a full SVD, latency and size against dense.

    python benchmarks/prune.py           # everything: more than three minutes on an idle 2-core machine
    python benchmarks/prune.py --quick   # tiny sizes: whether the script still runs

The sides of a comparison run in turn and medians are compared. A complete run replaces
benchmarks/results/prune.md.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import networks
import torch
from measuring import Report, Times, duration, interleaved, machine, ratio, stopwatch
from torch import nn

import rmt_compress as rmt
from rmt_compress.compression import compress
from rmt_compress.networks.loading import load_model
from rmt_compress.plan import Plan
from rmt_compress.planning.making import make_plan

RESULTS = Path(__file__).parent / "results" / "prune.md"
SAMPLE_CNN = Path(__file__).parents[1] / "sample_models" / "cifar10_cnn.pt"
BATCHES = (1, 32, 512)
QUICK_BATCHES = (1, 2, 4)


def time_of_factorization(report: Report, network: str, runs: int) -> None:
    """`compress` by BEMA's plan against the full SVD of the same weights."""
    model = networks.build(network)
    plan = make_plan(rmt.analyze(model))
    cut = [decision for decision in plan.layers if decision.rank is not None]
    weights = [model.get_parameter(decision.tensor).detach().flatten(1) for decision in cut]

    def full_svd() -> None:
        for weight in weights:
            torch.linalg.svd(weight, full_matrices=False)

    times = interleaved(
        {
            "compress": lambda: stopwatch(lambda: compress(model.state_dict(), plan)),
            "full SVD": lambda: stopwatch(full_svd),
        },
        runs,
    )
    report.say(
        f"## Cutting {networks.describe(network)}",
        f"{len(cut)} layers cut to ranks {', '.join(str(decision.rank) for decision in cut)}, against "
        "`torch.linalg.svd` of each of these weights.",
    )
    report.table(("", "median (range)"), [(name, str(value)) for name, value in times.items()])
    report.say(f"The full SVD takes {ratio(times['full SVD'], times['compress'])} as long.")
    report.number(f"full SVD, {network}", times["full SVD"].median / times["compress"].median)


def latency(
    report: Report,
    title: str,
    model: nn.Module,
    shape: Sequence[int],
    plans: Sequence[tuple[str, Plan]],
    runs: int,
    *,
    quick: bool,
) -> None:
    """Latency and size of a network and its factorized forms at several batch sizes."""
    batches = QUICK_BATCHES if quick else BATCHES
    forms = [("dense", model), *((name, compress(model, plan)) for name, plan in plans)]
    rows = []
    times = {batch: _times([form for _, form in forms], torch.rand(batch, *shape), runs) for batch in batches}
    full = sum(parameter.numel() for parameter in model.parameters())
    dense_bytes = _bytes(model)
    for index, (name, form) in enumerate(forms):
        count = sum(parameter.numel() for parameter in form.parameters())
        cells = [f"{duration(times[b][index].median)} ({ratio(times[b][0], times[b][index])})" for b in batches]
        rows.append((name, f"{count / full:.1%}", f"{dense_bytes / _bytes(form):.1f}×", *cells))
    report.say(
        f"## Latency: {title}", "In brackets how many times as fast as the dense network; below 1 is slower."
    )
    report.table(("", "parameters", "smaller file", *(f"batch {batch}" for batch in batches)), rows)


def _times(forms: Sequence[nn.Module], inputs: torch.Tensor, runs: int) -> list[Times]:
    def side(form: nn.Module) -> Callable[[], float]:
        return lambda: stopwatch(lambda: form(inputs))

    with torch.inference_mode():
        for form in forms:
            form.eval()(inputs)
        times = interleaved({str(index): side(form) for index, form in enumerate(forms)}, runs)
    return list(times.values())


def _bytes(model: nn.Module) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return rmt.save(model, Path(folder) / "model.safetensors").bytes


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    quick = parser.parse_args().quick
    report = Report()
    report.say("# Benchmark of `rmt-compress prune`", *machine())
    network, width = ("tiny", 64) if quick else ("large-mlp", 784)
    time_of_factorization(report, network, 1 if quick else 3)

    mlp = networks.build(network)
    analysis = rmt.analyze(mlp)
    rules = [
        ("spikes only (BEMA)", "bema", 1),
        *((f"{share:.0%} of the ranks", f"ratio:{share}", 1) for share in (0.08, 0.25, 0.4)),
    ]
    plans = [(name, make_plan(analysis, rule=rule)) for name, rule, _ in rules]
    runs = 5 if quick else 30
    latency(report, networks.describe(network), mlp, (width,), plans, runs, quick=quick)

    # 67 is prime: what does rounding up to friendly numbers win?
    odd = "rank:7" if quick else "rank:67"
    plans = [
        (f"{odd}, multiple of {multiple}", make_plan(analysis, rule=odd, rank_multiple=multiple))
        for multiple in ((1, 8) if quick else (1, 8, 16, 32, 64))
    ]
    latency(report, "--rank-multiple", mlp, (width,), plans, runs, quick=quick)

    cnn = load_model(SAMPLE_CNN)
    analysis = rmt.analyze(cnn)
    plans = [
        ("prune's defaults", make_plan(analysis)),
        ("all layers, 30 % of the bulk", make_plan(analysis, gof=1.0, keep_bulk=0.3)),
        ("all layers, spikes only", make_plan(analysis, gof=1.0)),
    ]
    latency(report, "the CIFAR-10 sample CNN", cnn, (3, 32, 32), plans, 2 if quick else 20, quick=quick)
    if not quick:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(report.text, encoding="utf-8")


if __name__ == "__main__":
    main()
