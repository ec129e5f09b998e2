"""`finetune`: runs of training with cuts in them, from a checkpoint or afresh, and what they leave."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints.formats import state_dict_formats
from rmt_compress.checkpoints.writers import check_suffix
from rmt_compress.errors import SettingsError, TrainingError
from rmt_compress.networks.wreck import trained_accuracy
from rmt_compress.outputs import check_output
from rmt_compress.training.event_log import Event, EventLog, of_kind
from rmt_compress.training.settings import CycleSettings, TrainingSettings, differences
from rmt_compress.training.starting import Start, starting_point

if TYPE_CHECKING:
    from rmt_compress.data import Dataset
    from rmt_compress.training.split_network import Network
    from rmt_compress.training.steps import StepProgress
    from rmt_compress.training.workers import Workers

SCHEMA = "rmt-compress/finetune/1"

# What may be another when a run is taken up again.
_FREE = ("learning_rate", "schedule", "max_seconds", "min_accuracy", "device")


@dataclass(frozen=True)
class RunResult:
    """One run.

    Attributes:
        name: empty for the only run there is, else ``pruned seed 1`` or ``baseline seed 1``.
        seed: its seed.
        pruned: whether anything was to be cut.
        events: its lines of the log.
    """

    name: str
    seed: int
    pruned: bool
    events: tuple[Event, ...]

    @property
    def first(self) -> Event:
        """The network before training."""
        return self.events[0]

    @property
    def last(self) -> Event:
        """The network that is left."""
        return self.events[-1]

    @property
    def accuracies(self) -> list[float]:
        """Of the network before training, after every epoch, and of the one that is left."""
        return [event["test_accuracy"] for event in self.events if "test_accuracy" in event]

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds spent training, analysing and cutting, and evaluating."""
        parts = ("train", "analyze", "evaluate")
        return {part: sum(event["seconds"][part] for event in self.events) for part in parts}

    def to_json(self) -> dict[str, Any]:
        """Name, seed, and the numbers of the network that is left."""
        kept = ("test_accuracy", "test_loss", "dead_outputs", "parameters", "nonzeros", "epoch", "reason")
        return {
            "name": self.name,
            "seed": self.seed,
            "pruned": self.pruned,
            "accuracy_first": self.first["test_accuracy"],
            "parameters_first": self.first["parameters"],
            **{key: self.last[key] for key in kept},
            "cycles": len(of_kind(self.events, "cycle")),
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Finetuned:
    """What has been trained and written.

    Attributes:
        runs: one, or one per seed and side of a comparison.
        output: the file with the first pruned run's network; None where this process is not the one that writes.
        bytes: its size.
        log: the file of events.
        architecture: the network in one word.
        notes: remarks for the user.
        goal_missed: why the least accuracy was not reached or the network is a wreck, with the way out; else empty
    """

    runs: tuple[RunResult, ...]
    output: Path | None
    bytes: int
    log: Path
    architecture: str
    notes: tuple[str, ...] = ()
    goal_missed: str = ""

    def mean(self, key: str, *, pruned: bool) -> tuple[float, float]:
        """Mean and standard deviation over the seeds of a number of the networks that are left."""
        values = [float(run.last[key]) for run in self.runs if run.pruned == pruned]
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0

    def to_json(self) -> dict[str, Any]:
        """The object printed by `finetune --json`."""
        report: dict[str, Any] = {
            "schema": SCHEMA,
            "output": None if self.output is None else str(self.output),
            "bytes": self.bytes,
            "log": str(self.log),
            "architecture": self.architecture,
            "runs": [run.to_json() for run in self.runs],
        }
        if len(self.runs) > 1:
            sides = sorted({run.pruned for run in self.runs}, reverse=True)
            report["mean"] = {
                "pruned" if pruned else "baseline": {
                    key: dict(zip(("mean", "deviation"), self.mean(key, pruned=pruned), strict=True))
                    for key in ("test_accuracy", "parameters", "nonzeros")
                }
                for pruned in sides
            }
        return report


@dataclass(frozen=True)
class Listeners:
    """Who is told while it happens; every one may be None.

    Attributes:
        run: called with a run's name as it begins.
        event: called with every new event.
        steps: called with (run, epoch) for a function to call with (steps done, steps in all).
    """

    run: Callable[[str], None] | None = None
    event: Callable[[Event], None] | None = None
    steps: Callable[[int], StepProgress] | None = None


def default_output(source: Path | None, data: str) -> Path:
    """The source's name with ``.tuned`` before its suffix; afresh, one named after the data set."""
    if source is None:
        name = Path(data).name if ":" not in data else data.rpartition(":")[2]
        return Path(f"{name}.tuned.safetensors")
    if source.is_dir() or source.name.endswith(".index.json"):
        folder = (source if source.is_dir() else source.parent).resolve()
        return folder.parent / f"{folder.name}.tuned.safetensors"
    suffix = source.suffix if source.suffix in state_dict_formats() else ".safetensors"
    return source.with_name(f"{source.stem}.tuned{suffix}")


def log_path(output: Path) -> Path:
    """Where the events of a run with this output go."""
    return output.with_name(f"{output.stem}.log.jsonl")


def state_path(output: Path, run: str = "") -> Path:
    """Where the training state of a run with this output goes."""
    return output.with_name(f"{output.stem}{'.' + run.replace(' ', '-') if run else ''}.training.pt")


def finetune(
    source: str | Path | None = None,
    output: str | Path | None = None,
    *,
    data: str,
    arch: str | None = None,
    training: TrainingSettings | None = None,
    cycle: CycleSettings | None = None,
    compare: bool = False,
    seeds: Sequence[int] = (),
    samples: int | None = None,
    resume: bool = False,
    force: bool = False,
    listeners: Listeners | None = None,
) -> Finetuned:
    """Train a network, cutting the noise out of it every few epochs, and write the smaller one.

    Beside the output stands its log (``.log.jsonl``), and until all is done the training state (``.training.pt``).

    Args:
        source: a checkpoint to begin with, compressed or not; None to begin afresh.
        output: the file to write; None for `default_output`.
        data: training and test samples, as for `load_data`.
        arch: the network; None for the checkpoint's own, or the default of a named data set.
        training: how to train.
        cycle: how to cut; None to train only.
        compare: also train the same network without any cut.
        seeds: one run each; none for that of `training`. The first one's network is written.
        samples: training samples to use, spread evenly over the set; None for all.
        resume: go on from the training state beside the output.
        force: overwrite files that exist.
        listeners: who is told.

    Raises:
        RmtCompressError: bad input, settings that do not suit, a loss that is no number any more, an output that
            must not or cannot be written.
    """
    from rmt_compress.data import load_data
    from rmt_compress.training.workers import Workers

    training, listeners = training or TrainingSettings(), listeners or Listeners()
    path = None if source is None else Path(source)
    target = default_output(path, data) if output is None else Path(output)
    check_suffix(target)
    with Workers(training) as workers:
        plan = _runs(training.seed, seeds, cycle is not None, compare)
        inputs = () if path is None else (path,)
        workers.from_leader(lambda: _check_outputs(target, plan, resume=resume, force=force, inputs=inputs))
        start = starting_point(path, data, arch)
        if cycle is not None and not cycle.cuts(training.epochs, trained=path is not None):
            raise SettingsError([f"nothing would be cut in {training.epochs} epochs: take a smaller --prune-every"])
        sets = [
            load_data(data, split="train", allow_partial=True),
            load_data(data, split="test", allow_partial=True),
        ]
        if samples is not None:
            sets[0] = sets[0].thinned(samples)
        if training.augment != "none" and sets[0].images.dim() != 4:
            raise SettingsError([f"augment {training.augment} is for images, and {data} holds none"])
        asked = _Asked(start, data, sets[0], sets[1], target, resume)
        results = []
        first: tuple[Network, RunResult] | None = None
        for name, seed, pruned in plan:
            if listeners.run is not None:
                listeners.run(name)
            settings = replace(training, seed=seed)
            network, result = _one_run(name, asked, settings, cycle if pruned else None, workers, listeners)
            results.append(result)
            if first is None and (pruned or cycle is None):
                first = network, result
        assert first is not None
        written = workers.from_leader(lambda: _write(*first, asked, training, cycle))
        if workers.leads:
            for name, _, _ in plan:
                with suppress(FileNotFoundError):
                    state_path(target, name).unlink()
    notes = dict.fromkeys((*sets[0].notes, *sets[1].notes))
    least, reached = training.min_accuracy, first[1].last["test_accuracy"]
    missed = (
        f"the accuracy asked for, {least:.2%}, was not reached: {reached:.2%}" if least and reached < least else ""
    )
    cut = first[1].pruned
    if not missed and (words := trained_accuracy(first[1].accuracies, sets[1].labels.tolist())) is not None:
        missed = (
            f"{target}: is written, but its {words}; train longer (--epochs {2 * training.epochs}) or at another "
            f"rate (--lr {training.learning_rate / 10:g}){', or cut less (--keep-bulk 0.5)' if cut else ''}"
        )
    return Finetuned(
        tuple(results), target, written, log_path(target), start.architecture, tuple(notes), goal_missed=missed
    )


@dataclass(frozen=True)
class _Asked:
    """What all runs have in common beside their settings, as in `finetune`."""

    start: Start
    data: str
    train: Dataset
    test: Dataset
    target: Path
    resume: bool


def _runs(seed: int, seeds: Sequence[int], pruned: bool, compare: bool) -> list[tuple[str, int, bool]]:
    """(name, seed, whether it is pruned) of every run."""
    if compare and not pruned:
        raise SettingsError(["compare sets a pruned run beside one that is not: leave out --no-prune"])
    if len(set(seeds)) < len(seeds) or any(each < 0 for each in seeds):
        raise SettingsError(["seeds must be different numbers of 0 or more"])
    chosen = tuple(seeds) or (seed,)
    if len(chosen) == 1 and not compare:
        return [("", chosen[0], pruned)]
    sides = [True, False] if compare else [pruned]
    return [(f"{'pruned' if side else 'baseline'} seed {each}", each, side) for each in chosen for side in sides]


def _check_outputs(
    target: Path, plan: Sequence[tuple[str, int, bool]], *, resume: bool, force: bool, inputs: tuple[Path, ...]
) -> None:
    # What stands there when a run is resumed is its own: the kill came between writing it and tidying up.
    check_output(target, force=force or resume, inputs=inputs)
    log, states = log_path(target), [state_path(target, name) for name, _, _ in plan]
    if resume:
        if not any(state.is_file() for state in states):
            raise TrainingError(f"{states[0]}: no training state to resume from; begin anew without --resume")
        return
    for file in (log, *states):
        if file.exists() and not force:
            raise TrainingError(
                f"{file}: left by an earlier run; go on with it (--resume), choose another output, or add --force"
            )
    for file in (log, *states):
        with suppress(FileNotFoundError):
            file.unlink()


def _one_run(
    name: str,
    asked: _Asked,
    training: TrainingSettings,
    cycle: CycleSettings | None,
    workers: Workers,
    listeners: Listeners,
) -> tuple[Network, RunResult]:
    from rmt_compress.training.run import Job, Run
    from rmt_compress.training.state import TrainingState

    start, target = asked.start, asked.target
    state_file = state_path(target, name)
    identity = {
        "architecture": start.architecture,
        "source": start.digest,
        "data": asked.data,
        "samples": len(asked.train),
        **_plain(training, cycle),
    }
    resumed = TrainingState.load(state_file) if asked.resume and state_file.is_file() else None
    if resumed is not None:
        _check_identity(resumed.identity, identity, state_file)
    job = Job(
        dense=start.dense,
        start=start.snapshot(training.seed),
        trained=start.source is not None,
        train=asked.train,
        test=asked.test,
        training=training,
        cycle=cycle,
        identity=identity,
        state_path=state_file,
    )
    log = EventLog(log_path(target) if workers.leads else None, name, listeners.event)
    run = Run(job, workers, log, step_progress=listeners.steps)
    try:
        network = run.go(resumed)
    except BaseException:
        if workers.leads and not state_file.exists():
            log.forget()
        raise
    events = workers.from_leader(lambda: log.events)
    return network, RunResult(name, training.seed, cycle is not None, tuple(events))


def _plain(training: TrainingSettings, cycle: CycleSettings | None) -> dict[str, Any]:
    return {"training": asdict(training), "cycle": None if cycle is None else cycle.plain()}


def _check_identity(theirs: dict[str, Any], ours: dict[str, Any], file: Path) -> None:
    problems = [
        f"{key} {theirs.get(key)!r}, now {ours[key]!r}"
        for key in ("architecture", "source", "data", "samples")
        if theirs.get(key) != ours[key]
    ]
    problems += differences(ours["training"], theirs.get("training"), free=_FREE)
    problems += differences(ours["cycle"], theirs.get("cycle"))
    if problems:
        raise TrainingError(
            f"{file}: is the state of another run: {'; '.join(problems[:5])}; give the same options, or begin anew "
            "with --force and without --resume"
        )


def _write(
    network: Network, result: RunResult, asked: _Asked, training: TrainingSettings, cycle: CycleSettings | None
) -> int:
    """Write the network with its plan; its size in bytes comes back."""
    import json

    import torch

    from rmt_compress.saving.writing import save

    model = network.model.to("cpu")
    # torch's stubs do not know this form of `to`.
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    metadata = {
        "architecture": asked.start.architecture,
        "dataset": asked.data,
        "finetuned": json.dumps(_plain(training, cycle)),
        "test_accuracy": str(result.last["test_accuracy"]),
        "seed": str(result.seed),
    }
    return save(model, asked.target, plan=network.plan(), source=asked.start.source, metadata=metadata).bytes
