"""`finetune`: runs of training with cuts in them, from a checkpoint or afresh, and what they leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints.config_file import CONFIG
from rmt_compress.checkpoints.formats import state_dict_formats
from rmt_compress.checkpoints.writers import check_suffix
from rmt_compress.errors import DataError, EvaluationError, SettingsError, TrainingError
from rmt_compress.networks.tasks.settings import TaskSettings
from rmt_compress.networks.wreck import trained
from rmt_compress.outputs import check_output
from rmt_compress.saving.folders import Pack, check_folder_output, is_folder_output
from rmt_compress.training.event_log import Event, EventLog, of_kind
from rmt_compress.training.finetuned import Finetuned, RunResult
from rmt_compress.training.settings import CycleSettings, TrainingSettings, differences
from rmt_compress.training.starting import Start, starting_point
from rmt_compress.training.trained_card import write_trained_card

if TYPE_CHECKING:
    from rmt_compress.training.lessons import Lessons
    from rmt_compress.training.split_network import Network
    from rmt_compress.training.steps import StepProgress
    from rmt_compress.training.workers import Workers

# What may be another when a run is taken up again.
_FREE = ("learning_rate", "schedule", "max_seconds", "min_accuracy", "worst_score", "device")


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


def default_output(source: Path | None, data: str, arch: str | None = None) -> Path:
    """The source's name with ``.tuned`` before its suffix; afresh, one named after the data set.

    Of a Hugging Face folder, with a ``config.json``, another folder, ``…-tuned``, unless another `arch` is given.
    """
    if source is None:
        kind, _, rest = data.rpartition(":")
        name = Path(rest).stem if kind in ("text", "array") else Path(rest).name
        return Path(f"{name}.tuned.safetensors")
    if source.is_dir() or source.name.endswith(".index.json"):
        folder = (source if source.is_dir() else source.parent).resolve()
        own_class = arch is None and (folder / CONFIG).is_file()
        return folder.parent / (f"{folder.name}-tuned" if own_class else f"{folder.name}.tuned.safetensors")
    suffix = source.suffix if source.suffix in state_dict_formats() else ".safetensors"
    return source.with_name(f"{source.stem}.tuned{suffix}")


def stem_of(output: Path) -> str:
    """What the names of the files beside an output begin with: its own without the suffix of a file."""
    return output.stem if output.suffix in state_dict_formats() else output.name


def log_path(output: Path) -> Path:
    """Where the events of a run with this output go."""
    return output.with_name(f"{stem_of(output)}.log.jsonl")


def state_path(output: Path, run: str = "") -> Path:
    """Where the training state of a run with this output goes."""
    return output.with_name(f"{stem_of(output)}{'.' + run.replace(' ', '-') if run else ''}.training.pt")


def finetune(
    source: str | Path | None = None,
    output: str | Path | None = None,
    *,
    data: str,
    asked: TaskSettings | None = None,
    arch: str | None = None,
    training: TrainingSettings | None = None,
    cycle: CycleSettings | None = None,
    compare: bool = False,
    seeds: Sequence[int] = (),
    samples: int | None = None,
    trust: bool = False,
    pack: Pack = "none",
    resume: bool = False,
    resumable: bool = True,
    force: bool = False,
    listeners: Listeners | None = None,
) -> Finetuned:
    """Train a network, cutting the noise out of it every few epochs, and write the smaller one.

    Beside the output stands its log (``.log.jsonl``), and until all is done the training state (``.training.pt``).

    Args:
        source: a checkpoint to begin with, compressed or not; None to begin afresh.
        output: the file to write, or, of a Hugging Face folder, the folder; None for `default_output`.
        data: training and test samples, as for `open_samples`; read as they are needed.
        asked: how data are read, and what is learned; by default what data and network are made for.
        arch: the network; None for the checkpoint's own, or the default of a named data set.
        training: how to train.
        cycle: how to cut; None to train only.
        compare: also train the same network without any cut.
        seeds: one run each; none for that of `training`. The first one's network is written.
        samples: training samples to use, spread evenly over the set, of a stream the first; None for all.
        trust: run the code that lies in a Hugging Face folder.
        pack: how two factors are stored, see `rmt_compress.save`.
        resume: go on from the training state beside the output.
        resumable: whether the training state is kept after every epoch. On a GPU writing it can take as long as the
            epoch.
        force: overwrite files that exist.
        listeners: who is told.

    Raises:
        RmtCompressError: bad input, settings that do not suit, a loss that is no number any more, an output that
            must not or cannot be written.
    """
    from rmt_compress.training.lessons import open_lessons
    from rmt_compress.training.workers import Workers

    asked = asked or TaskSettings()
    training, listeners = training or TrainingSettings(), listeners or Listeners()
    path = None if source is None else Path(source)
    target = default_output(path, data, arch) if output is None else Path(output)
    folder = path if path is not None and arch is None and is_folder_output(path, target) else None
    if folder is None:
        check_suffix(target)
    with Workers(training) as workers:
        plan = _runs(training.seed, seeds, cycle is not None, compare)
        inputs = () if path is None else (path,)
        workers.from_leader(lambda: _check_outputs(target, plan, folder, resume=resume, force=force, inputs=inputs))
        start = starting_point(path, data, arch, trust=trust)
        if training.max_drop is not None and path is None:
            raise SettingsError(["max-drop is from the score of a checkpoint: give one, or a --min-accuracy"])
        if cycle is not None and not cycle.cuts(training.epochs, trained=path is not None):
            raise SettingsError([f"nothing would be cut in {training.epochs} epochs: take a smaller --prune-every"])
        lessons = open_lessons(data, start, asked, training, samples).on(workers.device)
        training = replace(training, batch_size=lessons.batch_size)
        job = _Asked(start, data, asked, lessons, samples, target, folder, resume, pack, resumable)
        results = []
        first: tuple[Network, RunResult] | None = None
        for name, seed, pruned in plan:
            if listeners.run is not None:
                listeners.run(name)
            settings = replace(training, seed=seed)
            network, result = _one_run(name, job, settings, cycle if pruned else None, workers, listeners)
            results.append(result)
            if first is None and (pruned or cycle is None):
                first = network, result
        assert first is not None
        written = workers.from_leader(lambda: _write(*first, job, training, cycle))
        if workers.leads:
            for name, _, _ in plan:
                state_path(target, name).unlink(missing_ok=True)
    metric, reached = lessons.test.metric, first[1].last["test_score"]
    limit = first[1].last.get("limit", training.limit)
    missed = ""
    if limit is not None and metric.worse_by(reached, limit) > 0:
        missed = f"the {metric.name} asked for, {metric.shown(limit)}, was not reached: {metric.shown(reached)}"
    last = first[1].last
    words = trained(first[1].scores, last.get("guess"), last.get("samples", 0), metric)
    if not missed and words is not None:
        cut = first[1].pruned
        missed = (
            f"{target}: is written, but its {words}; train longer (--epochs {2 * training.epochs}) or at another "
            f"rate (--lr {training.learning_rate / 10:g}){', or cut less (--keep-bulk 0.5)' if cut else ''}"
        )
    if not missed and (over := first[1].over_budget):
        missed = (
            f"{target}: is written, but is at {over} of the dense network: the cuts stopped before their last; let "
            "the score fall further, or train longer between them (--prune-every, --epochs)"
        )
    return Finetuned(
        tuple(results), target, written, log_path(target), start.architecture, lessons.notes, goal_missed=missed
    )


@dataclass(frozen=True)
class _Asked:
    """What all runs have in common beside their settings, as in `finetune`."""

    start: Start
    data: str
    asked: TaskSettings
    lessons: Lessons
    samples: int | None
    target: Path
    folder: Path | None
    resume: bool
    pack: Pack
    resumable: bool


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
    target: Path,
    plan: Sequence[tuple[str, int, bool]],
    folder: Path | None,
    *,
    resume: bool,
    force: bool,
    inputs: tuple[Path, ...],
) -> None:
    # What stands there when a run is resumed is its own: the kill came between writing it and tidying up.
    if folder is None:
        check_output(target, force=force or resume, inputs=inputs)
    else:
        check_folder_output(folder, target, force=force or resume)
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
        file.unlink(missing_ok=True)


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
        "samples": asked.lessons.count or asked.samples,
        "asked": asdict(asked.asked),
        **_plain(training, cycle),
    }
    resumed = TrainingState.load(state_file) if asked.resume and state_file.is_file() else None
    if resumed is not None:
        _check_identity(resumed.identity, identity, state_file)
    job = Job(
        dense=start.dense,
        start=start.snapshot(training.seed),
        trained=start.source is not None,
        train=asked.lessons.train,
        test=asked.lessons.test,
        training=training,
        cycle=cycle,
        identity=identity,
        state_path=state_file if asked.resumable else None,
        names=start.names,
    )
    log = EventLog(log_path(target) if workers.leads else None, name, listeners.event)
    run = Run(job, workers, log, step_progress=listeners.steps)
    try:
        network = run.go(resumed)
    except BaseException as error:
        if workers.leads:
            # From data that do not suit nothing can be gone on, and before the first epoch nothing is lost.
            if isinstance(error, DataError | EvaluationError) and len(of_kind(log.events, "epoch")) < 2:
                state_file.unlink(missing_ok=True)
            if not state_file.exists():
                log.forget()
        raise
    events = workers.from_leader(lambda: log.events)
    return network, RunResult(name, training.seed, cycle is not None, tuple(events))


def _plain(training: TrainingSettings, cycle: CycleSettings | None) -> dict[str, Any]:
    return {"training": training.plain(), "cycle": None if cycle is None else cycle.plain()}


def _flat(asked: dict[str, Any]) -> dict[str, Any]:
    return {**asked, **asked.get("data", {}), "data": None}


def _check_identity(theirs: dict[str, Any], ours: dict[str, Any], file: Path) -> None:
    problems = [
        f"{key} {theirs.get(key)!r}, now {ours[key]!r}"
        for key in ("architecture", "source", "data", "samples")
        if theirs.get(key) != ours[key]
    ]
    problems += differences(_flat(ours["asked"]), _flat(theirs.get("asked", {})))
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

    from rmt_compress.saving.writing import save, save_folder

    model = network.model.to("cpu")
    # torch's stubs do not know this form of `to`.
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    metadata = {
        **({} if asked.start.folder is not None else {"architecture": asked.start.architecture}),
        "dataset": asked.data,
        "finetuned": json.dumps(_plain(training, cycle)),
        **asked.lessons.remembered,
        **_measured(result),
        "seed": str(result.seed),
    }
    plan, known = network.plan(), asked.start.record
    if asked.folder is None:
        metadata = {**asked.start.metadata, **metadata}
        return save(model, asked.target, plan=plan, source=known, metadata=metadata, pack=asked.pack).bytes
    names = asked.start.names
    # What the class holds otherwise than the file has no name there: then all are called as in the class.
    in_file = None if names.placeless else names.in_file
    written = save_folder(
        model,
        asked.target,
        plan=plan,
        source=asked.folder,
        metadata=metadata,
        in_file=in_file,
        pack=asked.pack,
        known=known,
    ).bytes
    write_trained_card(asked.target, asked.folder, result, asked.data)
    return written


def _measured(result: RunResult) -> dict[str, str]:
    """The score for the file, under the metric's name: ``test_accuracy``, ``test_loss`` …."""
    return {f"test_{result.metric.name.replace(' ', '_')}": str(result.last["test_score"])}
