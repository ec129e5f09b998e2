"""The published examples at their published size, several seeds at a time on one GPU.

    python experiments/full_scale.py OUT --lanes 8 --seconds 520    # on a machine with a GPU
    python experiments/full_scale.py OUT --collect                  # tables and pictures of what is there
    python experiments/full_scale.py OUT --quick --only bssz24_mnist --seconds 60   # does it run at all?

OUT/lines.jsonl gets one JSON line per seed as it is finished: the same command again skips those and goes on with
the others. What is there is committed in experiments/data/reproduction/full: with that as OUT the runs that
docs/reproduction.md says are left are done. Runs that the end of the time breaks off leave what they had in
OUT/unfinished.jsonl; no table shows them. `WANTED` is the order: what the scaled-down runs of docs/reproduction.md
left open comes first. A run whose estimate no longer fits into the time gives way to a shorter one.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from published import FOLDER, Arms, Example, Scale, rounded

from rmt_compress.outputs import replacing


class Wanted(NamedTuple):
    """Runs of one example.

    Attributes:
        example: the name of its script.
        arms: of it; none for all.
        seeds: of each.
        seconds: that one is thought to take beside others on an H100.
    """

    example: str
    arms: tuple[str, ...]
    seeds: range
    seconds: float


_RELU = ("nothing", "L1+L2", "pruning", "pruning, L1+L2")
WANTED = (
    Wanted("sjk23_splitting", ("normal", "recursive", "recombine"), range(1), 220),
    Wanted("sjk23_deep", (), range(1), 100),
    Wanted("bssz24_mnist", (), range(1), 85),
    Wanted("fashion_regularization", tuple(f"{each} | final ReLU" for each in _RELU), range(1), 280),
    Wanted("sparsification", ("low rank, after", "alone, after", "low rank, during"), range(1), 255),
    Wanted("bssz24_mnist", (), range(1, 3), 85),
    Wanted("noisy_regression", (), range(2), 18),
    Wanted("initializations", (), range(1), 36),
    Wanted("gradient_descent", (), range(1), 450),
    Wanted("bssz24_mnist", (), range(3, 5), 85),
    Wanted("fashion_regularization", tuple(f"{each} | no final ReLU" for each in _RELU), range(1), 280),
    Wanted("sjk23_deep", (), range(1, 2), 100),
    Wanted("initializations", (), range(1, 3), 36),
    Wanted("noisy_regression", (), range(2, 5), 18),
    Wanted("convolutional_networks", ("MNIST, pruned", "MNIST, normal"), range(1), 120),
    Wanted("sjk23_splitting", ("normal", "recursive"), range(1, 2), 220),
    Wanted("dead_outputs", (), range(8), 13),
    Wanted("sparsification", ("alone, during",), range(1), 255),
    Wanted("bssz24_mnist", (), range(5, 10), 85),
    Wanted("sparsification", ("low rank, after", "alone, after", "low rank, during"), range(1, 2), 255),
    Wanted("convolutional_networks", ("Fashion-MNIST, pruned", "Fashion-MNIST, normal"), range(1), 250),
)


class Job(NamedTuple):
    """One run: what it is, and how long it is thought to take."""

    example: str
    arm: str
    seed: int
    seconds: float

    @property
    def key(self) -> tuple[str, str, int]:
        """What it is."""
        return self.example, self.arm, self.seed


@dataclass
class Lane:
    """A process that does one job after another.

    Attributes:
        process: it.
        pipe: to it and from it.
        job: what it is at; None while it waits.
        begun: when it began that, in seconds.
        events: what it has told of it.
    """

    process: multiprocessing.process.BaseProcess
    pipe: Connection
    job: Job | None = None
    begun: float = 0.0
    events: list[dict[str, Any]] = field(default_factory=list)


def example(name: str) -> Example:
    """The example of a script beside this one."""
    found: Example = importlib.import_module(name).EXAMPLE
    return found


def jobs(scale: Scale, only: tuple[str, ...] = ()) -> list[Job]:
    """All that is wanted, first things first."""
    listed = []
    for wanted in WANTED:
        if only and wanted.example not in only:
            continue
        works = (example(wanted.example).works or (lambda _: {}))(scale)
        for seed in wanted.seeds:
            arms = [arm for arm in wanted.arms or works if arm in works or scale != "quick"]
            listed += [Job(wanted.example, arm, seed, wanted.seconds) for arm in arms or works]
    return list(dict.fromkeys(listed))


def work(pipe: Connection, scale: Scale) -> None:
    """A lane: jobs come in, events and runs go out."""
    import torch

    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    torch.set_float32_matmul_precision("high")
    while (job := pipe.recv()) is not None:
        works = example(job.example).works
        assert works is not None
        asked = works(scale)[job.arm]
        pipe.send(("settings", asked.settings()))
        try:
            run = asked.one(job.seed, lambda event: pipe.send(("event", event)))
        # Whatever a run may fail of is told, and the others go on.
        except Exception:
            pipe.send(("error", traceback.format_exc()))
        else:
            pipe.send(("run", run))


class Runner:
    """Keeps the lanes busy until all is done or the time is over.

    Args:
        folder: where lines go.
        scale: of the runs.
        lanes: how many processes.
        seconds: time in all.
    """

    def __init__(self, folder: Path, scale: Scale, lanes: int, seconds: float) -> None:
        self._folder, self._scale = folder, scale
        self._deadline = time.monotonic() + seconds
        # A GPU wants processes that are new from the start; to see whether it all works, copies of this one do.
        quick = scale == "quick"
        context = multiprocessing.get_context("fork") if quick else multiprocessing.get_context("spawn")
        self._process: Callable[..., multiprocessing.process.BaseProcess] = context.Process
        self._lanes = [self._lane() for _ in range(lanes)]
        self._pace: list[float] = []
        self._settings: dict[tuple[str, str, int], Any] = {}
        self._written = 0.0

    def go(self, waiting: list[Job]) -> None:
        """Do the jobs; every end of one is on disk before the next begins."""
        for lane in self._lanes:
            self._next(lane, waiting)
        while any(lane.job for lane in self._lanes) and (left := self._deadline - time.monotonic()) > 0:
            ready = wait([lane.pipe for lane in self._lanes if lane.job], timeout=min(left, 5.0))
            for lane in [lane for lane in self._lanes if lane.pipe in ready]:
                self._heard(lane, waiting)
            if time.monotonic() - self._written > 15:
                self._write_unfinished()
        self._write_unfinished()
        for lane in self._lanes:
            lane.process.kill()

    def _lane(self) -> Lane:
        ours, theirs = multiprocessing.Pipe()
        process = self._process(target=work, args=(theirs, self._scale), daemon=True)
        process.start()
        theirs.close()
        return Lane(process, ours)

    def _next(self, lane: Lane, waiting: list[Job]) -> None:
        """Give a lane the first job that should fit into the time, else the first there is."""
        lane.job, lane.events = None, []
        if not waiting:
            return
        left = self._deadline - time.monotonic()
        pace = median(self._pace) if self._pace else 1.0
        job = next((each for each in waiting if each.seconds * pace <= left), waiting[0])
        waiting.remove(job)
        lane.job, lane.begun = job, time.monotonic()
        lane.pipe.send(job)

    def _heard(self, lane: Lane, waiting: list[Job]) -> None:
        assert lane.job is not None
        try:
            kind, what = lane.pipe.recv()
        except EOFError:
            kind, what = "error", f"the process ended by itself ({lane.process.exitcode})"
            lane.process.join()
            fresh = self._lane()
            lane.process, lane.pipe = fresh.process, fresh.pipe
        if kind == "event":
            lane.events.append(what)
        elif kind == "settings":
            self._settings[lane.job.key] = what
        else:
            seconds = time.monotonic() - lane.begun
            self._tell(lane.job, kind, seconds, what)
            if kind == "run":
                self._pace.append(seconds / lane.job.seconds)
                self._add({**self._head(lane, seconds), "finished": True, "run": what}, "lines.jsonl")
            else:
                self._add({**self._head(lane, seconds), "error": what}, "errors.jsonl")
            self._next(lane, waiting)

    def _tell(self, job: Job, kind: str, seconds: float, what: Any) -> None:
        left = self._deadline - time.monotonic()
        last = (what.get("events") or [{}])[-1].get("test_accuracy", "") if kind == "run" else what.splitlines()[-1]
        print(
            f"{left:5.0f} s left: {' / '.join(map(str, job.key))}: {kind} after {seconds:.0f} s {last}", flush=True
        )

    def _head(self, lane: Lane, seconds: float) -> dict[str, Any]:
        assert lane.job is not None
        name, arm, seed = lane.job.key
        return {
            **{"example": name, "arm": arm, "seed": seed, "scale": self._scale, "seconds": round(seconds, 1)},
            **machine(),
            "date": time.strftime("%Y-%m-%d"),
            "lanes": len(self._lanes),
            "settings": self._settings.get(lane.job.key),
        }

    def _add(self, line: dict[str, Any], name: str) -> None:
        with (self._folder / name).open("a", encoding="utf-8") as file:
            file.write(written(line))

    def _write_unfinished(self) -> None:
        now = self._written = time.monotonic()
        with replacing(self._folder / "unfinished.jsonl") as path, path.open("w", encoding="utf-8") as file:
            for lane in self._lanes:
                if lane.job is not None and lane.events:
                    run = {"seed": lane.job.seed, "events": lane.events}
                    line = {**self._head(lane, now - lane.begun), "finished": False, "run": run}
                    file.write(written(line))


def machine() -> dict[str, str]:
    """What the runs are on."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {"torch": torch.__version__, "device": device}


def written(line: dict[str, Any]) -> str:
    """A line as it is in a file."""
    return json.dumps(rounded(line), ensure_ascii=False, separators=(",", ":")) + "\n"


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """All lines of a folder, those of unfinished runs last."""
    found = []
    for name in ("lines.jsonl", "unfinished.jsonl"):
        if (folder / name).is_file():
            found += [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]
    return found


def collected(lines: list[dict[str, Any]]) -> Iterator[tuple[Example, dict[str, Any]]]:
    """Every example with finished runs, and its numbers as `Example.markdown` and `Example.draw` read them.

    Runs that were broken off are named and left out: a network after four epochs of a hundred is no result.
    """
    whole = [line for line in lines if line["finished"]]
    for name in dict.fromkeys(line["example"] for line in whole):
        shown = example(name)
        assert shown.works is not None
        ours = [line for line in whole if line["example"] == name]
        arms: Arms = {}
        for arm in shown.works(ours[0]["scale"]):
            mine = sorted((line for line in ours if line["arm"] == arm), key=lambda line: int(line["seed"]))
            if mine:
                arms[arm] = {"settings": mine[0]["settings"], **_joined([line["run"] for line in mine])}
        done = {(line["arm"], line["seed"]) for line in ours}
        broken = [
            f"{line['arm']}, seed {line['seed']}"
            for line in lines
            if line["example"] == name and (line["arm"], line["seed"]) not in done
        ]
        yield shown, {**_numbers(ours, broken), "name": name, "arms": arms}


def collect(folder: Path, out: Path) -> Iterator[Path]:
    """Write NAME.md and NAME.png of every example with finished runs to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for shown, numbers in collected(lines_of(folder)):
        file = out / f"{shown.name}.md"
        shown.show(numbers, file)
        yield file


def _joined(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The runs of an arm; records of trimmed networks in one list, as tables read them."""
    if "records" in runs[0]:
        return {"records": [each for run in runs for each in run["records"]]}
    return {"runs": runs}


def _numbers(ours: list[dict[str, Any]], broken: list[str]) -> dict[str, Any]:
    first = ours[0]
    days = ", ".join(sorted({line["date"] for line in ours}))
    where = f" in all, up to {first['lanes']} runs at a time on "
    if first["device"] == "CPU":
        where += f"a CPU ({days})."
    else:
        where += f"one {first['device']} ({days}), products of training in TF32."
    if broken:
        where += f" Broken off by the end of the time and not shown: {'; '.join(broken)}."
    seconds = round(sum(line["seconds"] for line in ours), 1)
    return {"scale": first["scale"], "seconds": seconds, "torch": first["torch"], "where": where}


def main() -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the lines are")
    parser.add_argument("--lanes", type=int, default=8, help="processes; default: 8")
    parser.add_argument("--seconds", type=float, default=520.0, help="time in all; default: 520")
    parser.add_argument("--only", nargs="*", default=(), help="these examples alone")
    parser.add_argument("--quick", action="store_true", help="seconds, on embedded data")
    parser.add_argument("--collect", action="store_true", help="only write tables and pictures of the lines")
    parser.add_argument("--out", type=Path, default=FOLDER / "full", help="of --collect")
    asked = parser.parse_args()
    if asked.collect:
        for file in collect(asked.folder, asked.out):
            print(file)
        return
    asked.folder.mkdir(parents=True, exist_ok=True)
    scale: Scale = "quick" if asked.quick else "full"
    done = {(line["example"], line["arm"], line["seed"]) for line in lines_of(asked.folder) if line["finished"]}
    waiting = [job for job in jobs(scale, tuple(asked.only)) if job.key not in done]
    print(f"{len(waiting)} runs wanted, {len(done)} there already", flush=True)
    if waiting:
        Runner(asked.folder, scale, min(asked.lanes, len(waiting)), asked.seconds).go(waiting)


if __name__ == "__main__":
    main()
