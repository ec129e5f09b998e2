"""Whether the weights that a plan cuts fit in the memory there is, each decomposed whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmt_compress.analysis.memory_budget import PROGRAM
from rmt_compress.errors import SettingsError
from rmt_compress.layers.layer import FLOAT_BYTES
from rmt_compress.settings.sizes import shown_bytes
from rmt_compress.wording import times

if TYPE_CHECKING:
    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.layers.layer import Layer
    from rmt_compress.plan import Layout, Plan

# The columns that are worked on in float64, and what is made of them.
_BLOCKS = 40_000_000


def check_cuts_fit(checkpoint: Checkpoint, plan: Plan, layout: Layout, room: int) -> None:
    """Refuse a plan with a weight whose cut would take more than `room`, bytes of the whole program.

    Raises:
        SettingsError: naming the weight, and what it takes.
    """
    ranks = {decision.tensor: decision.rank for decision in plan.layers if decision.rank is not None}
    needs = [
        (PROGRAM + _need(layer, checkpoint, ranks[layer.tensor], layout), layer)
        for layer in checkpoint.layers()
        if layer.tensor in ranks
    ]
    most, layer = max(needs, key=lambda each: each[0], default=(0, None))
    if layer is not None and most > room:
        raise SettingsError(
            [
                f"max-memory {shown_bytes(room)}: the program and the cut of {layer.tensor} ({layer.dtype} "
                f"{times(layer.shape)}) may take {shown_bytes(most)}; give as much, or leave the layer out "
                f"(--exclude '{layer.name}')"
            ]
        )


def _need(layer: Layer, checkpoint: Checkpoint, rank: int, layout: Layout) -> int:
    """Bytes of the tensor that is read, of one decomposition and of what is made of the weight."""
    rows, columns = layer.matrix or (1, 1)
    p, n, item = min(rows, columns), max(rows, columns), FLOAT_BYTES[layer.dtype]
    decomposition = 8 * p**2 + 8 * p * rank + 4 * rank * n + _BLOCKS
    factors = item * layer.matrices * rank * (p + n)
    made = (4 + item) * layer.parameters if layout == "dense" or layer.part is not None else factors
    return checkpoint.tensors[layer.stored].nbytes + decomposition + made
