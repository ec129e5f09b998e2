"""What a training checkpoint holds beside its weights, written beside the smaller ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.checkpoints.formats import state_dict_formats
from rmt_compress.checkpoints.keys import MANIFEST_KEY
from rmt_compress.errors import OutputError
from rmt_compress.wording import printable

if TYPE_CHECKING:
    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.checkpoints.beside import Carried
    from rmt_compress.plan import Layout


def carried_beside(checkpoint: Checkpoint, target: Path, layout: Layout) -> Carried:
    """What the file holds beside its weights, without what stands where a file of `layout` has its own things.

    Raises:
        OutputError: the target has no room for it.
    """
    written = state_dict_formats().get(target.suffix.lower())
    if written is None or not written.has_room or checkpoint.has_graph:
        raise OutputError(f"{target}: only a .pt, .pth, .bin or .ckpt file has room for more than weights")
    carried = checkpoint.carried()
    if layout == "dense":
        return carried
    from rmt_compress.checkpoints.beside import Carried

    own = [key for key in ("state_dict", MANIFEST_KEY) if key in carried.entries]
    return Carried(
        {key: entry for key, entry in carried.entries.items() if key not in (*own, "metadata")},
        (*carried.left, *((key, "the compressed weights stand there") for key in own)),
    )


def carried_notes(carried: Carried) -> list[str]:
    """What was carried over, and what was not and why, a line each."""
    notes = [f"carried over as it was: {', '.join(carried.entries) or 'nothing'}"]
    notes += [f"{name} was left out: {why}" for name, why in carried.left]
    return [printable(note) for note in notes]
