"""From named tensors alone to layers: which tensor is whose weight, and of what kind.

A state dict says names and shapes, not modules. A 2-d weight is a Linear unless its name says embedding; 3-
to 5-d weights are convolutions; a ConvTranspose is told by its bias where the shapes leave no doubt,
while the groups of a convolution are known to its module only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from rmt_compress.layers.matrix_view import Layer, LayerKind


@dataclass(frozen=True)
class TensorInfo:
    """What a checkpoint says of a tensor before it is read.

    Attributes:
        name: full name in the checkpoint.
        shape: its shape.
        dtype: torch's name of the element type without ``torch.`` (``float32``, ``bfloat16``, ``int8`` …).
        nbytes: bytes of the dense tensor.
        skip: why it is not to be read as a weight, where the checkpoint knows (sparse, no values, a buffer).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    skip: str | None = None


_RECURRENT = re.compile(r"(?:^|\.)weight_(?:ih|hh)_l\d+(?:_reverse)?$")
_EMBEDDING = re.compile(
    r"(?:^|[._])(?:embed\w*|\w+_embeddings?|emb|wte|wpe|tok_emb|shared|relative_attention_bias)\.weight$",
    re.I,
)

_PARAMETRIZED = re.compile(r"(?:^|\.)parametrizations\.\w+\.(?:original\d*|\d+\..+)$")


def infer_layers(
    tensors: Mapping[str, TensorInfo], ties: Mapping[str, tuple[str, ...]] | None = None
) -> tuple[Layer, ...]:
    """Layers formed by `tensors`, one per tensor, in their order.

    Args:
        tensors: what the checkpoint holds, by name.
        ties: first name of a shared tensor -> its other names; the other names form no layer of their own.
    """
    ties = ties or {}
    repeated = {name for others in ties.values() for name in others}
    return tuple(
        _infer_layer(info, tensors, ties.get(name, ())) for name, info in tensors.items() if name not in repeated
    )


def _infer_layer(info: TensorInfo, tensors: Mapping[str, TensorInfo], aliases: tuple[str, ...]) -> Layer:
    name = info.name.removesuffix(".weight")
    bias = _sibling(info.name, "bias")
    if bias not in tensors:
        bias = None
    bias_length = tensors[bias].shape[0] if bias and len(tensors[bias].shape) == 1 else None
    kind = _kind(info, aliases, bias_length)
    return Layer(
        name=name,
        tensor=info.name,
        kind=kind,
        shape=info.shape,
        dtype=info.dtype,
        bias=bias,
        aliases=aliases,
        whole=_read_from_outside(name, tensors) or _stored_transposed(info, kind, bias_length),
        skip=info.skip or _part_of_parametrization(info.name, tensors),
    )


def _read_from_outside(name: str, tensors: Mapping[str, TensorInfo]) -> str | None:
    """Why the layer called `name` must stay whole: one of torch's own modules around it reads its weight itself."""
    parent, _, own = name.rpartition(".")
    prefix = f"{parent}." if parent else ""
    if own == "out_proj" and any(f"{prefix}{part}_proj_weight" in tensors for part in ("in", "q")):
        return "part of an nn.MultiheadAttention, which reads its weight directly"
    # A decoder layer has a second attention and no such fast path.
    attention, second = f"{prefix}self_attn.in_proj_weight", f"{prefix}multihead_attn.in_proj_weight"
    if own in ("linear1", "linear2") and attention in tensors and second not in tensors:
        return "part of an nn.TransformerEncoderLayer, which reads its weight directly"
    return None


def _stored_transposed(info: TensorInfo, kind: LayerKind, bias_length: int | None) -> str | None:
    if kind == "linear" and bias_length is not None and bias_length != info.shape[0]:
        return f"its bias has {bias_length} entries for {info.shape[0]} rows: not stored as nn.Linear stores it"
    return None


def _sibling(weight: str, name: str) -> str | None:
    """The tensor called `name` beside a tensor called `weight`; a bare module's state dict has no prefix."""
    if weight != "weight" and not weight.endswith(".weight"):
        return None
    return weight.removesuffix("weight") + name


def _part_of_parametrization(name: str, tensors: Mapping[str, TensorInfo]) -> str | None:
    """Weight and spectral norm keep a weight as several tensors, none of which acts in the network as it is."""
    old_style = name.endswith("weight_v") and name[:-1] + "g" in tensors
    if old_style or name.endswith("weight_orig") or _PARAMETRIZED.search(name):
        return (
            "a part of a parametrized weight: open the model itself, or remove the parametrization and save again"
        )
    return None


def _kind(info: TensorInfo, aliases: tuple[str, ...], bias_length: int | None) -> LayerKind:
    dimensions = len(info.shape)
    if dimensions < 2:
        return "vector"
    if dimensions == 2:
        if _RECURRENT.search(info.name):
            return "recurrent"
        # A table tied to an output head is a Linear as well, and its matrix acts as one.
        if _EMBEDDING.search(info.name) and all(_EMBEDDING.search(alias) for alias in aliases):
            return "embedding"
        return "linear"
    if dimensions > 5:
        return "unknown"
    # Only in a transposed convolution does the bias follow the second axis.
    if bias_length is not None and bias_length == info.shape[1] != info.shape[0]:
        transposed: tuple[LayerKind, ...] = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
        return transposed[dimensions - 3]
    plain: tuple[LayerKind, ...] = ("conv1d", "conv2d", "conv3d")
    return plain[dimensions - 3]
