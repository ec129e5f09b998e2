"""`rmt-compress analyze`: which layers of a checkpoint are noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rmt_compress.analysis.run_settings import RunSettings
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
    Group,
    Report,
    Trust,
    Weights,
    force_option,
    json_option,
    opened,
    optional,
    with_options,
)
from rmt_compress.cli.reports import check_report, write_report
from rmt_compress.errors import SettingsError
from rmt_compress.reporting.analysis_table import Sort, analysis_table, write_csv

if TYPE_CHECKING:
    from rmt_compress.analysis import Analysis
    from rmt_compress.analysis.trend import Trend
    from rmt_compress.checkpoints import Checkpoint
    from rmt_compress.reporting.html.page import Page


@with_options(("gof", "alpha", "beta"))
def analyze(
    context: typer.Context,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Argument(
            help="A .safetensors, .pt, .pth, .bin, .ckpt, .pt2 or .onnx file, a Hugging Face folder or an "
            "*.index.json; without it, the only checkpoint in the current folder. Several, or a folder of several, "
            "are states of one network, the earliest first.",
            show_default=False,
        ),
    ] = None,
    *,
    against: Annotated[
        Path | None, optional("Another state or network of the same architecture, to set it beside.", "CHECKPOINT")
    ] = None,
    settings: AnalysisSettings,
    sort: Annotated[Sort, typer.Option(help="Order of the table's rows.")] = "order",
    group: Group = False,
    as_json: Annotated[bool, json_option()] = False,
    csv: Annotated[Path | None, optional("Write the layers as CSV too.", "FILE")] = None,
    plots: Annotated[
        Path | None,
        optional("Draw one PNG per layer into this folder; of several states one, trend.png.", "DIR"),
    ] = None,
    report: Report = None,
    force: Annotated[bool, force_option("CSV file, pictures and report that exist")] = False,
    trust: Trust = False,
    weights: Weights = None,
    running: RunSettings,
) -> None:
    """Tell which layers of a checkpoint are noise, and what cutting it would save.

    Every Linear and Conv weight is compared with the Marchenko–Pastur law of pure noise. Singular values above
    the noise edge are spikes, the part that was learned; the rest is the bulk.

    noise: fits the law, and spikes hold at most 1 % of the energy. mixed: fits, with spikes that carry
    information. structured: does not fit, to be cut with care.

    Several states of one network (analyze epoch*.pt) are set side by side: what training did to each layer.
    """
    from rmt_compress.analysis.analyzing import analyze_with
    from rmt_compress.outputs import check_output, check_output_folder, together

    paths = _states(checkpoint, against)
    if csv is not None:
        check_output(csv, force=force, inputs=tuple(paths))
    if plots is not None:
        check_output_folder(plots, force=force)
    check_report(report, force=force, inputs=paths)
    if len(paths) > 1:
        if sort != "order" or group:
            raise SettingsError(
                ["--sort and --group are for one checkpoint, and these are several: leave them out"]
            )
        sources = [opened(path, trust=trust, weights=weights, tells=False) for path in paths]
        trend = _side_by_side(paths, sources, settings, running)
        states = zip(trend.names, trend.analyses, strict=True)
        notes = [f"{name}: {text}" for name, analysis in states for text in analysis.notes]
        for text in notes:
            note(text)
        with together():
            _write_trend(trend, csv, plots)
            write_report(report, context, lambda: _trend_page(trend), notes)
        _report_trend(paths, trend, as_json=as_json)
        return
    path = paths[0]
    if plots is not None:
        from rmt_compress.reporting.spectrum_plots import check_drawable

        check_drawable(settings)
    source = opened(path, trust=trust, weights=weights, tells=False)
    with progress_bar("Analysing") as progress:
        analysis = analyze_with(source, settings, replace(running, say=note), progress=progress)
    for text in analysis.notes:
        note(text)
    with together():
        if csv is not None:
            write_csv(analysis, csv)
        if plots is not None:
            from rmt_compress.reporting.spectrum_plots import plot_layers

            with progress_bar("Drawing") as progress:
                plot_layers(analysis, plots, progress=progress)
        write_report(report, context, lambda: _page(analysis), analysis.notes)
    if as_json:
        print_json(analysis.to_json())
    else:
        print_result(analysis_table(analysis, sort=sort, group=group))
    report_outcome(analysis)
    if not as_json:
        _advise(path, analysis)


def _page(analysis: Analysis) -> Page:
    from rmt_compress.reporting.html.analysis_report import analysis_page

    return analysis_page(analysis)


def _states(given: list[Path] | None, against: Path | None) -> list[Path]:
    """The checkpoints that are meant, the earliest first: one, or several states."""
    from rmt_compress.checkpoints.directories import states_in

    if not given:
        paths = [checkpoint_or_only_one_here(None)]
    elif len(given) == 1 and given[0].is_dir():
        paths = states_in(given[0]) or given
    else:
        paths = given
    if against is None:
        return paths
    if len(paths) > 1:
        raise SettingsError([f"--against is for one checkpoint, and these are {len(paths)}: leave it out"])
    return [against, *paths]


def _side_by_side(
    paths: list[Path],
    sources: list[Checkpoint],
    settings: AnalysisSettings,
    running: RunSettings,
) -> Trend:
    from rmt_compress.analysis.trend import analyze_states, short_names

    names = short_names([str(path) for path in paths])
    with progress_bar("Analysing") as progress:
        return analyze_states(sources, settings, names=names, running=running, progress=progress)


def _write_trend(trend: Trend, csv: Path | None, plots: Path | None) -> None:
    from rmt_compress.reporting.trend_table import write_trend_csv

    if csv is not None:
        write_trend_csv(trend, csv)
    if plots is not None:
        from rmt_compress.reporting.trend_plots import write_trend_plot

        write_trend_plot(trend, plots)


def _trend_page(trend: Trend) -> Page:
    from rmt_compress.reporting.html.trend_report import trend_page

    return trend_page(trend)


def _report_trend(paths: list[Path], trend: Trend, *, as_json: bool) -> None:
    """Print what several states say, warn of damaged layers and set the exit status."""
    from rmt_compress.reporting.trend_table import trend_table

    if as_json:
        print_json(trend.to_json())
    else:
        print_result(trend_table(trend))
    damaged = [
        (name, layer)
        for name, analysis in zip(trend.names, trend.analyses, strict=True)
        for layer in analysis.damaged
    ]
    for name, layer in damaged:
        warning(f"{name}: {layer.tensor} skipped: {layer.reason}; is the training run of this file sound?")
    if damaged:
        raise typer.Exit(2)
    if not as_json:
        next_step("analyze", paths[-1], because="the last state alone, with what cutting it would save")


def report_outcome(analysis: Analysis) -> None:
    """Warn of damaged layers and set the exit status."""
    for layer in analysis.damaged:
        warning(f"{layer.tensor} skipped: {layer.reason}; is the training run of this file sound?")
    if analysis.damaged:
        # Bad input, though the rest could be analysed.
        raise typer.Exit(2)
    if not (analysis.analyzed or analysis.factorized):
        raise GoalNotReached(
            f"{analysis.path}: none of its {len(analysis.layers)} tensors can be analysed; "
            "the reasons are listed above"
        )


def _advise(path: Path, analysis: Analysis) -> None:
    if not analysis.analyzed:
        next_step("show", path, because="its factors are all it has")
    elif any(layer.parameters_after < layer.parameters for layer in analysis.analyzed):
        next_step("prune", path)
    else:
        next_step("sweep", path, "--data DATA", because="a cut at the edge saves nothing; what others cost")
