"""A weight as two thinner ones: W ≈ up · down of rank r, down (r × columns), up (rows × r) (SJK23 §4.2)."""

from __future__ import annotations

from rmt_compress.layers.matrix_view import Layer


def split_parameters(rows: int, columns: int, rank: int) -> int:
    """Entries of the two factors; the split is worth it when this is below rows·columns."""
    return rank * (rows + columns)


def split_refusal(layer: Layer) -> str | None:
    """Why a layer cannot become two stock layers, whatever the rank; None if it can."""
    if layer.kind != "linear" and not layer.kind.startswith("conv"):
        return f"a {layer.kind} weight cannot be split into two stock layers"
    if layer.aliases:
        return f"tied to {', '.join(layer.aliases)}: a split would untie it"
    if not (layer.tensor == "weight" or layer.tensor.endswith(".weight")):
        return "not the weight of a layer of its own, but part of a larger one"
    if layer.groups > 1:
        return f"a convolution of {layer.groups} groups"
    if layer.kind in ("conv1d", "conv2d", "conv3d") and layer.shape[1] == 1 and layer.shape[0] > 1:
        return "one input channel per filter: depthwise, or a first layer on grey images"
    return None
