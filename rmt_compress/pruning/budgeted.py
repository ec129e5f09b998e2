"""A plan within a budget: inputs, moments, candidates that are tried, and what is repaired after the cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.decomposition.moments_file import load_moments, save_moments
from rmt_compress.errors import CheckpointError, SettingsError
from rmt_compress.networks.calibration.calibrating import calibrate
from rmt_compress.networks.calibration.statistics import batch_norms, renew_statistics
from rmt_compress.networks.calibration_settings import SELF
from rmt_compress.networks.measurement import example_inputs, placement
from rmt_compress.networks.positions import layer_positions
from rmt_compress.networks.replacing import replaced
from rmt_compress.planning.margins import Judgement
from rmt_compress.planning.within import plan_within_with
from rmt_compress.pruning.calibration import Calibration, calibration_for
from rmt_compress.pruning.drop import Drop, judged, lasting
from rmt_compress.pruning.prediction import predicted
from rmt_compress.pruning.repairs import carried_out, repair

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.analysis.records import Analysis
    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.decomposition.moments import Moments
    from rmt_compress.networks.calibration_settings import CalibrationSettings
    from rmt_compress.networks.tasks.questions import Question
    from rmt_compress.networks.tasks.task import Score
    from rmt_compress.plan import Plan
    from rmt_compress.planning.budgets import BudgetSettings
    from rmt_compress.planning.searching import Trial
    from rmt_compress.progress import Progress
    from rmt_compress.pruning.result import Verified


@dataclass(frozen=True)
class Request:
    """What a plan within a budget is asked.

    Attributes:
        budget: the budget and how it is met; its `max_drop` is in the score's own unit.
        calibration: which inputs.
        max_drop: what the user wrote for it: points of a share, else a number or a percentage of the score; None
            for what `budget` says.
        moments: a file of moments to take instead of measuring them.
        save_moments: where to keep them.
    """

    budget: BudgetSettings
    calibration: CalibrationSettings
    max_drop: str | None = None
    moments: Path | None = None
    save_moments: Path | None = None


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
    progress: Progress | None = None,
) -> Budgeted:
    """The plan that a request asks for.

    Args:
        analysis: of the checkpoint.
        checkpoint: what is cut, open.
        model: the network that it is; None where it cannot run.
        question: what it is asked about data; None without data.
        request: the budget and the inputs.
        progress: told of every step.

    Raises:
        SettingsError: a budget that no cut reaches, or that needs a network that runs.
        DataError: no inputs to calibrate with.
        CheckpointError: NaN or Inf in a weight.
    """
    if analysis.damaged:
        layer = analysis.damaged[0]
        raise CheckpointError(
            f"{checkpoint.path}: {layer.tensor}: {layer.reason}, so that nothing can be calibrated; take a "
            "checkpoint from before that"
        )
    if model is None:
        return _unverified(analysis, checkpoint, request, progress)
    calibration = calibration_for(
        model, question, request.calibration, checkpoint, progress=_named(progress, "inputs")
    )
    calibration = replace(calibration, selection=lasting(calibration.selection))
    notes = list(calibration.notes)
    if calibration.verified == "synthetic":
        notes.append("synthetic: no data say what the cut costs; add --data to have it measured")
    if request.moments is not None:
        moments = load_moments(request.moments)
    else:
        moments = calibrate(
            model, calibration.inputs, seed=request.calibration.seed, progress=_named(progress, "calibrating")
        )
    if request.save_moments is not None:
        save_moments(moments, request.save_moments)
    renews = request.calibration.repair != "none" and bool(batch_norms(model))
    budget, drop = request.budget, None
    if request.max_drop is not None or budget.max_drop is not None:
        drop = Drop.of(request.max_drop, budget, request.calibration.calibrate, model, question, calibration)
        budget = replace(budget, max_drop=drop.allowed, confidence=drop.confidence)
        notes += drop.notes

    def judge(score: Score) -> Judgement:
        """Of agreement at a given size its divergence, which is less noisy than equal answers."""
        if drop is None and score.task == "agreement" and score.loss is not None:
            return Judgement(-score.loss)
        return judged(score)

    types = {name: parameter.dtype for name, parameter in model.named_parameters(remove_duplicate=False)}

    def score(trial: Trial) -> Judgement:
        if drop is not None and not trial.rule:
            return judged(drop.whole)
        # The cut has the file's types, which the network need not compute in.
        tensors = {name: tensor.to(types.get(name, tensor.dtype)) for name, tensor in trial.tensors.items()}
        with replaced(model, tensors) as cut:
            renewed = renew_statistics(cut, calibration.inputs) if renews and trial.rule else None
            try:
                return judge(calibration.selection.score(cut))
            finally:
                if renewed is not None:
                    renewed.undo()

    positions = _positions(model, calibration) if budget.macs is not None else None
    plan = plan_within_with(
        analysis,
        moments,
        budget,
        source=checkpoint,
        score=score,
        fresh=None if drop is None or drop.fresh is None else drop.fresh.samples,
        positions=positions,
        progress=_named(progress, "searching"),
    )
    result = carried_out(model, checkpoint, plan, moments)
    repairs = repair(result, model, calibration.inputs, request.calibration, _named(progress, "repairing"))
    notes += repairs.notes
    found = dict(plan.settings["budget"])
    record = {
        "kind": ", ".join(found["asked"]),
        **found,
        "score_name": calibration.selection.metric.name,
        "calibration": calibration.record,
    }
    missed = ""
    made_up = request.calibration.calibrate in (None, SELF) and calibration.verified == "synthetic"
    if drop is not None or made_up:
        with result.network() as small:
            left = (calibration.selection if drop is None else drop.task).score(small)
        if drop is not None:
            record |= drop.record(left)
            missed = drop.missed(left)
        asked = calibration.selection.samples
        expected = predicted(left, text=asked is not None and asked.targets == "tokens") if made_up else None
        if expected is not None:
            notes.append(expected[0])
            record["predicted"] = expected[1]
    return Budgeted(plan, moments, calibration.verified, missed, record, tuple(notes), repairs.values)


def _unverified(
    analysis: Analysis, checkpoint: Checkpoint, request: Request, progress: Progress | None
) -> Budgeted:
    """One price by the weights, and moments that are at hand: nobody knows what it costs."""
    if request.max_drop is not None or request.budget.max_drop is not None:
        raise SettingsError(
            [f"{checkpoint.path}: max-drop needs a network that runs: add --arch, or ask for a size with --keep"]
        )
    if request.calibration.calibrate is not None or request.save_moments is not None:
        raise SettingsError([f"{checkpoint.path}: calibrating needs a network that runs: add --arch"])
    moments = None if request.moments is None else load_moments(request.moments)
    plan = plan_within_with(analysis, moments, request.budget, source=checkpoint, progress=progress)
    found = dict(plan.settings["budget"])
    note = "unverified: the network does not run, so that nobody knows what the cut costs; add --arch and --data"
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
