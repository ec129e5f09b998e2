"""Layers that are decomposed once and cut to as many ranks as are tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rmt_compress.layers.layer import as_weight
from rmt_compress.layers.splitting import Factors, factor_tensors, split_refusal

if TYPE_CHECKING:
    import torch

    from rmt_compress.decomposition.bases import Directions
    from rmt_compress.decomposition.svd import Decomposition, StackedDecomposition


class Cuts:
    """Tensors of a network as they are with some of its layers cut.

    Args:
        directions: tensor of a layer -> how it is cut, see `directions_of`.
        read: gives a tensor of the network by its name in the checkpoint.
    """

    def __init__(self, directions: Mapping[str, Directions], read: Callable[[str], torch.Tensor]) -> None:
        self.directions = directions
        self._read = read
        self._found: dict[str, Decomposition | StackedDecomposition] = {}

    def weight(self, tensor: str) -> torch.Tensor:
        """The weight of a layer, as it is."""
        layer = self.directions[tensor].layer
        whole = self._read(layer.stored).detach()
        return whole if layer.part is None else whole[layer.part.start : layer.part.stop]

    def decomposition(self, tensor: str) -> Decomposition | StackedDecomposition:
        """All directions of a layer, computed once.

        Raises:
            NonFiniteError: an entry of the weight is NaN or Inf.
        """
        if tensor not in self._found:
            self._found[tensor] = self.directions[tensor].decompose(self.weight(tensor))
        return self._found[tensor]

    def truncated(self, tensor: str, rank: int) -> torch.Tensor:
        """The weight of a layer with its `rank` leading directions only, in its own shape."""
        return as_weight(self.directions[tensor].layer, self.decomposition(tensor).truncated(rank))

    def tensors(self, ranks: Mapping[str, int]) -> dict[str, torch.Tensor]:
        """Every tensor that changes when layers are cut to these ranks, biases among them, by its name."""
        return self.placed({tensor: self.truncated(tensor, rank) for tensor, rank in ranks.items()})

    def factors(self, ranks: Mapping[str, int]) -> dict[str, Factors]:
        """The two thinner layers of those layers that can become two, by the names of their tensors."""
        return {
            tensor: factor_tensors(self.directions[tensor].layer, *self.decomposition(tensor).factors(rank))
            for tensor, rank in ranks.items()
            if split_refusal(self.directions[tensor].layer) is None
        }

    def placed(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Whole tensors of the network from weights of layers, with the biases that change with them.

        A name that is no layer's is taken for that of a tensor.
        """
        whole: dict[str, torch.Tensor] = {}
        for tensor, weight in weights.items():
            if tensor not in self.directions:
                whole[tensor] = weight
                continue
            directions = self.directions[tensor]
            part, stored = directions.layer.part, directions.layer.stored
            gain = directions.correction(self.weight(tensor), weight) if directions.bias is not None else None
            if part is None:
                whole[stored] = weight
            else:
                whole.setdefault(stored, self._read(stored).detach().clone())[part.start : part.stop] = weight
            if gain is not None and (bias := directions.bias) is not None:
                place = slice(None) if part is None else slice(part.start, part.stop)
                kept = whole.setdefault(bias, self._read(bias).detach().clone())
                kept[place] = (kept[place].double() + gain).to(kept.dtype)
        return whole
