"""Time of compressing a network against a full SVD of each of its weights.

    python benchmarks/prune.py [--repeat N]

Wall-clock times on one busy machine say little by themselves: the two are timed in turns and the ratio of the
fastest of each is what is printed last.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import networks
import torch

from rmt_compress import analyze
from rmt_compress.compression import compress
from rmt_compress.plan import make_plan

_T = TypeVar("_T")


def time_of_factorization(network: str = "large-mlp", repeat: int = 3) -> float:
    """Print seconds for the analysis, for `compress` by BEMA's plan and for the full SVD of the same weights.

    Returns:
        time of the full SVDs divided by that of `compress`.
    """
    model = networks.build(network)
    print(f"{networks.describe(network)}, {torch.get_num_threads()} threads")
    analysis, seconds = _timed(lambda: analyze(model))
    print(f"  analyze                    {seconds:8.2f} s")
    plan = make_plan(analysis)
    for decision in plan.layers:
        if decision.rank is not None:
            print(f"  {decision.name:10} {'×'.join(map(str, decision.shape)):>12}  {decision.reason}")
    weights = [
        model.get_parameter(decision.tensor).detach() for decision in plan.layers if decision.rank is not None
    ]

    def full_svd() -> None:
        for weight in weights:
            torch.linalg.svd(weight.flatten(1), full_matrices=False)

    ours, theirs = [], []
    for _ in range(repeat):
        ours.append(_timed(lambda: compress(model.state_dict(), plan))[1])
        theirs.append(_timed(full_svd)[1])
    for name, times in (("compress", ours), ("torch.linalg.svd of each", theirs)):
        print(f"  {name:26} {min(times):8.2f} s  (median of {repeat}: {statistics.median(times):.2f})")
    ratio = min(theirs) / min(ours)
    print(f"  compress is {ratio:.1f} times as fast as the full SVD of what it cuts")
    return ratio


def _timed(work: Callable[[], _T]) -> tuple[_T, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--network", default="large-mlp")
    arguments = parser.parse_args()
    time_of_factorization(arguments.network, arguments.repeat)


if __name__ == "__main__":
    main()
