"""What goes on around a run: a small disk, one that takes nothing, inputs that change, a second writer."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.faults.trials import Bench, Trial, complaints


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A disk of so many bytes in memory, mounted at a folder; needs root."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "faults", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def _remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def full_disks(bench: Bench, count: int) -> Iterator[Trial]:
    """Run on disks that have room for the inputs and for shares of what is written, and again with room for all."""
    held = bench.folder.parent / f"{bench.work.name}-disk"
    held.mkdir(exist_ok=True)
    for number in range(count):
        size = bench.needs + (number * bench.writes // count // 4096 + 1) * 4096
        with small_disk(held, size):
            there = bench.at(held / "run")
            before = there.prepare(existed=False)
            ended = there.run(bench.work.arguments)
            fault = "disk too small"

            yield there.judged(ended, before, fault, then=partial(_remount, held, f"size={8 * size + (1 << 26)}"))


def read_only(bench: Bench) -> Iterator[Trial]:
    """Write to a disk that takes nothing."""
    held = bench.folder.parent / f"{bench.work.name}-disk"
    held.mkdir(exist_ok=True)
    for existed in (False, True):
        with small_disk(held, 1 << 26):
            there = bench.at(held / "run")
            before = there.prepare(existed=existed)
            _remount(held, "ro")
            ended = there.run(bench.work.arguments)
            yield there.judged(ended, before, "read-only disk", then=partial(_remount, held, "rw"))


def _halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(bytes(reversed(path.read_bytes())))
    other.replace(path)


def _remove(path: Path) -> None:
    path.unlink()


CHANGES: dict[str, Callable[[Path], None]] = {
    "cut in half": _halve,
    "emptied": _empty,
    "replaced": _replace,
    "removed": _remove,
}
"""What may happen to an input while it is read."""


def changing_inputs(bench: Bench, file: str, most: int) -> Iterator[Trial]:
    """Stop a run at calls on an input or right behind them, change the input, and let it go on.

    Args:
        bench: what is disturbed.
        file: the input, below the folder.
        most: of so many calls, evenly chosen.
    """
    touching = [
        number for number, call in enumerate(bench.calls) if f"/{file}" in call.text or f'"{file}"' in call.text
    ]
    if not file or not touching:
        return
    # Where the file is mapped into memory its values are taken between these calls, with none of their own.
    last = min(touching[-1] + 40, len(bench.calls) - 1)
    places = sorted({*touching, *range(touching[0], last, max(1, (last - touching[0]) // most))})
    for number in range(min(most, len(places))):
        call = bench.calls[places[number * len(places) // min(most, len(places))]]
        name, change = list(CHANGES.items())[number % len(CHANGES)]
        before = bench.prepare(existed=number % 8 < 4)

        inject = f"{call.name}:signal=STOP:when={call.count}"
        ended = bench.run(bench.work.arguments, inject=inject, stopped=partial(change, bench.folder / file))
        yield bench.judged(ended, before, f"input {name}", then=bench.put_inputs)


def two_writers(bench: Bench, count: int) -> Iterator[Trial]:
    """Run twice at once in one folder, and see that the output is that of one of them."""
    for number in range(count):
        before = bench.prepare(existed=number % 2 == 0)
        with ThreadPoolExecutor(2) as pool:
            both = list(pool.map(lambda _: bench.run(bench.work.arguments), range(2)))
        trial = bench.judged(both[0], before, "two at once")
        trial.problems += [problem for problem in complaints(both[1]) if problem not in trial.problems]
        if not any(ended.status == 0 for ended in both):
            trial.problems.append("neither has ended well")
        yield trial


def why_not_mounted() -> str | None:
    """Why no disk can be made here; None where one can."""
    if os.geteuid() != 0:
        return "a disk in memory can only be mounted by root"
    place = Path("/tmp/faults-mount-check")
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "none", place], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        subprocess.run(["umount", "-l", place], check=False)
    place.rmdir()
    return f"no disk can be mounted here: {done.stderr.strip()[:200]}" if done.returncode else None
