"""`rmt-compress finetune`: train, cut, split, go on."""

from __future__ import annotations

from dataclasses import replace
from glob import escape
from pathlib import Path
from typing import Annotated

import typer

from rmt_compress.analysis.settings import NOISE_AND_CUTS
from rmt_compress.cli.console import GoalNotReached, next_step, note, print_json, print_result
from rmt_compress.cli.options import (
    ARCH_HELP,
    DATA_HELP,
    PACK_HELP,
    REPORT_HELP,
    Pack,
    force_option,
    json_option,
    optional,
    switch,
    was_typed,
    with_options,
)
from rmt_compress.cli.reports import check_report, write_report
from rmt_compress.cli.stopping import stopped_by_file, stopped_status
from rmt_compress.cli.training_view import leads, training_listeners
from rmt_compress.data.settings import DataSettings
from rmt_compress.errors import SettingsError
from rmt_compress.networks.tasks.settings import TaskSettings
from rmt_compress.training.settings import CycleSettings, TrainingSettings

_OUTPUT = "Output"


@with_options(
    ("epochs", "learning_rate", "schedule"),
    ("seed", "samples"),
    ("every", "no_prune"),
    ("keep_bulk", "gof", "gof_conv", "when_not_smaller", "rank_multiple"),
    ("worst_score", "max_drop"),
    ("macs", "way"),
    without=("embeddings", "dtype"),
    renamed={(DataSettings, "seed"): "data_seed"},
)
def finetune(
    context: typer.Context,
    checkpoint: Annotated[
        Path | None,
        typer.Argument(help="A checkpoint to begin with, compressed or not; without it, train afresh."),
    ] = None,
    *,
    data: Annotated[str | None, optional(DATA_HELP)] = None,
    asked: TaskSettings,
    arch: Annotated[str | None, optional(f"{ARCH_HELP} Afresh, each named set has a default.", "SPEC")] = None,
    training: TrainingSettings,
    samples: Annotated[
        int | None,
        optional("Train on N samples only, of text windows, spread over the set.", "N", least=2, panel="Training"),
    ] = None,
    cycle: CycleSettings,
    trust: Annotated[
        bool,
        switch(
            "--trust",
            "Run the code that lies in a Hugging Face folder. It can do anything you can do: only for folders "
            "whose origin you know.",
        ),
    ] = False,
    no_prune: Annotated[bool, switch("--no-prune", "Only train: the baseline.", NOISE_AND_CUTS)] = False,
    compare: Annotated[bool, switch("--compare", "Also train without any cut, and set both side by side.")] = False,
    seeds: Annotated[
        str | None, optional("One run each, as 0,1,2: mean and deviation. The first is written.", "LIST")
    ] = None,
    output: Annotated[
        Path | None,
        optional(
            "The smaller file, .safetensors or .pt, or of a Hugging Face folder the smaller folder; by default "
            "named after the input, with tuned in it. Its log stands beside it.",
            *("OUT", "-o", "--output"),
            panel=_OUTPUT,
        ),
    ] = None,
    pack: Annotated[Pack, typer.Option(help=PACK_HELP, rich_help_panel=_OUTPUT)] = "none",
    resume: Annotated[
        bool, switch("--resume", "Go on after a kill, with the same options as before.", _OUTPUT)
    ] = False,
    force: Annotated[bool, force_option("what an earlier run has left", panel=_OUTPUT)] = False,
    plots: Annotated[
        Path | None,
        optional("Draw score, loss and size over the epochs into this folder.", "DIR", panel=_OUTPUT),
    ] = None,
    report: Annotated[Path | None, optional(REPORT_HELP, "FILE.html", panel=_OUTPUT)] = None,
    tensorboard: Annotated[
        Path | None, optional("Write scalars for TensorBoard here.", "DIR", panel=_OUTPUT)
    ] = None,
    as_json: Annotated[bool, json_option(panel=_OUTPUT)] = False,
) -> None:
    """Train a network and cut the noise out of it every few epochs.

    From a checkpoint or afresh. After every --prune-every epochs each layer that fits the noise law is cut and
    split in two where that is smaller, and training goes on. With a budget (--keep, --macs) all layers are cut to
    it at one price, by what the last steps tell of them. A run that is broken off goes on with --resume.
    """
    from rmt_compress.outputs import together
    from rmt_compress.reporting.html.training_report import training_page
    from rmt_compress.reporting.training_table import finetune_table
    from rmt_compress.training import finetune as run
    from rmt_compress.training.finetuning import default_output

    if data is None:
        raise SettingsError(["finetune needs samples to train on: add --data mnist, cifar10, digits or a folder"])
    if no_prune and cycle.budget.shares:
        raise SettingsError(["a budget is of cuts, and --no-prune makes none: leave out one of them"])
    check_report(report, force=force or resume, inputs=() if checkpoint is None else (checkpoint,))
    if checkpoint is not None and not was_typed(context, "learning_rate"):
        training = replace(training, learning_rate=0.005)
    try:
        with training_listeners(tensorboard) as listeners:
            result = run(
                checkpoint,
                output,
                data=data,
                asked=asked,
                arch=arch,
                training=training,
                cycle=None if no_prune else cycle,
                compare=compare,
                seeds=_numbers(seeds),
                samples=samples,
                trust=trust,
                pack=pack,
                resume=resume,
                force=force,
                listeners=listeners,
            )
    except KeyboardInterrupt:
        if stopped_by_file():
            raise
        if leads():
            note(_what_is_kept(output or default_output(checkpoint, data, arch)))
        raise SystemExit(stopped_status()) from None
    if not leads():
        return
    for text in result.notes:
        note(text)
    with together():
        drawn = None
        if plots is not None:
            from rmt_compress.reporting.training_plots import write_training_plots

            drawn = write_training_plots(result.runs, plots)
        write_report(report, context, lambda: training_page(result), result.notes)
    if drawn is not None:
        note(f"drew {drawn}")
    if as_json:
        print_json(result.to_json(), written=result.output)
    else:
        print_result(finetune_table(result), written=result.output)
    note(f"wrote {result.output} ({result.bytes:,} bytes) and its log {result.log}")
    if result.goal_missed:
        raise GoalNotReached(result.goal_missed)
    if not as_json and result.output is not None:
        beside: tuple[str | Path, ...] = () if checkpoint is None else ("--against", checkpoint)
        next_step("evaluate", result.output, *beside, "--data", Path(data))


def _what_is_kept(target: Path) -> str:
    """What a run that was stopped has left."""
    from rmt_compress.training.finetuning import state_path, stem_of

    # Each run of several has a state of its own.
    first = state_path(target)
    states = [*first.parent.glob(f"{escape(stem_of(target))}.*training.pt")]
    if not states:
        return "stopped before the first epoch was whole: nothing is kept, and the same command begins anew"
    return f"stopped; {states[0].name} keeps the last whole epoch: the same command with --resume goes on"


def _numbers(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise SettingsError([f"seeds must be whole numbers with commas between, got {text!r}"]) from None
