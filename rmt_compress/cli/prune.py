"""`rmt-compress prune`: a smaller file, and what was done to every layer and why."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from rmt_compress.cli.analyze import report_outcome
from rmt_compress.cli.console import (
    GoalNotReached,
    checkpoint_or_only_one_here,
    note,
    print_json,
    progress_bar,
    stdout_console,
)
from rmt_compress.cli.opening import Trust, Weights
from rmt_compress.cli.options import (
    NOISE_AND_CUTS,
    Alpha,
    Beta,
    Exclude,
    Gof,
    GofConv,
    Include,
    MinSize,
    QuantileChoice,
    Quantiles,
    RankMultiple,
    WhenNotSmaller,
    WhenNotSmallerChoice,
)
from rmt_compress.planning.rules import usage


class LayoutChoice(enum.StrEnum):
    """Values of --layout."""

    factorized = "factorized"
    dense = "dense"


# What a ready plan decides, so that it cannot be asked for beside one.
_DECIDED_BY_PLAN = (
    *("gof", "gof_conv", "keep_bulk", "rule", "rank_multiple", "when_not_smaller", "sparsify", "sparsity"),
    *("alpha", "beta", "quantiles", "include", "exclude", "min_size"),
)


def prune(
    context: typer.Context,
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            help="What `analyze` takes; without it, the only checkpoint in the current folder.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="OUT",
            help="The smaller file, .safetensors or .pt; a folder for a Hugging Face folder, the same format for a "
            "file with a graph (.onnx, .pt2). By default the input's name with .pruned in it.",
            show_default=False,
        ),
    ] = None,
    gof: Gof = 0.1,
    gof_conv: GofConv = None,
    keep_bulk: Annotated[
        float,
        typer.Option(
            help="Share of the noise directions to keep beside the spikes, 0 to 1.",
            rich_help_panel=NOISE_AND_CUTS,
        ),
    ] = 0.0,
    rule: Annotated[
        str,
        typer.Option(
            help=f"How the rank is chosen: {usage()}.",
            rich_help_panel=NOISE_AND_CUTS,
        ),
    ] = "bema",
    rank_multiple: RankMultiple = 1,
    when_not_smaller: WhenNotSmaller = WhenNotSmallerChoice.keep,
    sparsify: Annotated[
        float | None,
        typer.Option(metavar="XI", help="Set weights smaller than this to zero.", show_default=False),
    ] = None,
    sparsity: Annotated[
        float | None,
        typer.Option(help="Set this share of each layer's weights to zero, the smallest.", show_default=False),
    ] = None,
    layout: Annotated[
        LayoutChoice,
        typer.Option(help="Two thin layers for one, or the original names and shapes that load anywhere."),
    ] = LayoutChoice.factorized,
    alpha: Alpha = 0.25,
    beta: Beta = 0.1,
    quantiles: Quantiles = QuantileChoice.midpoint,
    include: Include = None,
    exclude: Exclude = None,
    min_size: MinSize = 32,
    plan: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Carry out this plan instead of making one.", show_default=False),
    ] = None,
    save_plan: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the plan as JSON, to be edited and used again.", show_default=False
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Measure accuracy before and after, and sweep it against the rank: mnist, fashion-mnist, cifar10, "
            "digits, a folder or package.module:callable.",
            show_default=False,
        ),
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option(
            help="The network, where the file does not say: mlp:784,1000,10, cnn:… or package.module:callable.",
            show_default=False,
        ),
    ] = None,
    fold_batchnorm: Annotated[
        bool,
        typer.Option(
            "--fold-batchnorm",
            help="Judge and cut convolutions together with the batch norm behind them; needs the network (--arch). "
            "Try both: on our sample CNN it costs accuracy.",
        ),
    ] = False,
    trust: Trust = False,
    weights: Weights = None,
    carry_over: Annotated[
        bool,
        typer.Option(
            "--carry-over",
            help="Write what else a training checkpoint holds into the smaller .pt file too; the optimizer's state "
            "no longer fits and is left out.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide and report, write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite output files that exist.")] = False,
    jobs: Annotated[
        int | None,
        typer.Option(help="Layers analysed at once; by default one per core.", min=1, show_default=False),
    ] = None,
) -> None:
    """Cut the noise out of a checkpoint and write a smaller one.

    Every layer that fits the noise law is cut to its spikes and stored as two thin layers, where that is smaller;
    the others are kept. With --sparsify, small entries become zero and the file stores them in one bit each.
    """
    from rmt_compress.analysis import AnalysisSettings
    from rmt_compress.errors import SettingsError
    from rmt_compress.plan import load_plan
    from rmt_compress.planning.settings import PlanSettings
    from rmt_compress.pruning.road import prune as run
    from rmt_compress.reporting.prune_table import prune_table

    if plan is not None:
        given = [name for name in _DECIDED_BY_PLAN if _was_typed(context, name)]
        if given:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise SettingsError([f"{options} cannot be combined with --plan: the plan has decided that already"])
    path = checkpoint_or_only_one_here(checkpoint)
    with progress_bar("Pruning") as progress:
        result = run(
            path,
            output,
            analysis=AnalysisSettings(
                alpha=alpha,
                beta=beta,
                gof=gof,
                quantiles=quantiles.value,
                include=tuple(include or ()),
                exclude=tuple(exclude or ()),
                min_size=min_size,
            ),
            plan=PlanSettings(
                gof=gof,
                gof_conv=gof_conv,
                rule=rule,
                keep_bulk=keep_bulk,
                rank_multiple=rank_multiple,
                when_not_smaller=when_not_smaller.value,
                sparsify=sparsify,
                sparsity=sparsity,
            )
            if plan is None
            else load_plan(plan),
            layout=layout.value,
            save_plan=save_plan,
            data=data,
            arch=arch,
            fold_batchnorm=fold_batchnorm,
            trust=trust,
            weights=weights,
            carry_over=carry_over,
            dry_run=dry_run,
            force=force,
            jobs=jobs,
            progress=progress,
        )
    for text in result.notes:
        note(text)
    if as_json:
        print_json(result.to_json())
    else:
        stdout_console().print(prune_table(result))
    if result.analysis is not None:
        report_outcome(result.analysis)
    if not result.changes:
        raise GoalNotReached(
            f"{path}: nothing to cut at these settings, so nothing was written; see the reasons above"
        )


def _was_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
