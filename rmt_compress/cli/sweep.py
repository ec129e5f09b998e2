"""`rmt-compress sweep`: accuracy against how much is kept."""

from __future__ import annotations

import enum
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
)
from rmt_compress.cli.evaluate import ARCH_HELP, DATA_HELP, LIMIT_HELP
from rmt_compress.cli.opening import Trust, Weights, opened
from rmt_compress.planning.rules import GRIDS

if TYPE_CHECKING:
    from rmt_compress.checkpoints import Checkpoint
    from rmt_compress.progress import Progress
    from rmt_compress.sweep import Sweep, SweepTarget


class WhatChoice(enum.StrEnum):
    """Values of --what."""

    rank = "rank"
    share = "share"
    sparsity = "sparsity"
    all = "all"


def sweep(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            help="A checkpoint; without it, the only one in the current folder.",
            show_default=False,
        ),
    ] = None,
    *,
    data: Annotated[str, typer.Option(help=DATA_HELP)],
    arch: Annotated[str | None, typer.Option(metavar="SPEC", help=ARCH_HELP, show_default=False)] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Folder for the CSV, JSON and PNG files; by default CHECKPOINT.sweep beside the checkpoint.",
            show_default=False,
        ),
    ] = None,
    what: Annotated[
        WhatChoice,
        typer.Option(
            help="rank: singular values of one layer at a time; share: the whole network by rank rule; "
            "sparsity: small entries zeroed, with and without low rank first."
        ),
    ] = WhatChoice.all,
    layer: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Layer of the rank sweep; repeatable. By default the six largest."),
    ] = None,
    rules: Annotated[
        str, typer.Option(metavar="LIST", help="Rank rules of the share sweep, with commas between.")
    ] = ",".join(GRIDS),
    points: Annotated[int, typer.Option(help="Networks tried per curve, about.", min=2)] = 10,
    gof: Annotated[float, typer.Option(help="Largest fit error of a layer that BEMA cuts.")] = 0.1,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", help=LIMIT_HELP, min=1, show_default=False),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Samples at once.", min=1)] = 64,
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda, cuda:1, mps ….")] = "cpu",
    trust: Trust = False,
    weights: Weights = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the tables.")] = False,
) -> None:
    """Draw accuracy against how much of a network is kept, before anything is cut for good.

    Nothing is retrained and the checkpoint is not changed. Each picture marks the accuracy of the network as it is,
    and what `prune` would choose by default.
    """
    from rmt_compress.reporting.sweep_files import sweep_table, write_sweep

    path = checkpoint_or_only_one_here(checkpoint)
    folder = output or path.with_name(f"{path.stem}.sweep")
    kinds = ["rank", "share", "sparsity"] if what is WhatChoice.all else [what.value]
    _check_outputs(folder, kinds, force=force, source=path)
    target = _target(
        opened(path, trust=trust, weights=weights),
        data,
        arch=arch,
        gof=gof,
        limit=limit,
        batch_size=batch_size,
        device=device,
    )
    sweeps = []
    for kind in kinds:
        with progress_bar(f"Sweeping {kind}") as progress:
            sweeps.append(_sweep(kind, target, layer or [], rules.split(","), points, progress))
        folder.mkdir(exist_ok=True)
        write_sweep(sweeps[-1], folder / kind)
        if not as_json:
            stdout_console().print(sweep_table(sweeps[-1]))
    if as_json:
        report = {"schema": "rmt-compress/sweeps/1", "sweeps": [each.to_json() for each in sweeps]}
        print_json(report)
    pictures = ", ".join(f"{kind}.png" for kind in kinds)
    note(f"{pictures}, and the same as .csv and .json, are in {folder}")


def _check_outputs(folder: Path, kinds: list[str], *, force: bool, source: Path) -> None:
    from rmt_compress.outputs import check_output, check_output_folder
    from rmt_compress.reporting.sweep_files import check_sweep_outputs

    if not folder.exists():
        check_output(folder, force=force)
        return
    check_output_folder(folder, force=True)
    check_sweep_outputs([folder / kind for kind in kinds], force=force, inputs=(source,))


def _target(
    checkpoint: Checkpoint,
    data: str,
    *,
    arch: str | None,
    gof: float,
    limit: int | None,
    batch_size: int,
    device: str,
) -> SweepTarget:
    from rmt_compress.analysis import analyze
    from rmt_compress.data import load_data
    from rmt_compress.networks.evaluation import move
    from rmt_compress.networks.loading import load_model
    from rmt_compress.sweep import SweepTarget

    path = checkpoint.path
    model = load_model(checkpoint, arch=arch)
    dataset = load_data(data, split="test", allow_partial=True)
    for text in dataset.notes:
        note(text)
    if limit is not None:
        dataset = dataset.thinned(limit)
    move(model, device)
    with progress_bar("Analysing") as progress:
        analysis = analyze(model, gof=gof, progress=progress)
    if not analysis.analyzed:
        raise GoalNotReached(f"{path}: none of its layers can be cut; rmt-compress analyze says why")
    return SweepTarget(model, analysis, dataset, path=str(path), batch_size=batch_size)


def _sweep(
    kind: str, target: SweepTarget, layers: list[str], rules: list[str], points: int, progress: Progress
) -> Sweep:
    from rmt_compress.sweep import sweep_rank, sweep_share, sweep_sparsity

    if kind == "rank":
        return sweep_rank(target, layers=layers, points=points, progress=progress)
    if kind == "share":
        return sweep_share(target, rules=rules, points=points, progress=progress)
    return sweep_sparsity(target, points=points, progress=progress)
