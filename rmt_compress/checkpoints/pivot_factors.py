"""A compressed checkpoint with other factors of the same products, some rows of which need not be written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmt_compress.checkpoints.base import View
from rmt_compress.decomposition.pivoting import pivoted
from rmt_compress.layers import bitmask, pivot_rows
from rmt_compress.layers.kinds import KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.checkpoints.manifest import FactorizedLayer
    from rmt_compress.layers.layer import TensorInfo


class PivotFactors(View):
    """Names, shapes and products as in `inner`, whose manifest says which weights are two factors.

    The first factor becomes rows of the product, the second has those of the identity there, see
    `decomposition.pivoting`; `write_checkpoint` leaves these out. A pair whose parts a file would not hold in fewer
    bytes stays as it is; so do the factors of transposed convolutions, the second of which has no row for each row
    of the product, and those of stacks.

    Attributes:
        packable: names of the tensors that may have rows of the identity.
    """

    def __init__(self, inner: Checkpoint) -> None:
        super().__init__(inner)
        self.manifest = inner.manifest
        layers = self.manifest.factorized if self.manifest is not None else ()
        layers = tuple(
            layer for layer in layers if _has_rows(layer) and pivot_rows.may_be_smaller(inner.tensors[layer.up])
        )
        self.packable = frozenset(layer.up for layer in layers)
        self._layers = {name: layer for layer in layers for name in (layer.down, layer.up)}
        self._waiting: dict[str, torch.Tensor] = {}

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Those of `inner`."""
        return self.inner.tensors

    @property
    def ties(self) -> Mapping[str, tuple[str, ...]]:
        """Those of `inner`."""
        return self.inner.ties

    def read(self, name: str) -> torch.Tensor:
        """The tensor called `name`; of a pair the other waits for the next call."""
        layer = self._layers.get(name)
        if layer is None:
            return self.inner.read(name)
        if name not in self._waiting:
            pair = _smaller(self.inner.read(layer.down), self.inner.read(layer.up))
            self._waiting = dict(zip((layer.down, layer.up), pair, strict=True))
        return self._waiting.pop(name)

    def close(self) -> None:
        """Give back what the inner checkpoint keeps open."""
        self._waiting = {}
        super().close()


def _has_rows(layer: FactorizedLayer) -> bool:
    kind = KINDS[layer.kind]
    return not (kind.swaps or kind.stacked or layer.transposed)


def _smaller(down: torch.Tensor, up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The pair by pivots, where a file holds it in fewer bytes; else as it is."""
    rank = down.shape[0]
    if not bool(down.isfinite().all() and up.isfinite().all()):
        return down, up
    first, second = pivoted(down.reshape(rank, -1), up.reshape(-1, rank))
    if not bool(first.isfinite().all()):
        return down, up
    made = first.reshape(down.shape), second.reshape(up.shape)
    if (rows := pivot_rows.encode_if_smaller(made[1])) is None:
        return down, up
    packed = _stored(made[0]) + sum(part.nbytes for part in rows)
    return made if packed < _stored(down) + _stored(up) else (down, up)


def _stored(tensor: torch.Tensor) -> int:
    """Bytes of its values in a file, as bitmask and values where these are fewer."""
    entries, itemsize = tensor.numel(), tensor.element_size()
    return min(tensor.nbytes, bitmask.encoded_bytes(entries, int(tensor.count_nonzero()), itemsize))
