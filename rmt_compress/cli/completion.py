"""What a shell is offered beside the names of commands, options and files."""

from __future__ import annotations

from pathlib import Path

import typer

from rmt_compress.errors import RmtCompressError


def layer_names(context: typer.Context, incomplete: str) -> list[str]:
    """Names of layers of the checkpoint that was typed before, for an option that takes a glob of them.

    Nothing where there is none yet, or it cannot be read: a shell has no place for a message.
    """
    from rmt_compress.checkpoints import open_checkpoint

    given = context.params.get("checkpoint")
    paths = given if isinstance(given, tuple) else (given,)
    # The option that is being typed has no value yet, at which the parser stops before it takes arguments.
    path = next((each for each in (*paths, *context.args) if each is not None), None)
    if path is None:
        return []
    try:
        with open_checkpoint(Path(path)) as checkpoint:
            names = [layer.name for layer in checkpoint.layers() if len(layer.shape) > 1]
    except RmtCompressError:
        return []
    return [name for name in names if name.startswith(incomplete)]
