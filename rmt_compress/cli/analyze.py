"""`rmt-compress analyze`: which layers of a checkpoint are noise."""

from __future__ import annotations

import enum
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rmt_compress.cli.console import (
    GoalNotReached,
    checkpoint_or_only_one_here,
    note,
    print_json,
    progress_bar,
    stdout_console,
    warning,
)
from rmt_compress.cli.opening import Trust, Weights, opened
from rmt_compress.cli.options import Alpha, Beta, Exclude, Gof, Include, MinSize, QuantileChoice, Quantiles

if TYPE_CHECKING:
    from rmt_compress.analysis import Analysis


class SortChoice(enum.StrEnum):
    """Values of --sort."""

    order = "order"
    name = "name"
    gof = "gof"
    spikes = "spikes"
    energy = "energy"
    size = "size"
    saving = "saving"


def analyze(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            help="A .safetensors, .pt, .pth, .bin, .ckpt, .pt2 or .onnx file, a Hugging Face folder or an "
            "*.index.json; without it, the only checkpoint in the current folder.",
            show_default=False,
        ),
    ] = None,
    gof: Gof = 0.1,
    alpha: Alpha = 0.25,
    beta: Beta = 0.1,
    quantiles: Quantiles = QuantileChoice.midpoint,
    include: Include = None,
    exclude: Exclude = None,
    min_size: MinSize = 32,
    embeddings: Annotated[bool, typer.Option("--embeddings", help="Analyse embedding tables too.")] = False,
    sort: Annotated[SortChoice, typer.Option(help="Order of the table's rows.")] = SortChoice.order,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the layers as CSV too.", show_default=False)
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Draw one PNG per layer into this folder.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite CSV file and pictures that exist.")] = False,
    trust: Trust = False,
    weights: Weights = None,
    jobs: Annotated[
        int | None,
        typer.Option(help="Layers worked on at once; by default one per core.", min=1, show_default=False),
    ] = None,
) -> None:
    """Tell which layers of a checkpoint are noise, and what cutting it would save.

    Every Linear and Conv weight is compared with the Marchenko–Pastur law of pure noise. Singular values above
    the noise edge are spikes, the part that was learned; the rest is the bulk.

    noise: fits the law, and spikes hold at most 1 % of the energy. mixed: fits, with spikes that carry
    information. structured: does not fit, to be cut with care.
    """
    from rmt_compress.analysis import AnalysisSettings
    from rmt_compress.analysis import analyze as run
    from rmt_compress.outputs import check_output, check_output_folder

    path = checkpoint_or_only_one_here(checkpoint)
    if csv is not None:
        check_output(csv, force=force, inputs=(path,))
    if plots is not None:
        check_output_folder(plots, force=force)
    settings = AnalysisSettings(
        alpha=alpha,
        beta=beta,
        gof=gof,
        quantiles=quantiles.value,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        min_size=min_size,
        embeddings=embeddings,
    )
    source = opened(path, trust=trust, weights=weights)
    with progress_bar("Analysing") as progress:
        analysis = run(source, **asdict(settings), jobs=jobs, progress=progress)
    for text in analysis.notes:
        note(text)
    if csv is not None:
        from rmt_compress.reporting.analysis_table import write_csv

        write_csv(analysis, csv)
    if plots is not None:
        from rmt_compress.reporting.spectrum_plots import plot_layers

        with progress_bar("Drawing") as progress:
            plot_layers(analysis, plots, progress=progress)
    if as_json:
        print_json(analysis.to_json())
    else:
        from rmt_compress.reporting.analysis_table import analysis_table

        stdout_console().print(analysis_table(analysis, sort=sort.value))
    report_outcome(analysis)


def report_outcome(analysis: Analysis) -> None:
    """Warn of damaged layers and set the exit status.

    Raises:
        GoalNotReached: nothing could be analysed.
    """
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
