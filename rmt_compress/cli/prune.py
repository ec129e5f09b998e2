"""`rmt-compress prune`: a smaller file, and what was done to every layer and why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from rmt_compress.analysis.run_settings import RunSettings
from rmt_compress.analysis.settings import AnalysisSettings
from rmt_compress.cli.analyze import report_outcome
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
    ARCH_FORMS,
    DATA_HELP,
    PACK_HELP,
    Group,
    Pack,
    Report,
    Trust,
    Weights,
    force_option,
    json_option,
    optional,
    switch,
    typed_settings,
    was_typed,
    with_options,
)
from rmt_compress.cli.reports import check_report, write_report
from rmt_compress.errors import SettingsError
from rmt_compress.networks.calibration_settings import PANEL as CALIBRATION
from rmt_compress.networks.calibration_settings import CalibrationSettings
from rmt_compress.networks.tasks.settings import TaskSettings
from rmt_compress.planning.budgets import PANEL, BudgetSettings
from rmt_compress.planning.settings import PlanSettings

# That of `plan`, which brings pydantic with it and would keep `--help` waiting.
Layout = Literal["factorized", "dense"]


@with_options(
    ("output", "gof"),
    ("keep_bulk", "rule"),
    without=("embeddings", "max_drop", "multiple", "evaluations"),
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
        optional(
            "The smaller file, .safetensors or .pt; a folder for a Hugging Face folder, the same format for a "
            "file with a graph (.onnx, .pt2). By default the input's name with .pruned in it.",
            *("OUT", "-o", "--output"),
        ),
    ] = None,
    *,
    decisions: PlanSettings,
    layout: Annotated[
        Layout,
        typer.Option(help="Two thin layers for one, or the original names and shapes that load anywhere."),
    ] = "factorized",
    pack: Annotated[Pack, typer.Option(help=PACK_HELP)] = "none",
    analysis: AnalysisSettings,
    plan: Annotated[Path | None, optional("Carry out this plan instead of making one.", "FILE")] = None,
    save_plan: Annotated[
        Path | None, optional("Write the plan as JSON, to be edited and used again.", "FILE")
    ] = None,
    data: Annotated[
        str | None,
        optional(f"Measure the network before and after, and sweep its score against the rank: {DATA_HELP}"),
    ] = None,
    asked: TaskSettings,
    certify: Annotated[
        bool, switch("--certify", "With --data: prove what the cut can change at most; see docs/certificates.md.")
    ] = False,
    max_drop: Annotated[
        str | None,
        optional(
            "Find the smallest network whose score falls by at most this: points of accuracy (0.5), or a "
            "percentage of a loss (2%).",
            "DROP",
            panel=PANEL,
        ),
    ] = None,
    budget: BudgetSettings,
    calibration: CalibrationSettings,
    moments: Annotated[
        Path | None,
        optional(
            "Take the moments from this file instead of measuring them; also what --plan was made with, and what "
            "chooses a --pattern.",
            "FILE",
            panel=CALIBRATION,
        ),
    ] = None,
    save_moments: Annotated[
        Path | None,
        optional(
            "Keep the moments that were measured, with the inputs that the network made for them; interrupted, the "
            "same command goes on with what stands in FILE.partial.",
            "FILE",
            panel=CALIBRATION,
        ),
    ] = None,
    show_calibration: Annotated[
        Path | None,
        optional(
            "Show what the network is calibrated with: images in FILE.png, text or numbers in FILE.txt.",
            "FILE",
            panel=CALIBRATION,
        ),
    ] = None,
    times: Annotated[
        Path | None,
        optional("Take the times of --latency from this plan instead of measuring them.", "FILE", panel=PANEL),
    ] = None,
    accept: Annotated[bool, switch("--accept", "Write a network that misses the budget too.", PANEL)] = False,
    arch: Annotated[
        str | None,
        optional(f"The network, where the file does not say: {ARCH_FORMS}."),
    ] = None,
    fold_batchnorm: Annotated[
        bool,
        switch(
            "--fold-batchnorm",
            "Judge and cut convolutions together with the batch norm behind them; needs the network (--arch). "
            "Try both: on our sample CNN it costs accuracy.",
        ),
    ] = False,
    trust: Trust = False,
    weights: Weights = None,
    carry_over: Annotated[
        bool,
        switch(
            "--carry-over",
            "Write what else a training checkpoint holds into the smaller .pt file too; the optimizer's state "
            "no longer fits and is left out.",
        ),
    ] = False,
    group: Group = False,
    dry_run: Annotated[bool, switch("--dry-run", "Decide and report, write nothing.")] = False,
    report: Report = None,
    as_json: Annotated[bool, json_option()] = False,
    force: Annotated[bool, force_option("output files that exist")] = False,
    running: RunSettings,
) -> None:
    """Cut the noise out of a checkpoint and write a smaller one.

    Every layer that fits the noise law is cut to its spikes and stored as two thin layers, where that is smaller;
    the others are kept. With --sparsify, small entries become zero and the file stores them in one bit each. Where
    nothing could be asked the result is unverified, and every cut has a risk by the weights alone.
    """
    from rmt_compress.plan import load_plan
    from rmt_compress.planning.within import plan_again
    from rmt_compress.pruning.budgeted import Request
    from rmt_compress.pruning.road import prune as run
    from rmt_compress.reporting.html.prune_report import prune_page
    from rmt_compress.reporting.prune_table import prune_table

    within, ready = None, None
    if plan is not None:
        given = typed_settings(context, AnalysisSettings, PlanSettings, BudgetSettings)
        given += ["--max-drop"] if max_drop is not None else []
        another = bool(given) and set(given) <= {"--keep", "--macs", "--latency"}
        if given and not another:
            raise SettingsError(
                [f"{', '.join(given)} cannot be combined with --plan: the plan has decided that already"]
            )
        ready = plan_again(load_plan(plan), budget) if another else load_plan(plan)
    elif budget.bounded or max_drop is not None:
        budget = replace(budget, multiple=decisions.rank_multiple)
        within = Request(
            budget,
            replace(calibration, seed=asked.data.seed, data=asked.data),
            max_drop,
            moments,
            save_moments,
            times,
            show_calibration=show_calibration,
        )
        owned = ("rule", "keep_bulk", "shrink", "sparsify", "sparsity", "sparsify_budget", "pattern")
        if ruled := [name for name in owned if was_typed(context, name)]:
            raise SettingsError(
                [f"--{ruled[0].replace('_', '-')} cannot be combined with a budget, which finds the ranks itself"]
            )
    if within is None:
        useless = [
            *(typed_settings(context, CalibrationSettings)),
            *([] if ready is not None else typed_settings(context, BudgetSettings)),
            *(["--moments"] if moments is not None and plan is None and decisions.pattern is None else []),
            *(["--save-moments"] if save_moments is not None else []),
            *(["--show-calibration"] if show_calibration is not None else []),
            *(["--accept"] if accept else []),
        ]
        if useless:
            raise SettingsError(
                [f"{', '.join(useless)} needs a budget: add --keep, --macs, --latency or --max-drop"]
            )
    if times is not None and (within is None or budget.latency is None):
        raise SettingsError(["--times needs a budget of time: add --latency"])
    path = checkpoint_or_only_one_here(checkpoint)
    check_report(report, force=force, inputs=(path,))
    with progress_bar("Pruning") as progress:
        result = run(
            path,
            output,
            analysis=analysis,
            plan=decisions if ready is None else ready,
            layout=layout,
            pack=pack,
            save_plan=save_plan,
            data=data,
            asked=asked,
            within=within,
            moments=moments,
            accept=accept,
            arch=arch,
            fold_batchnorm=fold_batchnorm,
            trust=trust,
            weights=weights,
            carry_over=carry_over,
            certify=certify,
            dry_run=dry_run,
            force=force,
            running=replace(running, say=note),
            progress=progress,
        )
    for text in result.notes:
        note(text)
    for text in result.warnings:
        warning(text)
    write_report(report, context, lambda: prune_page(result), result.notes)
    if as_json:
        print_json(result.to_json(), written=result.output)
    else:
        print_result(prune_table(result, group=group), written=result.output)
    if result.analysis is not None:
        report_outcome(result.analysis)
    if result.wreck is not None:
        raise GoalNotReached(f"{result.output}: is written, but its {result.wreck}")
    if result.missed:
        kept = "it was written all the same" if result.output else "nothing was written; --accept writes it"
        raise GoalNotReached(f"{path}: the budget was missed: {result.missed}; {kept}")
    if result.grew:
        raise GoalNotReached(f"{path}: {result.advice}")
    if result.advice is not None:
        note(result.advice)
    if not result.changes:
        raise GoalNotReached(
            f"{path}: nothing to cut at these settings, so nothing was written; see the reasons above"
        )
    if as_json:
        return
    if result.output is None:
        again = () if save_plan is None else ("--plan", save_plan)
        next_step("prune", path, *again, because="the same options without --dry-run")
    elif Path(result.output).is_dir() or data is not None:
        next_step("show", Path(result.output))
    else:
        next_step("evaluate", Path(result.output), "--against", path, "--data DATA")
