"""Times of several runs, the machine they were taken on, and the report they go into."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@dataclass(frozen=True)
class Times:
    """Seconds of the runs of one thing."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle run."""
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        return f"{duration(self.median)} ({duration(min(self.seconds))}–{duration(max(self.seconds))})"


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        sizes: p of the fits, n = 2p.
        names: of the networks, see `networks.py`.
        runs: runs of everything but what follows.
        peer_runs: runs of the peers.
        gigabytes: size of the checkpoint whose peak memory is taken.
        hidden: width of the network in it.
        widths: p of the weights whose analysis grows.
        layers: how many there are of the layers whose number grows.
        block: width of the transformer blocks that workers share.
    """

    sizes: tuple[int, ...] = (500, 1000, 4096)
    names: tuple[str, ...] = ("large-mlp", "vgg16", "200-layers")
    runs: int = 5
    peer_runs: int = 3
    gigabytes: float = 2.0
    hidden: int = 2048
    widths: tuple[int, ...] = (512, 1024, 2048, 4096)
    layers: tuple[int, ...] = (25, 100, 400)
    block: int = 768


QUICK = Scale(
    sizes=(60,),
    names=("tiny",),
    runs=2,
    peer_runs=1,
    gigabytes=0.002,
    hidden=64,
    widths=(64, 128),
    layers=(8, 16),
    block=48,
)


def stopwatch(work: Callable[[], object]) -> float:
    """Seconds that one call of `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def processor_seconds(work: Callable[[], object], runs: int = 3) -> float:
    """Processor time of one call, all threads together; the median of some."""

    def once() -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    return statistics.median(once() for _ in range(runs))


def interleaved(
    sides: Mapping[str, Callable[[], float]], runs: int, *, short: Iterable[str] = (), repeats: int = 3
) -> dict[str, Times]:
    """Run all sides in turn, `runs` times over, so that a busy spell of the machine hits each of them.

    Args:
        sides: a name -> one run, which returns its seconds.
        runs: how often.
        short: sides that take a small part of the others' time, and are run `repeats` times in each turn: their
            medians scatter more.
        repeats: see `short`.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(runs):
        for name, run in sides.items():
            seconds[name].extend(run() for _ in range(repeats if name in short else 1))
    return {name: Times(tuple(values)) for name, values in seconds.items()}


def duration(seconds: float) -> str:
    """Seconds in a unit fit to read."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def ratio(slow: Times, fast: Times) -> str:
    """How many times as long the first takes."""
    return f"{slow.median / fast.median:.3g}×"


@dataclass
class Report:
    """Markdown, printed as it grows, and the numbers in it that are followed from run to run."""

    lines: list[str] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)

    def number(self, name: str, value: float) -> None:
        """Keep a number, a ratio of times as a rule, under a name that stays."""
        self.numbers[name] = float(f"{value:.3g}")

    def say(self, *paragraphs: str) -> None:
        """Add paragraphs."""
        for paragraph in paragraphs:
            self._add(paragraph, "")

    def table(self, header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
        """Add a table, the columns after the first aligned to the right."""
        names = list(header)
        self._add("| " + " | ".join(names) + " |", "|---|" + "---:|" * (len(names) - 1))
        self._add(*("| " + " | ".join(row) + " |" for row in rows), "")

    def target(self, what: str, met: bool) -> None:
        """Add whether a target of the project was met."""
        self.say(f"**{'Met' if met else 'Missed'}:** {what}.")

    def _add(self, *lines: str) -> None:
        self.lines.extend(lines)
        print(*lines, sep="\n", flush=True)

    @property
    def text(self) -> str:
        """The whole report, ending in one newline."""
        return "\n".join(self.lines).rstrip() + "\n"


def machine() -> list[str]:
    """The machine, the versions and the thread counts, one item each; warns when the machine is busy."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    names = ("rmt-compress", "torch", "numpy", "scipy", "safetensors")
    return [
        f"date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"machine: {_processor()}, {cores()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}",
        f"versions: Python {platform.python_version()}, " + ", ".join(f"{name} {_version(name)}" for name in names),
        f"threads: torch {torch.get_num_threads()}; {_thread_settings()}",
        f"load average at the start: {load:.1f}"
        + (" — other programs were running; ratios hold better than seconds" if load > 0.5 else ""),
    ]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "as it lies here"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def _thread_settings() -> str:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return ", ".join(f"{name} {os.environ.get(name, 'not set')}" for name in names)
