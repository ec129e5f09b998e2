"""What may become of a weight: two factors, zeros, or neither; and what its factors are called.

Two factors are two stock layers, see `rmt_compress.layers.modules`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rmt_compress.layers.kinds import factor_shapes
from rmt_compress.layers.layer import FLOAT_DTYPES, Layer

if TYPE_CHECKING:
    import torch


def zeroing_refusal(layer: Layer) -> str | None:
    """Why no entry of a tensor may be zeroed: biases, norms, embedding tables, buffers, whole numbers."""
    if layer.kind not in ("linear", "linear_transposed", "recurrent") and not layer.kind.startswith("conv"):
        return f"no entry of a tensor of kind {layer.kind} may be zeroed"
    if (reason := layer.why_skipped or layer.why_fixed) is not None:
        return f"none of its entries may be zeroed: {reason}"
    if layer.dtype not in FLOAT_DTYPES:
        return f"none of its entries may be zeroed: stored as {layer.dtype}"
    return None


class FactorNames(NamedTuple):
    """Names of the tensors that take the place of a weight and its bias."""

    down: str
    up: str
    bias: str


class Factors(NamedTuple):
    """The weights of the two layers, in the shapes their modules have."""

    down: torch.Tensor
    up: torch.Tensor


def split_parameters(rows: int, columns: int, rank: int) -> int:
    """Entries of the two factors; the split is worth it when this is below rows·columns."""
    return rank * (rows + columns)


def split_refusal(layer: Layer) -> str | None:
    """Why a layer cannot become two stock layers, whatever the rank; None if it can."""
    if (refusal := layer.why_fixed or layer.why_whole) is not None:
        return refusal
    if layer.kind not in ("linear", "linear_transposed") and not layer.kind.startswith("conv"):
        return f"a weight of kind {layer.kind} cannot be split into two stock layers"
    if layer.tied:
        return f"tied to {', '.join(layer.aliases)}: a split would untie it"
    if layer.groups > 1:
        return f"a convolution of {layer.groups} groups"
    if layer.in_graph:
        return None
    if not (layer.tensor == "weight" or layer.tensor.endswith(".weight")):
        return "not the weight of a layer of its own, but part of a larger one"
    if layer.kind in ("conv1d", "conv2d", "conv3d") and layer.shape[1] == 1 and layer.shape[0] > 1:
        return "one input channel per filter: depthwise, or a first layer on grey images"
    return None


def factor_names(tensor_name: str) -> FactorNames:
    """Names of the factors of a weight: ``fc1.weight`` -> ``fc1.down.weight``, ``fc1.up.weight``, ``fc1.up.bias``.

    Raises:
        ValueError: no name of a layer's weight.
    """
    path = tensor_name.removesuffix("weight")
    if path == tensor_name or (path and not path.endswith(".")):
        raise ValueError(f"{tensor_name} is not the weight of a layer of its own")
    return FactorNames(f"{path}down.weight", f"{path}up.weight", f"{path}up.bias")


def factor_tensors(layer: Layer, down: torch.Tensor, up: torch.Tensor) -> Factors:
    """The weights of the two layers from the factors of the matrix.

    Args:
        layer: whose weight was factorized.
        down: (r, columns).
        up: (rows, r).
    """
    first, second = factor_shapes(layer.kind, layer.shape, down.shape[0])
    if layer.kind.startswith("conv_transpose"):
        return Factors(up.T.reshape(first).contiguous(), down.reshape(second))
    return Factors(down.reshape(first), up.reshape(second))
