"""From one checkpoint to a smaller file."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.analysis.analyzing import analyze_with
from rmt_compress.analysis.run_settings import RunSettings
from rmt_compress.analysis.settings import AnalysisSettings
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.moved import moved
from rmt_compress.checkpoints.writers import WrittenFile, check_extra_state, stays_a_graph
from rmt_compress.compression import Compressed
from rmt_compress.compression.finished_factors import FinishedFactors
from rmt_compress.compression.plan_checking import check_plan
from rmt_compress.compression.zero_budget import divide_sparsity
from rmt_compress.decomposition.devices import decomposing_devices
from rmt_compress.decomposition.moments_file import load_moments
from rmt_compress.errors import CheckpointError, SettingsError
from rmt_compress.layers.counting import is_buffer
from rmt_compress.networks.evaluation import file_size, move
from rmt_compress.networks.tasks.questions import Question
from rmt_compress.networks.tasks.settings import TaskSettings
from rmt_compress.outputs import check_output, replacing
from rmt_compress.plan import Plan
from rmt_compress.planning.making import check_shrinkable, plan_with
from rmt_compress.planning.settings import PlanSettings
from rmt_compress.progress import Progress
from rmt_compress.pruning.advice import advice
from rmt_compress.pruning.budgeted import Request, in_single, plan_within_budget
from rmt_compress.pruning.carry_over import carried_beside, carried_notes
from rmt_compress.pruning.folder_card import with_card
from rmt_compress.pruning.measuring import Measurement, check_sweep
from rmt_compress.pruning.memory_of_cuts import check_cuts_fit
from rmt_compress.pruning.output_names import default_target
from rmt_compress.pruning.result import PruneResult
from rmt_compress.pruning.shown_inputs import check_shown
from rmt_compress.pruning.unasked import changed_outputs, fits_beside_its_cut, wrecked
from rmt_compress.pruning.unasked_calibration import TooLarge, too_large
from rmt_compress.saving.folders import Pack, check_folder_output, is_folder_output
from rmt_compress.saving.writing import write
from rmt_compress.wording import listed

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.analysis.records import Analysis
    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.plan import Layout

_log = logging.getLogger(__name__)


def prune(
    source: str | Path,
    output: str | Path | None = None,
    *,
    analysis: AnalysisSettings | None = None,
    plan: PlanSettings | Plan | None = None,
    layout: Layout = "factorized",
    pack: Pack = "none",
    save_plan: Path | None = None,
    data: str | None = None,
    asked: TaskSettings | None = None,
    within: Request | None = None,
    moments: Path | None = None,
    accept: bool = False,
    arch: str | None = None,
    fold_batchnorm: bool = False,
    trust: bool = False,
    weights: str | None = None,
    carry_over: bool = False,
    certify: bool = False,
    dry_run: bool = False,
    force: bool = False,
    running: RunSettings | None = None,
    progress: Progress | None = None,
) -> PruneResult:
    """Cut the noise out of a checkpoint and write a smaller one.

    Everything that can be refused is refused before the first weight is read.

    Args:
        source: the checkpoint.
        output: the file to write, or, of a folder, the folder; None for `default_output`.
        analysis: settings of the analysis.
        plan: how to decide, or decisions ready to be carried out, in which case nothing is analysed.
        layout: ``factorized`` or ``dense``.
        pack: how two factors are stored, see `rmt_compress.save`.
        save_plan: where to write the plan as JSON.
        data: data to measure the network with before and after; also draws its score against the weights kept.
        asked: how the data are read, and which task the network is asked.
        within: a budget that the smallest network is sought for, instead of `plan`; see `pruning.budgeted`.
        moments: file of the moments that a ready `plan` was made with, needed unless its basis is ``plain``; or
            those that are to choose a pattern.
        accept: write the network even where it misses the budget.
        arch: the network, where the file does not say; needed with `data`, `within` and `fold_batchnorm` only.
        fold_batchnorm: judge and cut weights with the scale of the batch norm behind them; see `batchnorm`.
        trust: see `open_checkpoint`.
        weights: see `open_checkpoint`.
        carry_over: whether to write what else a training checkpoint holds into the output too (`.pt` and its like).
        certify: certify with the data how far the cut can move the answers, see `pruning.certifying`.
        dry_run: decide, write nothing but the plan.
        force: overwrite outputs.
        running: where the weights are analysed, and within what. The network, unless it is a graph, runs on its
            `device` too; what is not analysis is done here, whatever the `scheduler`. `max_memory` does not bound a
            network that is asked; one that a budget calibrates goes block after block where it has no room twice.
            Beside `resume` stands what has been cut (its name with ``.factors``) until the output is written.
        progress: called with (done, total, name) while analysing and while writing.

    Raises:
        RmtCompressError: bad input, a plan that does not suit, an output that must not or cannot be written, no
            such device.
    """
    path = Path(source)
    running = running or RunSettings()
    asked_of_noise = analysis or AnalysisSettings()
    if asked_of_noise.noise == "all":
        raise SettingsError(
            ["noise all sets models side by side and is for analyze: name the one that decides here"]
        )
    if isinstance(plan, PlanSettings):
        check_shrinkable(plan, asked_of_noise)
        if within is not None and plan.shrink != "none":
            raise SettingsError(["shrink cannot be combined with a budget, which finds the ranks itself"])
    if pack != "none" and layout == "dense":
        raise SettingsError([f"--pack {pack} stores two factors otherwise, and --layout dense has none"])
    if running.resume is not None and fold_batchnorm:
        raise SettingsError(["--resume keeps layers as the file has them: leave --fold-batchnorm out"])
    with open_checkpoint(path, trust=trust, weights=weights) as opened, ExitStack() as stack:
        target = default_target(path, opened, layout) if output is None else Path(output)
        folder = path if is_folder_output(path, target) else None
        if opened.manifest is not None:
            again = f", or multiply the factors again first: rmt-compress export {path} -o dense{path.suffix}"
            why = "is compressed already; prune the original"
            raise CheckpointError(f"{path}: {why}{'' if opened.has_graph else again}")
        checkpoint = _folded(opened, arch) if fold_batchnorm else opened
        place = None if running.device is None else decomposing_devices(running.device)[0]
        if not dry_run and folder is not None:
            check_folder_output(path, target, force=force)
        elif not dry_run:
            _check_file_output(checkpoint, target, layout, pack, runs=data is not None)
            check_output(target, force=force, inputs=checkpoint.files)
        if not dry_run:
            check_extra_state(opened, target)
        if save_plan is not None:
            check_output(save_plan, force=force, inputs=checkpoint.files)
        if within is not None and within.save_moments is not None:
            check_output(within.save_moments, force=force, inputs=checkpoint.files)
        if within is not None and within.show_calibration is not None:
            check_shown(within.show_calibration, force=force, inputs=checkpoint.files)
        carried = carried_beside(opened, target, layout) if carry_over else None
        asks = data is not None or (asked is not None and asked.asks_itself)
        if certify and data is None:
            raise SettingsError(["certify: bounds are for samples, and there are none: add --data"])
        dtype = None if asked is None else asked.dtype
        if dtype is not None and within is not None:
            raise SettingsError(["dtype: a budget is met in float32, as gradients need it; leave it out"])
        if dtype is not None and not asks:
            raise SettingsError(["dtype: of the network while it is asked, and nothing is: add --data"])
        model, large = None, None
        if within is not None and (large := too_large(opened, arch, running.max_memory)) is not None:
            large.refuse(asked=asks, folded=fold_batchnorm)
        elif asks or within is not None:
            model = network_of(opened, arch, folded=fold_batchnorm, needed=asks, dtype=dtype)
            if place is not None and model is not None and not opened.has_graph:
                move(model, place)
        if within is not None and model is not None and not opened.has_graph:
            model = in_single(model)
        question = Question(data, model, opened, asked) if asks and model is not None else None
        if asks:
            check_sweep(target, source=path, force=force)
        measurement = None
        if question is not None and model is not None:
            # What chose the plan scores nothing.
            task = question.whole() if within is None else question.part("test")
            measurement = Measurement(
                opened, model, task, arch=arch, trust=trust, dtype=dtype, certifies=certify, device=place
            )
        analyzed = partial(analyze_with, checkpoint, asked_of_noise, running, progress=progress)
        budgeted = None
        _log.info("%s", _road(plan, within, model or large, question))
        if within is None:
            result = _decided(checkpoint, path, analyzed, plan, layout, moments, place)
        else:
            found = analyzed()
            budgeted = plan_within_budget(
                found, checkpoint, model, question, within, device=place, large=large, progress=progress
            )
            result = _outlined(checkpoint, path, found, budgeted.plan)
            result = replace(
                result,
                verified=budgeted.verified,
                budget=budgeted.record,
                missed=budgeted.missed,
                notes=(*result.notes, *budgeted.notes),
            )
        left_out = [
            entry
            for entry in opened.beside
            if carried is None or not any(f"{entry.name}.".startswith(f"{key}.") for key in carried.entries)
        ]
        result = replace(result, layout=layout, dry_run=dry_run, left_out=tuple(left_out))
        if save_plan is not None:
            with replacing(save_plan) as temporary:
                temporary.write_text(result.plan.to_json(), encoding="utf-8")
            result = replace(result, written=(("plan", (str(save_plan),)),))
        if dry_run or not result.changes or (result.missed and not accept):
            return result
        if running.most_bytes is not None:
            check_cuts_fit(checkpoint, result.plan, layout, running.most_bytes)
        known = None if moments is None else load_moments(moments)
        if budgeted is not None:
            known = budgeted.moments
        view = Compressed(checkpoint, result.plan, layout=layout, architecture=arch, moments=known, device=place)
        if budgeted is not None:
            view.repaired = _suiting(view, budgeted.repaired)
        if question is not None:
            view.metadata = {**view.metadata, **question.remembered}
        if running.resume is not None:
            view.finished = FinishedFactors(
                Path(f"{running.resume}.factors"),
                checkpoint,
                (result.plan, layout, known),
                str(place or "cpu"),
                running.say or _log.info,
                room=view.bytes_changed,
            )
            stack.callback(view.finished.close)
        file = write(
            view,
            target,
            folder=folder,
            carried=carried.entries if carried else None,
            pack=pack,
            progress=progress,
        )
        if view.finished is not None:
            view.finished.remove()
        changed = None
        if within is None and not asks and fits_beside_its_cut(checkpoint, running.most_bytes):
            changed = changed_outputs(checkpoint, target, place)
    result = replace(
        result,
        output=str(target),
        outcomes=view.outcomes,
        bytes_out=file.bytes,
        weights_out=file.weights,
        notes=(
            *result.notes,
            *file.notes,
            *(_packed_notes(result, file) if pack == "pivots" else ()),
            *(carried_notes(carried) if carried else ()),
        ),
    )
    result = replace(result, advice=advice(result, plan if isinstance(plan, PlanSettings) else PlanSettings()))
    if measurement is None:
        known_by = "synthetic" if changed is not None else result.verified
        result = replace(result, verified=known_by, wreck=wrecked(changed))
    else:
        result = measurement.of(replace(result, verified="measured"), target, progress, sweeps=within is None)
    return result if folder is None else with_card(result, folder, target, data)


def _road(
    plan: PlanSettings | Plan | None,
    within: Request | None,
    network: nn.Module | TooLarge | None,
    question: Question | None,
) -> str:
    """Which way the decisions are made, and how their cost is known, in words."""
    if within is not None:
        by = "the weights alone: the network does not run" if network is None else "calibrated directions"
        decided = f"a budget decides the ranks, by {by}"
    elif isinstance(plan, Plan):
        decided = "the plan that was given decides the ranks, and nothing is analysed"
    else:
        decided = f"the rule {(plan or PlanSettings()).rule} decides the ranks, layer by layer"
    asked = "nothing is asked" if question is None else f"the cost is measured on {question.data or 'a callable'}"
    return f"{decided}; {asked}"


def _check_file_output(checkpoint: Checkpoint, target: Path, layout: Layout, pack: Pack, *, runs: bool) -> None:
    """Refuse a name that stands for no format the checkpoint can be written in.

    What is written `runs` without a model class where the checkpoint does; then a state dict is refused too.
    """
    graph = stays_a_graph(checkpoint, target, layout)
    if graph and pack != "none":
        raise SettingsError([f"{target}: a graph has no place for --pack {pack}: leave it out"])
    if not graph and checkpoint.has_graph and runs:
        alone = "a state dict does not run by itself; leave out --data, or add --layout dense"
        raise SettingsError([f"{target}: {alone}"])


def _packed_notes(result: PruneResult, file: WrittenFile) -> list[str]:
    split = sum(decision.action == "factorized" for decision in result.plan.layers)
    if not file.packed:
        return ["none of the layers in two is smaller as pivots and coefficients"]
    return [f"{len(file.packed)} of {split} layers in two are stored as pivots and coefficients"]


def _decided(
    checkpoint: Checkpoint,
    path: Path,
    analyzed: Callable[[], Analysis],
    plan: PlanSettings | Plan | None,
    layout: Layout,
    moments: Path | None,
    device: torch.device | None,
) -> PruneResult:
    """What is going to be done; nothing has been yet. `analyzed` gives the analysis of the checkpoint."""
    if isinstance(plan, Plan):
        check_plan(plan, checkpoint.layers())
        return _outlined(checkpoint, path, None, plan)
    analysis = analyzed()
    asked = plan or PlanSettings()
    made = plan_with(analysis, asked, None if moments is None else load_moments(moments))
    if asked.sparsity is not None and any(decision.sparsity is not None for decision in made.layers):
        near = moved(checkpoint, device)
        made = divide_sparsity(made, analysis, asked.sparsify_budget, source=near, layout=layout)
    return _outlined(checkpoint, path, analysis, made)


def _outlined(checkpoint: Checkpoint, path: Path, analysis: Analysis | None, plan: Plan) -> PruneResult:
    """The result before anything is written."""
    ties = {other for others in checkpoint.ties.values() for other in others}
    return PruneResult(
        buffers=frozenset(layer.tensor for layer in checkpoint.layers() if is_buffer(layer.stored, layer.dtype)),
        weights_in=sum(info.nbytes for name, info in checkpoint.tensors.items() if name not in ties),
        source=str(path),
        output=None,
        analysis=analysis,
        plan=plan,
        outcomes=(),
        notes=checkpoint.notes,
        bytes_in=file_size(checkpoint),
    )


def _suiting(view: Compressed, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The values, each of which must have its place in what is written."""
    strange = [name for name in values if name not in view.tensors]
    if strange:
        what = (
            "--layout dense has no place for what was repaired"
            if view.layout == "dense"
            else "the file names it otherwise"
        )
        raise SettingsError([f"{listed(strange, 3)}: {what}; add --repair none or --repair statistics"])
    return values


def _folded(checkpoint: Checkpoint, arch: str | None) -> Checkpoint:
    from rmt_compress.networks.batchnorm import FoldedCheckpoint
    from rmt_compress.networks.loading import load_model

    if checkpoint.has_graph:
        raise SettingsError(
            [f"{checkpoint.path}: carries its own graph; --fold-batchnorm is for state dicts of a known network"]
        )
    return FoldedCheckpoint(checkpoint, load_model(checkpoint, arch=arch))


def network_of(
    checkpoint: Checkpoint, arch: str | None, *, folded: bool, needed: bool, dtype: str | None = None
) -> nn.Module | None:
    """The network in a checkpoint; None where nothing says which it is, unless it is `needed`."""
    from rmt_compress.networks.batchnorm import fold_batchnorm
    from rmt_compress.networks.loading import load_model

    try:
        model = load_model(checkpoint, arch=arch, dtype=dtype)
    except CheckpointError:
        if needed or arch is not None:
            raise
        return None
    return fold_batchnorm(model) if folded else model
