"""Tensors that hold several matrices one below the other: q, k, v of an attention, the gates of an LSTM or GRU.

Stacked, the singular values of two unlike matrices mix and fit neither law; so each is a layer of its own,
called ``attn.in_proj_weight[q]``. Torch reads the whole tensor at once, and no part can become two layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from rmt_compress.layers.layer import Layer, Part

if TYPE_CHECKING:
    from rmt_compress.layers.layer import TensorInfo

_ATTENTION = re.compile(r"(?:^|\.)in_proj_weight$")
RECURRENT = re.compile(r"(?:^|\.)weight_(?:ih|hh|hr)(?P<layer>_l\d+(?:_reverse)?)?$")

_GATES = {4: "ifgo", 3: "rzn"}
_ATTENTION_REASON = "nn.MultiheadAttention keeps q, k and v in one tensor and reads it directly"
_RECURRENT_REASON = "torch's recurrent layers read all their gates from one tensor"


def unpacked(layer: Layer, tensors: Mapping[str, TensorInfo], name: str) -> tuple[Layer, ...]:
    """The matrices in one tensor, in its order; `layer` itself where it is one matrix.

    Args:
        layer: what the whole tensor would be.
        tensors: what the checkpoint holds, by name.
        name: the weight's name in the network, which of a parametrized weight is not the tensor's.
    """
    if len(layer.shape) != 2 or 0 in layer.shape:
        return (layer,)
    if RECURRENT.search(name):
        labels, reason = _GATES.get(_gates(layer, tensors, name), ""), _RECURRENT_REASON
    else:
        packed = _ATTENTION.search(name) and layer.shape[0] == 3 * layer.shape[1]
        labels, reason = "qkv" if packed else "", _ATTENTION_REASON
    if not labels:
        return (replace(layer, why_whole=_RECURRENT_REASON),) if layer.kind == "recurrent" else (layer,)
    rows = layer.shape[0] // len(labels)
    path, dot, own = layer.tensor.rpartition(".")
    bias = f"{path}{dot}{own.replace('weight', 'bias')}"
    return tuple(
        replace(
            layer,
            name=f"{layer.name}[{label}]",
            tensor=f"{layer.tensor}[{label}]",
            aliases=tuple(f"{alias}[{label}]" for alias in layer.aliases),
            shape=(rows, layer.shape[1]),
            bias=bias if bias in tensors else None,
            part=Part(layer.tensor, index * rows, (index + 1) * rows),
            why_whole=reason,
        )
        for index, label in enumerate(labels)
    )


def _gates(layer: Layer, tensors: Mapping[str, TensorInfo], name: str) -> int:
    """How many gates the rows of a recurrent weight belong to; 0 where that cannot be told."""
    stem = name.rpartition("weight_")[0] + "weight_"
    suffix = name.removeprefix(stem)[2:]
    if name.startswith(f"{stem}hr"):
        return 1
    # With projections an LSTM's state is shorter than its gates, and weight_hr goes from one to the other.
    projection, hidden = tensors.get(f"{stem}hr{suffix}"), tensors.get(f"{stem}hh{suffix}")
    size = projection or hidden
    columns = size.shape[1] if size is not None and len(size.shape) == 2 else 0
    if name.startswith(f"{stem}hh") and projection is None:
        columns = layer.shape[1]
    return layer.shape[0] // columns if columns and layer.shape[0] % columns == 0 else 0
