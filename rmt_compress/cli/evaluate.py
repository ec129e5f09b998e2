"""`rmt-compress evaluate`: what a network costs and what it is worth."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmt_compress.cli.console import (
    GoalNotReached,
    next_step,
    note,
    print_json,
    print_result,
    progress_bar,
    warning,
)
from rmt_compress.cli.options import (
    Arch,
    Data,
    Device,
    Limit,
    Report,
    Trust,
    Weights,
    batch_size_option,
    force_option,
    json_option,
    opened,
    optional,
    with_options,
)
from rmt_compress.cli.reports import check_report, write_report
from rmt_compress.errors import SettingsError
from rmt_compress.networks.generation_speed import GenerationSettings
from rmt_compress.networks.tasks.settings import TaskSettings

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.checkpoints import Checkpoint
    from rmt_compress.networks.evaluation import Evaluation
    from rmt_compress.networks.tasks.task import Task
    from rmt_compress.progress import Progress

SCHEMA = "rmt-compress/evaluation/1"


@with_options()
def evaluate(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="A checkpoint, compressed or not.")],
    data: Data = None,
    *,
    asked: TaskSettings,
    writing: GenerationSettings,
    arch: Arch = None,
    against: Annotated[Path | None, optional("A second checkpoint to set beside it.", "ORIGINAL")] = None,
    against_arch: Annotated[
        str | None,
        optional(
            "The network of ORIGINAL; by default that of --arch, where the file has no graph of its own.", "SPEC"
        ),
    ] = None,
    limit: Limit = None,
    batch_size: Annotated[int | None, batch_size_option(" while scoring")] = None,
    device: Device = "cpu",
    trust: Trust = False,
    weights: Weights = None,
    report: Report = None,
    force: Annotated[bool, force_option("a report that exists")] = False,
    as_json: Annotated[bool, json_option()] = False,
) -> None:
    """Measure score, size on disk, multiply-adds and milliseconds, side by side with the original.

    The test split is asked, or all of data that have none. Milliseconds are medians of one forward pass of 1 and of
    128 samples (of text 1 and 8 windows); with --against the runs of the two networks alternate.
    """
    from rmt_compress.networks.evaluation import compare, move
    from rmt_compress.networks.evaluation import evaluate as run
    from rmt_compress.networks.pixel_statistics import unnormalized_samples
    from rmt_compress.networks.tasks.questions import open_task
    from rmt_compress.networks.wreck import against_original
    from rmt_compress.reporting.evaluation_table import evaluation_table
    from rmt_compress.reporting.html.evaluation_report import evaluation_page

    check_report(report, force=force, inputs=(model, *(() if against is None else (against,))))
    with progress_bar("Reading") as progress:
        checkpoint = opened(model, trust=trust, weights=weights)
        original_checkpoint = None if against is None else opened(against, trust=trust)
        first, second = _networks(checkpoint, original_checkpoint, arch, against_arch, asked.dtype, progress)
        task = open_task(data, second or first, original_checkpoint or checkpoint, asked, limit=limit)
    notes = [] if task.samples is None else [*task.samples.notes]
    for text in notes:
        note(text)
    if (words := unnormalized_samples(first, task.samples)) is not None:
        warning(f"{model}: {words}")
        notes.append(words)
    with progress_bar("Evaluating") as progress:
        for network in (first, second):
            if network is not None:
                move(network, device)
        if second is None:
            result = run(
                first,
                task,
                path=checkpoint,
                batch_size=batch_size,
                generation=writing,
                progress=progress,
            )
            original = None
        else:
            result, original = compare(
                first,
                second,
                task,
                paths=(checkpoint, original_checkpoint),
                batch_size=batch_size,
                generation=writing,
                progress=progress,
            )
    for each in (result, original):
        if each is not None and each.latency.why_no_graph is not None:
            note(f"{each.path}: timed in eager mode alone: {each.latency.why_no_graph}")
    wrecked = None if original is None else against_original(result.score, original.score)
    write_report(report, context, lambda: evaluation_page(task, result, original, wrecked), notes)
    if not as_json:
        print_result(evaluation_table(task, result, original))
        if wrecked is not None:
            raise _goal_missed(model, data, wrecked)
        if checkpoint.manifest is None and original is None:
            next_step("prune", model)
        elif data is not None and not checkpoint.has_graph and _is_worse(result, original):
            next_step("finetune", model, "--data", Path(data), because="wins accuracy back")
        elif checkpoint.has_graph or model.is_dir():
            next_step("show", model)
        else:
            next_step("export", model, "-o", model.with_suffix(".onnx"), because="for other programs")
        return
    said: dict[str, Any] = {
        "schema": SCHEMA,
        "data": _described(task, result),
        "model": result.to_json(),
    }
    if original is not None:
        said["against"] = original.to_json()
        said["wreck"] = wrecked
    print_json(said)
    if wrecked is not None:
        raise _goal_missed(model, data, wrecked)


def _networks(
    checkpoint: Checkpoint,
    original: Checkpoint | None,
    arch: str | None,
    against_arch: str | None,
    dtype: str | None,
    progress: Progress,
) -> tuple[nn.Module, nn.Module | None]:
    """The network that is asked, and the one that it is set beside."""
    from rmt_compress.networks.loading import load_model

    if original is None:
        if against_arch is not None:
            raise SettingsError(["--against-arch is the network of --against ORIGINAL: give that too"])
        return load_model(checkpoint, arch=arch, dtype=dtype, progress=progress), None
    # One --arch is for the side that needs it: a graph brings its own network, and takes none.
    both_graphs = checkpoint.has_graph and original.has_graph
    ours = None if checkpoint.has_graph and not both_graphs else arch
    theirs = against_arch or (None if original.has_graph else arch)
    return (
        load_model(checkpoint, arch=ours, dtype=dtype, progress=progress),
        load_model(original, arch=theirs, dtype=dtype, progress=progress),
    )


def _is_worse(result: Evaluation, original: Evaluation | None) -> bool:
    """Whether there is anything to win back, as far as is known."""
    return original is None or result.score.metric.worse_by(result.score.value, original.score.value) > 0


def _described(task: Task, result: Evaluation) -> dict[str, Any]:
    """What was asked."""
    samples = task.samples
    name, split = (task.metric.name, None) if samples is None else (samples.name, samples.part)
    return {"name": name, "split": split, "samples": result.score.samples}


def _goal_missed(model: Path, data: str | None, words: str) -> GoalNotReached:
    back = f"rmt-compress finetune {shlex.quote(str(model))} --data {shlex.quote(data or 'DATA')}"
    return GoalNotReached(f"{model}: its {words}; prune less, or win it back: {back}")
