"""`rmt-compress show`: what a file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rmt_compress.cli.console import (
    checkpoint_or_only_one_here,
    next_step,
    note,
    print_json,
    print_result,
    progress_bar,
)
from rmt_compress.cli.options import Trust, Weights, json_option, opened


def show(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="A file written by prune or finetune, or any other checkpoint; without it, the only checkpoint in "
            "the current folder.",
            show_default=False,
        ),
    ] = None,
    trust: Trust = False,
    weights: Weights = None,
    as_json: Annotated[bool, json_option()] = False,
) -> None:
    """Show what a compressed file holds: source, settings, rank and reason of every layer, sparsity, sizes.

    Of a checkpoint that was not compressed, its tensors are listed.
    """
    from rmt_compress.saving.description import describe

    path = checkpoint_or_only_one_here(model)
    with progress_bar("Reading") as progress:
        description = describe(opened(path, trust=trust, weights=weights), progress=progress)
    if description.manifest is None:
        note(f"{path} was not compressed by rmt-compress; these are its tensors")
    if as_json:
        print_json(description.to_json())
    else:
        from rmt_compress.reporting.description_table import contents

        print_result(contents(description))
        if description.manifest is None:
            next_step("analyze", path)
        else:
            next_step("evaluate", path, "--data DATA")
