"""A plan within a budget: inputs, moments, candidates that are tried, and what is repaired after the cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.decomposition.moments_file import load_inputs, load_moments, save_moments
from rmt_compress.errors import CheckpointError, SettingsError
from rmt_compress.layers.treating import matches
from rmt_compress.networks.calibration.calibrating import calibrate
from rmt_compress.networks.calibration.kept_inputs import kept_inputs, made_from
from rmt_compress.networks.calibration_settings import SELF
from rmt_compress.networks.file_names import file_names
from rmt_compress.networks.measurement import example_inputs, placement
from rmt_compress.networks.positions import layer_positions
from rmt_compress.networks.tasks.drops import drop_number
from rmt_compress.planning.costs import costs_of
from rmt_compress.planning.within import plan_within_with
from rmt_compress.pruning.asking_candidates import Renewal, asking_for, compared
from rmt_compress.pruning.calibration import Calibration, calibration_for, in_memory
from rmt_compress.pruning.drop import Drop, lasting
from rmt_compress.pruning.prediction import predicted
from rmt_compress.pruning.repairs import carried_out, repair
from rmt_compress.pruning.shown_inputs import show
from rmt_compress.pruning.timing import Stopwatch, Timed, within_time

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.analysis.records import Analysis
    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.decomposition.moments import Moments
    from rmt_compress.networks.calibration_settings import CalibrationSettings
    from rmt_compress.networks.latency import Timer
    from rmt_compress.networks.tasks.questions import Question
    from rmt_compress.plan import Plan
    from rmt_compress.planning.budgets import BudgetSettings
    from rmt_compress.planning.costs import Seconds
    from rmt_compress.progress import Progress
    from rmt_compress.pruning.result import Verified
    from rmt_compress.pruning.unasked_calibration import TooLarge


@dataclass(frozen=True)
class Request:
    """What a plan within a budget is asked.

    Attributes:
        budget: the budget and how it is met; its `max_drop` is in the score's own unit.
        calibration: which inputs.
        max_drop: what the user wrote for it: points of a share, else a number or a percentage of the score; None
            for what `budget` says.
        moments: a file of moments to take instead of measuring them.
        save_moments: where to keep them, with the inputs that the network made for them.
        times: a plan whose times are taken instead of measuring them.
        timer: what times networks; None for the clock.
        show_calibration: where to show what it was calibrated with, see `shown_inputs`.

    Raises:
        SettingsError: `max_drop` is no number of at least 0.
    """

    budget: BudgetSettings
    calibration: CalibrationSettings
    max_drop: str | None = None
    moments: Path | None = None
    save_moments: Path | None = None
    times: Path | None = None
    timer: Timer | None = None
    show_calibration: Path | None = None

    def __post_init__(self) -> None:
        # Before anything is calibrated, rather than when the score it is of is known.
        if self.max_drop is not None:
            drop_number(self.max_drop)


@dataclass(frozen=True, eq=False)
class Budgeted:
    """A plan within a budget, and what it rests on.

    Attributes:
        plan: the decisions.
        moments: what they were made with; None where only the weights are known.
        verified: what was asked before the plan was chosen.
        missed: why the budget was missed; empty where it is kept.
        record: the budget, what was reached and how many networks were asked: plain JSON.
        notes: remarks for the user.
        repaired: values that take the place of what the plan makes, by their names in the state dict of the result.
    """

    plan: Plan
    moments: Moments | None
    verified: Verified
    missed: str
    record: dict[str, Any]
    notes: tuple[str, ...]
    repaired: dict[str, torch.Tensor]


def plan_within_budget(
    analysis: Analysis,
    checkpoint: Checkpoint,
    model: nn.Module | None,
    question: Question | None,
    request: Request,
    *,
    device: torch.device | None = None,
    large: TooLarge | None = None,
    progress: Progress | None = None,
) -> Budgeted:
    """The plan that a request asks for.

    Args:
        analysis: of the checkpoint.
        checkpoint: what is cut, open.
        model: the network that it is; None where it cannot run.
        question: what it is asked about data; None without data.
        request: the budget and the inputs.
        device: where weights are decomposed; None for the CPU.
        large: that there is no `model` since it does not fit in memory.
        progress: told of every step.

    Raises:
        SettingsError: a budget that no cut reaches, or that needs a network that runs.
        DataError: no inputs to calibrate with.
        CheckpointError: NaN or Inf in a weight; a layer that the network holds otherwise than the file.
    """
    if analysis.damaged:
        layer = analysis.damaged[0]
        raise CheckpointError(
            f"{checkpoint.path}: {layer.tensor}: {layer.reason}, so that nothing can be calibrated; take a "
            "checkpoint from before that"
        )
    if large is not None:
        return _block_by_block(analysis, checkpoint, large, request, device, progress)
    if model is None:
        return _unverified(analysis, checkpoint, request, device, progress)
    kept = None if request.moments is None else load_inputs(request.moments)
    names = file_names(model, checkpoint)
    names.check(
        (
            each.layer
            for each in analysis.analyzed
            if not any(matches(each.layer, glob) for glob in request.budget.exclude)
        ),
        checkpoint.path,
    )
    calibration = calibration_for(
        model,
        question,
        request.calibration,
        checkpoint,
        kept=None if kept is None else made_from(kept),
        progress=_named(progress, "inputs"),
    )
    calibration = replace(calibration, selection=lasting(calibration.selection))
    notes = list(calibration.notes)
    if request.show_calibration is not None:
        samples = in_memory(calibration.made) if calibration.made is not None else calibration.inputs.task.samples
        assert samples is not None
        shown = show(samples, samples.name, request.show_calibration, model, checkpoint)
        notes.append(f"what it was calibrated with is shown in {shown}")
    if calibration.verified == "synthetic":
        notes.append("synthetic: no data say what the cut costs; add --data to have it measured")
    if request.moments is not None:
        moments = load_moments(request.moments)
    else:
        measured = calibrate(
            model,
            calibration.inputs,
            seed=request.calibration.seed,
            progress=_named(progress, "calibrating"),
            partial=None if request.save_moments is None else partial_folder(request.save_moments),
        )
        moments = names.moments_in_file(measured, checkpoint.layers())
    if request.save_moments is not None:
        made = calibration.made
        save_moments(moments, request.save_moments, inputs=None if made is None else kept_inputs(made))
    renewal = Renewal() if request.calibration.mends == "none" else Renewal.of(model, calibration)
    budget, drop = request.budget, None
    if request.max_drop is not None or budget.max_drop is not None:
        drop = Drop.of(request.max_drop, budget, request.calibration.calibrate, model, question, calibration)
        budget = replace(budget, max_drop=drop.allowed, confidence=drop.confidence)

    asking = asking_for(model, calibration, renewal, drop=drop, names=names)
    positions: dict[str, float] | None = None
    if budget.macs is not None:
        positions = {names.in_file(name): count for name, count in _positions(model, calibration).items()}

    def plan_of(budget: BudgetSettings, seconds: Seconds | None) -> Plan:
        return plan_within_with(
            analysis,
            moments,
            budget,
            source=checkpoint,
            asking=asking,
            costs=costs_of(analysis, positions, seconds),
            device=device,
            progress=_named(progress, "searching"),
        )

    timed: Timed | None = None
    if budget.latency is None:
        plan = plan_of(budget, None)
        result = carried_out(model, checkpoint, plan, moments, names, device)
    else:
        stopwatch = Stopwatch.of(model, calibration.inputs.task, budget.latency_batch, request.timer, names)
        seconds = stopwatch.seconds(analysis, budget, request.times, _named(progress, "timing"))
        timed = within_time(
            stopwatch,
            budget,
            lambda settings: plan_of(settings, seconds),
            lambda plan: carried_out(model, checkpoint, plan, moments, names, device),
        )
        plan, result = timed.plan, timed.result
        notes += timed.notes
    repairs = repair(
        result,
        model,
        calibration.inputs,
        request.calibration,
        uncut=renewal.uncut,
        progress=_named(progress, "repairing"),
    )
    notes += repairs.notes
    repaired = {names.in_file(name): value for name, value in repairs.values.items()}
    found = dict(plan.settings["budget"])
    record = {
        "kind": ", ".join(found["asked"]),
        **found,
        "score_name": compared(calibration.selection, drop),
        "calibration": calibration.record,
    }
    misses: list[str] = []
    if timed is not None:
        record["latency"] = timed.record
        misses += timed.missed
    made_up = request.calibration.calibrate in (None, SELF) and calibration.verified == "synthetic"
    if drop is not None or made_up:
        with result.network() as small:
            left = (calibration.selection if drop is None else drop.task).score(small)
        if drop is not None:
            record |= drop.record(left)
            notes += drop.uncertain(found)
            misses += drop.missed(left)
        made = calibration.made
        expected = predicted(left, made.kind) if made_up and made is not None else None
        if expected is not None:
            notes.append(expected[0])
            record["predicted"] = expected[1]
    return Budgeted(plan, moments, calibration.verified, "; ".join(misses), record, tuple(notes), repaired)


def partial_folder(moments: Path) -> Path:
    """Where a calibration whose moments are to be kept in a file leaves what an interruption would lose."""
    return moments.with_name(f"{moments.name}.partial")


def _unverified(
    analysis: Analysis,
    checkpoint: Checkpoint,
    request: Request,
    device: torch.device | None,
    progress: Progress | None,
) -> Budgeted:
    """One price by the weights, and moments that are at hand: nobody knows what it costs."""
    if request.max_drop is not None or request.budget.max_drop is not None:
        raise SettingsError(
            [f"{checkpoint.path}: max-drop needs a network that runs: add --arch, or ask for a size with --keep"]
        )
    if request.budget.latency is not None:
        raise SettingsError(
            [f"{checkpoint.path}: latency needs a network that runs: add --arch, or ask for a size with --keep"]
        )
    if request.calibration.calibrate is not None or request.save_moments or request.show_calibration:
        raise SettingsError([f"{checkpoint.path}: calibrating needs a network that runs: add --arch"])
    if (repair := request.calibration.repair) not in (None, "none"):
        raise SettingsError([f"{checkpoint.path}: repair {repair} needs a network that runs: add --arch"])
    moments = None if request.moments is None else load_moments(request.moments)
    plan = plan_within_with(analysis, moments, request.budget, source=checkpoint, device=device, progress=progress)
    found = dict(plan.settings["budget"])
    note = "unverified: the network does not run, so that nobody knows what the cut costs; add --arch and --data"
    return Budgeted(plan, moments, "unverified", "", {"kind": ", ".join(found["asked"]), **found}, (note,), {})


def _block_by_block(
    analysis: Analysis,
    checkpoint: Checkpoint,
    large: TooLarge,
    request: Request,
    device: torch.device | None,
    progress: Progress | None,
) -> Budgeted:
    """One price by moments that are measured block after block: the network has no room to be asked."""
    needing = {
        "max-drop": request.max_drop is not None or request.budget.max_drop is not None,
        "latency": request.budget.latency is not None,
        "macs": request.budget.macs is not None,
        "show-calibration": request.show_calibration is not None,
        "repair": request.calibration.repair not in (None, "none"),
    }
    for option in (name for name, given in needing.items() if given):
        raise SettingsError(
            [
                f"{checkpoint.path}: {option} needs all of it, and {large.why}: give more, or ask for a size with "
                "--keep"
            ]
        )
    if request.moments is not None:
        moments, how = load_moments(request.moments), large.why
    else:
        partial = None if request.save_moments is None else partial_folder(request.save_moments)
        moments, how = large.moments(checkpoint, request.calibration, partial, _named(progress, "calibrating"))
    if request.save_moments is not None:
        save_moments(moments, request.save_moments)
    plan = plan_within_with(analysis, moments, request.budget, source=checkpoint, device=device, progress=progress)
    found = dict(plan.settings["budget"])
    note = f"unverified: nobody knows what the cut costs; {how}"
    return Budgeted(plan, moments, "unverified", "", {"kind": ", ".join(found["asked"]), **found}, (note,), {})


def in_single(model: nn.Module) -> nn.Module:
    """The network, in float32 from now on where its weights are shorter: gradients overflow in those."""
    import torch

    return model.float() if placement(model)[1] in (torch.float16, torch.bfloat16) else model


def _positions(model: nn.Module, calibration: Calibration) -> dict[str, float]:
    found = layer_positions(model, example_inputs(model, calibration.selection, 1))
    if not found:
        raise SettingsError(["macs: it is not known how often the layers of this network are applied; use --keep"])
    return found


def _named(progress: Progress | None, what: str) -> Callable[[int, int, str], None] | None:
    if progress is None:
        return None
    return lambda done, total, name: progress(done, total, f"{what}: {name}" if name else what)
