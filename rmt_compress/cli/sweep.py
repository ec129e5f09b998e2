"""`rmt-compress sweep`: a network's score against how much of it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rmt_compress.analysis.settings import AnalysisSettings
from rmt_compress.cli.console import (
    GoalNotReached,
    checkpoint_or_only_one_here,
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
    typed_settings,
    with_options,
)
from rmt_compress.cli.reports import check_report, write_report
from rmt_compress.errors import SettingsError
from rmt_compress.networks.calibration_settings import PANEL as CALIBRATION
from rmt_compress.networks.calibration_settings import CalibrationSettings
from rmt_compress.networks.tasks.settings import TaskSettings
from rmt_compress.planning.rules import GRIDS
from rmt_compress.planning.settings import Shrink

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.analysis import Analysis
    from rmt_compress.checkpoints import Checkpoint
    from rmt_compress.progress import Progress
    from rmt_compress.sweep import Sweep, SweepTarget


# The kinds that `sweep` knows, which brings numpy with it and would keep `--help` waiting.
What = Literal["rank", "share", "sparsity", "budget", "all"]
# A budget sweep calibrates and tries ten times as many networks: it is asked for by name.
_ALL = ("rank", "share", "sparsity")
# What the other sweeps take of calibration, to estimate the statistics of batch norms anew.
_OF_STATISTICS = ("--repair", "--calibration-samples")


@with_options(without=("selection_samples",))
def sweep(
    context: typer.Context,
    checkpoint: Annotated[
        Path | None,
        typer.Argument(help="A checkpoint; without it, the only one in the current folder.", show_default=False),
    ] = None,
    *,
    data: Data = None,
    asked: TaskSettings,
    arch: Arch = None,
    output: Annotated[
        Path | None,
        optional(
            "Folder for the CSV, JSON and PNG files; by default CHECKPOINT.sweep beside the checkpoint.",
            *("DIR", "--output", "-o"),
        ),
    ] = None,
    what: Annotated[
        What,
        typer.Option(
            help="rank: singular values of one layer at a time; share: the whole network by rank rule; "
            "sparsity: small entries zeroed, with and without low rank first; budget: the whole network within "
            "shares of its size, multiply-adds and time, by metric; all: the first three."
        ),
    ] = "all",
    layer: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Layer of the rank sweep; repeatable. By default the six largest."),
    ] = None,
    rules: Annotated[
        str, typer.Option(metavar="LIST", help="Rank rules of the share sweep, with commas between.")
    ] = ",".join(GRIDS),
    points: Annotated[int, typer.Option(help="Networks tried per curve, about.", min=2)] = 10,
    gof: Annotated[float, typer.Option(help="Largest fit error of a layer that BEMA cuts.")] = AnalysisSettings.gof,
    shrink: Annotated[
        Shrink,
        typer.Option(
            help="Shrink the singular values that a cut keeps to what of them is signal, nearest to it in this "
            "norm; not of a budget sweep."
        ),
    ] = "none",
    calibration: CalibrationSettings,
    moments: Annotated[
        Path | None,
        optional("Take the moments from this file instead of measuring them.", "FILE", panel=CALIBRATION),
    ] = None,
    limit: Limit = None,
    batch_size: Annotated[int | None, batch_size_option()] = None,
    device: Device = "cpu",
    trust: Trust = False,
    weights: Weights = None,
    report: Report = None,
    force: Annotated[bool, force_option("files that exist")] = False,
    as_json: Annotated[bool, json_option("the tables")] = False,
) -> None:
    """Draw a network's score against how much of it is kept, before anything is cut for good.

    Nothing is retrained and the checkpoint is not changed. Each picture marks the score of the network as it is,
    and what `prune` would choose by default.
    """
    from rmt_compress.outputs import make_folder, together
    from rmt_compress.reporting.html.sweep_report import sweep_page
    from rmt_compress.reporting.sweep_files import sweep_table, write_sweep

    if calibration.repair == "blocks":
        raise SettingsError(["repair blocks takes minutes for one network, and a sweep tries many: it is of prune"])
    path = checkpoint_or_only_one_here(checkpoint)
    folder = output or path.with_name(f"{path.stem}.sweep")
    kinds = _ALL if what == "all" else (what,)
    if what != "budget":
        typed = [*typed_settings(context, CalibrationSettings), *(["--moments"] if moments is not None else [])]
        if useless := [name for name in typed if name not in _OF_STATISTICS]:
            raise SettingsError([f"{', '.join(useless)} needs the budget sweep: add --what budget"])
        if calibration.calibration_samples is not None and calibration.repair != "statistics":
            raise SettingsError(["calibration-samples are for batch norms here: add --repair statistics"])
    elif shrink != "none":
        raise SettingsError(["--shrink cannot be combined with budgets, which find the ranks themselves"])
    _check_outputs(folder, kinds, force=force, source=path)
    check_report(report, force=force, inputs=(path,))
    source = opened(path, trust=trust, weights=weights)
    settings = AnalysisSettings(gof=gof)
    sweeps: list[Sweep] = []

    def finished(found: Sweep) -> None:
        with together():
            make_folder(folder)
            write_sweep(found, folder / found.kind)
        sweeps.append(found)
        if not as_json:
            print_result(sweep_table(found), written=folder / f"{found.kind}.csv")

    if what == "budget":
        asks = replace(calibration, seed=asked.data.seed, data=asked.data)
        if asked.dtype is not None:
            raise SettingsError(["dtype: a budget sweep computes in float32, as gradients need it; leave it out"])
        finished(_budget(source, data, asked, asks, settings, arch, moments, points, limit, batch_size, device))
    else:
        target = _target(
            source,
            data,
            asked,
            arch=arch,
            settings=settings,
            calibration=calibration,
            limit=limit,
            batch_size=batch_size,
            device=device,
        ).shrinking(shrink)
        for kind in kinds:
            with progress_bar(f"Sweeping {kind}") as progress:
                found = _sweep(kind, target, layer or [], rules.split(","), points, progress)
            finished(found)
    write_report(report, context, lambda: sweep_page(sweeps))
    if as_json:
        said = {"schema": "rmt-compress/sweeps/1", "sweeps": [each.to_json() for each in sweeps]}
        print_json(said, written=folder)
    pictures = ", ".join(f"{kind}.png" for kind in kinds)
    note(f"{pictures}, and the same as .csv and .json, are in {folder}")
    if not as_json:
        next_step("prune", path)


def _check_outputs(folder: Path, kinds: Sequence[str], *, force: bool, source: Path) -> None:
    from rmt_compress.outputs import check_output, check_output_folder
    from rmt_compress.reporting.sweep_files import check_sweep_outputs

    if not folder.exists():
        check_output(folder, force=force)
        return
    check_output_folder(folder, force=True)
    check_sweep_outputs([folder / kind for kind in kinds], force=force, inputs=(source,))


def _target(
    checkpoint: Checkpoint,
    data: str | None,
    asked: TaskSettings,
    *,
    arch: str | None,
    settings: AnalysisSettings,
    calibration: CalibrationSettings,
    limit: int | None,
    batch_size: int | None,
    device: str,
) -> SweepTarget:
    from rmt_compress.networks.evaluation import move
    from rmt_compress.networks.file_names import file_names
    from rmt_compress.networks.loading import load_model
    from rmt_compress.networks.pixel_statistics import unnormalized_samples
    from rmt_compress.networks.tasks.questions import Question
    from rmt_compress.pruning.calibration import statistics_inputs
    from rmt_compress.sweep import SweepTarget

    path = checkpoint.path
    with progress_bar("Reading") as progress:
        model = load_model(checkpoint, arch=arch, dtype=asked.dtype, progress=progress)
        question = Question(data, model, checkpoint, asked)
        inputs = statistics_inputs(model, question, calibration) if calibration.repair == "statistics" else None
        # What calibrates scores nothing.
        task = question.whole() if inputs is None else question.held_out()
    if limit is not None and task.samples is not None:
        task = task.of(task.samples.thinned(limit))
    for text in () if task.samples is None else task.samples.notes:
        note(text)
    if (words := unnormalized_samples(model, task.samples)) is not None:
        warning(f"{path}: {words}")
    move(model, device)
    with progress_bar("Analysing") as progress:
        analysis = file_names(model, checkpoint).analysis(_analysed(checkpoint, model, settings, progress))
    return SweepTarget(model, analysis, task, path=str(path), batch_size=batch_size, inputs=inputs)


def _analysed(
    checkpoint: Checkpoint,
    what: Checkpoint | nn.Module,
    settings: AnalysisSettings,
    progress: Progress,
    device: str | None = None,
) -> Analysis:
    from rmt_compress.analysis.analyzing import analyze_with
    from rmt_compress.analysis.run_settings import RunSettings

    analysis = analyze_with(what, settings, RunSettings(device=device), progress=progress)
    if not analysis.analyzed:
        raise GoalNotReached(f"{checkpoint.path}: none of its layers can be cut; rmt-compress analyze says why")
    return analysis


def _budget(
    checkpoint: Checkpoint,
    data: str | None,
    asked: TaskSettings,
    calibration: CalibrationSettings,
    settings: AnalysisSettings,
    arch: str | None,
    moments: Path | None,
    points: int,
    limit: int | None,
    batch_size: int | None,
    device: str,
) -> Sweep:
    from rmt_compress.networks.evaluation import move
    from rmt_compress.networks.loading import load_model
    from rmt_compress.networks.tasks.questions import Question
    from rmt_compress.pruning.budgeted import in_single
    from rmt_compress.pruning.sweeping import Swept, sweep_within_budgets

    with progress_bar("Reading") as progress:
        model = load_model(checkpoint, arch=arch, progress=progress)
        if not checkpoint.has_graph:
            model = in_single(model)
        question = Question(data, model, checkpoint, asked)
    move(model, device)
    with progress_bar("Sweeping budgets") as progress:
        found, notes = sweep_within_budgets(
            Swept(_analysed(checkpoint, checkpoint, settings, progress, device), checkpoint, model, question),
            calibration,
            points=points,
            moments=moments,
            limit=limit,
            batch_size=batch_size,
            device=device,
            progress=progress,
        )
    for text in notes:
        note(text)
    return found


def _sweep(
    kind: str, target: SweepTarget, layers: list[str], rules: list[str], points: int, progress: Progress
) -> Sweep:
    from rmt_compress.sweep import sweep_rank, sweep_share, sweep_sparsity

    if kind == "rank":
        return sweep_rank(target, layers=layers, points=points, progress=progress)
    if kind == "share":
        return sweep_share(target, rules=rules, points=points, progress=progress)
    return sweep_sparsity(target, points=points, progress=progress)
