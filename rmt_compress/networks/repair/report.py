"""What block-wise repair has done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class BlockRepair:
    """One block.

    Attributes:
        block: its path; ``""`` for the whole network.
        layers: paths of the split layers in it.
        parameters: how many numbers were trained.
        before: ‖output − original's output‖ / ‖original's output‖ on the held-out inputs, as the block came, behind
            blocks that are repaired; measured where the next block reads it.
        after: the same as the block is left, never larger.
        kept: whether training has made it better; else it is as it came.
        seconds: how long it took.
    """

    block: str
    layers: tuple[str, ...]
    parameters: int
    before: float
    after: float
    kept: bool
    seconds: float


@dataclass(frozen=True, eq=False)
class RepairReport:
    """What was repaired.

    Attributes:
        blocks: in the order in which they are called; empty where no layer is split.
        tensors: name of a tensor in the state dict of the compressed network -> its new value, as it is stored;
            those alone that have changed, under every name they have.
        before: relative error of the last block's output on the held-out inputs, as `BlockRepair.before`, of the
            network as it came.
        after: as it is left, never larger.
        inputs: how many pieces the calibration inputs were cut into, one in eight held out.
        left_out: how many more would not have fitted into memory.
        seconds: in all.
    """

    blocks: tuple[BlockRepair, ...]
    tensors: dict[str, torch.Tensor] = field(repr=False)
    before: float
    after: float
    inputs: int
    left_out: int
    seconds: float
