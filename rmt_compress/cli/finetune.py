"""`rmt-compress finetune`: train, cut, split, go on."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from rmt_compress.cli.console import GoalNotReached, note, print_json, stdout_console
from rmt_compress.cli.evaluate import ARCH_HELP, DATA_HELP
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
from rmt_compress.cli.training_view import leads, training_listeners


class OptimizerChoice(enum.StrEnum):
    """Values of --optimizer."""

    sgd = "sgd"
    adamw = "adamw"


class LossChoice(enum.StrEnum):
    """Values of --loss."""

    cross_entropy = "cross-entropy"
    mse = "mse"


class AugmentChoice(enum.StrEnum):
    """Values of --augment."""

    none = "none"
    flip_shift = "flip-shift"


class PrecisionChoice(enum.StrEnum):
    """Values of --mixed-precision."""

    no = "no"
    fp16 = "fp16"
    bf16 = "bf16"


class ModeChoice(enum.StrEnum):
    """Values of --mode."""

    recombine = "recombine"
    recursive = "recursive"


class MasksChoice(enum.StrEnum):
    """Values of --masks."""

    held = "held"
    released = "released"


_TRAINING, _SPARSITY, _OUTPUT = "Training", "Sparsification", "Output"


def finetune(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(help="A checkpoint to begin with, compressed or not; without it, train afresh."),
    ] = None,
    data: Annotated[str | None, typer.Option(help=DATA_HELP, show_default=False)] = None,
    arch: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help=f"{ARCH_HELP} Afresh, each named set has a default.", show_default=False),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training samples.", rich_help_panel=_TRAINING)] = 10,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate",
            "--lr",
            help="Of the first epoch; by default 0.02 afresh, 0.005 from a checkpoint.",
            show_default=False,
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    schedule: Annotated[
        str,
        typer.Option(help="Of the rate: constant, cosine or step:FACTOR,EPOCHS.", rich_help_panel=_TRAINING),
    ] = "constant",
    batch_size: Annotated[int, typer.Option(help="Samples per step.", rich_help_panel=_TRAINING)] = 128,
    optimizer: Annotated[
        OptimizerChoice, typer.Option(help="SGD with momentum, or AdamW.", rich_help_panel=_TRAINING)
    ] = OptimizerChoice.sgd,
    momentum: Annotated[float, typer.Option(help="Of SGD.", rich_help_panel=_TRAINING)] = 0.9,
    weight_decay: Annotated[float, typer.Option(help="The optimizer's own.", rich_help_panel=_TRAINING)] = 0.0,
    l1: Annotated[float, typer.Option(help="Times the sum of |w|, in the loss.", rich_help_panel=_TRAINING)] = 0.0,
    l2: Annotated[float, typer.Option(help="Times the sum of w², in the loss.", rich_help_panel=_TRAINING)] = 0.0,
    loss: Annotated[
        LossChoice, typer.Option(help="What is made small.", rich_help_panel=_TRAINING)
    ] = LossChoice.cross_entropy,
    augment: Annotated[
        AugmentChoice, typer.Option(help="Mirror and shift training images.", rich_help_panel=_TRAINING)
    ] = AugmentChoice.none,
    seed: Annotated[int, typer.Option(help="Of weights, order and dropout.", min=0, rich_help_panel=_TRAINING)] = 0,
    samples: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Train on N samples only, spread over the set.",
            min=2,
            show_default=False,
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="cpu, cuda, mps …; by default what there is.", show_default=False, rich_help_panel=_TRAINING
        ),
    ] = None,
    precision: Annotated[
        PrecisionChoice,
        typer.Option("--mixed-precision", help="Of forward and backward pass.", rich_help_panel=_TRAINING),
    ] = PrecisionChoice.no,
    max_seconds: Annotated[
        float | None,
        typer.Option(help="Begin no epoch that would end later.", show_default=False, rich_help_panel=_TRAINING),
    ] = None,
    min_accuracy: Annotated[
        float | None,
        typer.Option(
            help="Cut no more below this test accuracy (0.97), and keep the smallest network that reached it.",
            show_default=False,
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    prune_every: Annotated[
        int,
        typer.Option(
            help="Epochs between two cuts; from a checkpoint the first comes at once.",
            rich_help_panel=NOISE_AND_CUTS,
        ),
    ] = 2,
    no_prune: Annotated[
        bool, typer.Option("--no-prune", help="Only train: the baseline.", rich_help_panel=NOISE_AND_CUTS)
    ] = False,
    mode: Annotated[
        ModeChoice,
        typer.Option(
            help="Two factors are cut again as their product (BSSZ24), or each as a layer (SJK23).",
            rich_help_panel=NOISE_AND_CUTS,
        ),
    ] = ModeChoice.recombine,
    keep_bulk: Annotated[
        str,
        typer.Option(
            help="Share of the noise directions a cut keeps: auto falls to 0 from cut to cut; 0.45; a list "
            "0.6,0.3,0; slope:0.005 for 1 − 0.005·epoch.",
            rich_help_panel=NOISE_AND_CUTS,
        ),
    ] = "auto",
    gof: Gof = 0.1,
    gof_conv: GofConv = None,
    when_not_smaller: WhenNotSmaller = WhenNotSmallerChoice.keep,
    rank_multiple: RankMultiple = 1,
    alpha: Alpha = 0.25,
    beta: Beta = 0.1,
    quantiles: Quantiles = QuantileChoice.midpoint,
    include: Include = None,
    exclude: Exclude = None,
    min_size: MinSize = 32,
    sparsify: Annotated[
        str | None,
        typer.Option(
            metavar="XI",
            help="While training, set weights smaller than this to zero: 0.01, or 0.001:0.02 to rise evenly.",
            show_default=False,
            rich_help_panel=_SPARSITY,
        ),
    ] = None,
    sparsify_every: Annotated[
        int, typer.Option(help="Epochs between two sparsifications.", min=1, rich_help_panel=_SPARSITY)
    ] = 1,
    masks: Annotated[
        MasksChoice,
        typer.Option(help="Zeros stay zero while training, or may grow back.", rich_help_panel=_SPARSITY),
    ] = MasksChoice.held,
    sparsify_after: Annotated[
        float | None,
        typer.Option(
            metavar="XI",
            help="The same once, after the last epoch.",
            show_default=False,
            rich_help_panel=_SPARSITY,
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Also train without any cut, and set both side by side."),
    ] = False,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="One run each, as 0,1,2: mean and deviation. The first is written.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="OUT",
            help="The smaller file, .safetensors or .pt; by default the input's name with .tuned in it. Its log "
            "stands beside it.",
            show_default=False,
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on after a kill, with the same options as before.", rich_help_panel=_OUTPUT
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Overwrite what an earlier run has left.", rich_help_panel=_OUTPUT),
    ] = False,
    plots: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Draw accuracy, loss and size over the epochs into this folder.",
            show_default=False,
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write scalars for TensorBoard here.",
            show_default=False,
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object instead of the table.", rich_help_panel=_OUTPUT),
    ] = False,
) -> None:
    """Train a network and cut the noise out of it every few epochs.

    From a checkpoint or afresh. After every --prune-every epochs each layer that fits the noise law is cut and
    split in two where that is smaller, and training goes on. A run that is broken off goes on with --resume.
    """
    from rmt_compress.errors import SettingsError
    from rmt_compress.reporting.training_table import finetune_table
    from rmt_compress.training import CycleSettings, TrainingSettings
    from rmt_compress.training import finetune as run

    if data is None:
        raise SettingsError(["finetune needs samples to train on: add --data mnist, cifar10, digits or a folder"])
    training = TrainingSettings(
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer.value,
        learning_rate=learning_rate if learning_rate is not None else 0.02 if checkpoint is None else 0.005,
        schedule=schedule,
        momentum=momentum,
        weight_decay=weight_decay,
        l1=l1,
        l2=l2,
        loss=loss.value,
        augment=augment.value,
        seed=seed,
        device=device,
        precision=precision.value,
        max_seconds=max_seconds,
        min_accuracy=min_accuracy,
    )
    cycle = CycleSettings(
        every=prune_every,
        mode=mode.value,
        keep_bulk=keep_bulk,
        gof=gof,
        gof_conv=gof_conv,
        alpha=alpha,
        beta=beta,
        quantiles=quantiles.value,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        min_size=min_size,
        when_not_smaller=when_not_smaller.value,
        rank_multiple=rank_multiple,
        sparsify=sparsify,
        sparsify_every=sparsify_every,
        masks=masks.value,
        sparsify_after=sparsify_after,
    )
    try:
        with training_listeners(tensorboard) as listeners:
            result = run(
                checkpoint,
                output,
                data=data,
                arch=arch,
                training=training,
                cycle=None if no_prune else cycle,
                compare=compare,
                seeds=_numbers(seeds),
                samples=samples,
                resume=resume,
                force=force,
                listeners=listeners,
            )
    except KeyboardInterrupt:
        if leads():
            note("stopped; the state after the last whole epoch is kept: the same command with --resume goes on")
        raise SystemExit(130) from None
    if not leads():
        return
    for text in result.notes:
        note(text)
    if plots is not None:
        from rmt_compress.reporting.training_plots import write_training_plots

        note(f"drew {write_training_plots(result.runs, plots)}")
    if as_json:
        print_json(result.to_json())
    else:
        stdout_console().print(finetune_table(result))
    note(f"wrote {result.output} ({result.bytes:,} bytes) and its log {result.log}")
    if result.goal_missed:
        raise GoalNotReached(result.goal_missed)


def _numbers(text: str | None) -> tuple[int, ...]:
    from rmt_compress.errors import SettingsError

    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise SettingsError([f"seeds must be whole numbers with commas between, got {text!r}"]) from None
