"""The score of a network against what budgets leave of it: calibrated as a plan is, asked what chose nothing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.checkpoints.graph_network import GraphNetwork
from rmt_compress.checkpoints.moved import moved
from rmt_compress.decomposition.moments_file import load_moments
from rmt_compress.errors import SettingsError
from rmt_compress.networks.calibration.affordable import affordable
from rmt_compress.networks.calibration.calibrating import calibrate
from rmt_compress.networks.calibration.statistics import batch_norms
from rmt_compress.networks.file_names import file_names
from rmt_compress.networks.latency import seconds_in_turns
from rmt_compress.networks.layer_times import device_name
from rmt_compress.networks.measurement import example_inputs
from rmt_compress.networks.positions import layer_positions
from rmt_compress.planning.budgets import BudgetSettings
from rmt_compress.planning.candidates import Candidates
from rmt_compress.planning.costs import Seconds, costs_of
from rmt_compress.pruning.calibration import calibration_for
from rmt_compress.pruning.drop import lasting
from rmt_compress.pruning.repairs import scored_trials
from rmt_compress.pruning.timing import Stopwatch
from rmt_compress.sweep import BudgetTarget, sweep_budget
from rmt_compress.wording import counted

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.analysis.records import Analysis
    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.networks.calibration_settings import CalibrationSettings
    from rmt_compress.networks.tasks.questions import Question
    from rmt_compress.progress import Progress
    from rmt_compress.sweep import Sweep

_ASKED = 1e11
"""Multiply-adds of asking one of the many networks."""
_SPENT = 0.2
"""Seconds of timing one."""


@dataclass(frozen=True, eq=False)
class Swept:
    """A network of which budgets leave less and less.

    Attributes:
        analysis: of the checkpoint.
        checkpoint: the network's file, open.
        model: the network in it.
        question: the data; its test part is asked.
    """

    analysis: Analysis
    checkpoint: Checkpoint
    model: nn.Module
    question: Question


def sweep_within_budgets(
    swept: Swept,
    settings: CalibrationSettings,
    *,
    points: int,
    moments: Path | None = None,
    limit: int | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
) -> tuple[Sweep, tuple[str, ...]]:
    """A budget sweep, see `sweep.budget`, and remarks for the user.

    Moments and layers' times are measured once. Batch-norm statistics are estimated anew for every network, unless
    `settings` repair nothing. Of a graph, whose layers have no modules, only the size is swept.

    Args:
        swept: the network.
        settings: which inputs calibrate.
        points: networks on each curve.
        moments: a file of moments to take instead of measuring them.
        limit: the most samples that each network is asked; None for what takes some seconds.
        batch_size: samples at once, of scores and of times; None for the task's own.
        device: where weights are decomposed; None for the CPU. The network runs where it is.
        progress: told of every step.

    Raises:
        SettingsError: nothing can be cut, or fewer than 2 points.
        DataError: no inputs to calibrate with.
    """
    analysis, checkpoint, model, question = swept.analysis, swept.checkpoint, swept.model, swept.question
    if not question.has_data:
        raise SettingsError(["a budget sweep needs --data: what asks by itself has no inputs to time"])
    task = question.part("test")
    assert task.samples is not None
    samples = task.samples.thinned(limit or affordable(model, task, _ASKED))
    task = task.of(samples)
    names = file_names(model, checkpoint)
    names.check((each.layer for each in analysis.analyzed), checkpoint.path)
    calibration = calibration_for(model, question, settings, checkpoint, progress=progress)
    notes = [calibration.notes[0].partition(";")[0]]
    known = load_moments(moments) if moments is not None else None
    if known is None:
        measured = calibrate(model, calibration.inputs, seed=settings.seed, progress=progress)
        known = names.moments_in_file(measured, checkpoint.layers())
    counts = layer_positions(model, example_inputs(model, task, 1))
    positions = {names.in_file(name): count for name, count in counts.items()} or None
    budget = BudgetSettings(keep=1.0)
    seconds, inputs, clock, timed = None, None, None, ""
    if isinstance(model, GraphNetwork):
        notes.append("a graph's layers are not timed, nor is it known how often they are applied: size alone")
    else:
        stopwatch = Stopwatch.of(model, task, batch_size, None, names)
        seconds, inputs = _timed(stopwatch, analysis, budget, notes, progress), stopwatch.inputs
    if seconds is not None:
        clock = partial(seconds_in_turns, spent=_SPENT, faster_half=True)
        timed = f"{counted(seconds.table.batch, 'sample')} at once, {device_name(model)}"
    candidates = Candidates(
        moved(checkpoint, device), analysis, known, budget, costs_of(analysis, positions, seconds)
    )
    renews = settings.mends != "none" and bool(batch_norms(model))
    score = scored_trials(
        model,
        calibration.inputs,
        lasting(task),
        lambda found: found.value,
        renews=renews,
        uncut=calibration.seen_uncut(model) if renews else None,
        batch_size=batch_size,
        names=names,
    )
    # What a stream holds is known once it has been gone through.
    asked = samples.count or task.score(model).samples
    target = BudgetTarget(
        model, candidates, task, score, asked, inputs, clock, timed, path=str(checkpoint.path), names=names
    )
    sweep = sweep_budget(target, points=points, progress=progress)
    notes.append(f"each network was asked {counted(asked, 'sample')} of the test part; --limit says how many")
    return sweep, tuple(notes)


def _timed(
    stopwatch: Stopwatch, analysis: Analysis, budget: BudgetSettings, notes: list[str], progress: Progress | None
) -> Seconds | None:
    """The times of the layers; None where none of them can be timed."""
    try:
        return stopwatch.seconds(analysis, budget, None, progress)
    except SettingsError as error:
        notes += error.problems
        return None
