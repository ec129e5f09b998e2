"""Options of every command that reads a checkpoint: which of its weights, and whether its code may run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rmt_compress.checkpoints import Checkpoint

Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Run code from the file where it cannot be read otherwise: a whole pickled model, a TorchScript "
        "program. It can do anything you can do: only for files whose origin you know.",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Which set of weights of a training checkpoint, such as ema; by default the usual one.",
        show_default=False,
    ),
]


def opened(path: Path, *, trust: bool, weights: str | None = None) -> Checkpoint:
    """The checkpoint at `path`, for all that a command does with it."""
    from rmt_compress.checkpoints import open_checkpoint

    return open_checkpoint(path, trust=trust, weights=weights)
