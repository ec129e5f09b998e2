"""Pairs of tensors whose product is a weight: LoRA adapters, and layers that somebody has split already.

    PEFT        q_proj.lora_A.weight (r, in), q_proj.lora_B.weight (out, r), with or without the adapter's name
    kohya       …lora_down.weight, …lora_up.weight
    diffusers   …_lora.down.weight, …_lora.up.weight
    this tool   fc1.down.weight, fc1.up.weight, where the manifest of a file tells of them; of convolutions one
                factor has the kernel, the other is 1×1

Layers that are only called ``down`` and ``up`` are no pair: a bottleneck has the same names and something between.

A product of rank r has no bulk of its own for Marchenko–Pastur to describe; what can be asked is how many of its r
directions it uses. The singular values come from the r × r product of the two triangular factors: the large matrix
is never formed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from rmt_compress.layers.layer import FactorPair
from rmt_compress.layers.splitting import beside

if TYPE_CHECKING:
    import torch

    from rmt_compress.layers.layer import TensorInfo

# (first factor, second factor in its place)
_FIRST = re.compile(
    r"^(?P<path>.*?)(?P<stem>(?:^|(?<=[._]))(?:lora_A|lora_down)|(?<=lora\.)down)(?P<adapter>(?:\.\w+)?)\.weight$"
)
_SECOND = {"lora_A": "lora_B", "lora_down": "lora_up", "down": "up"}

NO_PAIRS: Mapping[str, FactorPair] = MappingProxyType({})


def factor_pairs(tensors: Mapping[str, TensorInfo]) -> dict[str, FactorPair]:
    """Name of the first factor -> the pair, for every pair of an adapter's names whose shapes fit together."""
    pairs = {}
    for name, info in tensors.items():
        match = _FIRST.match(name)
        if match is None or (match["adapter"] and match["stem"] != "lora_A"):
            continue
        second = f"{match['path']}{_SECOND[match['stem']]}{match['adapter']}.weight"
        if second not in tensors or beside(name, "bias") in tensors:
            continue
        matrix = _product_shape(info.shape, tensors[second].shape)
        if matrix is None or info.why_skipped or tensors[second].why_skipped or info.dtype != tensors[second].dtype:
            continue
        path = match["path"].rstrip("._") or match["stem"]
        pairs[name] = FactorPair(f"{path}{match['adapter']}", second, *matrix)
    return pairs


def _product_shape(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, int] | None:
    """(rows, columns) of the matrix that two factors make, None where they make none, or one not larger."""
    if len(first) != len(second) or len(first) < 2 or 0 in first or 0 in second:
        return None
    rank = first[0]
    if _is_plain(rank, second):
        rows, columns = second[0], math.prod(first[1:])
    elif second[0] == rank and math.prod(first[2:]) == 1:
        # A transposed convolution: its matrix is (in, out·∏k), see `rmt_compress.layers.kinds`.
        rows, columns = first[1], math.prod(second[1:])
    else:
        return None
    return (rows, columns) if rank < min(rows, columns) else None


def pair_matrices(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``down`` (r, inputs) and ``up`` (outputs, r) of a pair of which shapes alone tell what it is.

    Args:
        first: (r, in, …).
        second: (out, r, 1…); of a transposed convolution (r, out, k…), where `first` is (r, in, 1…).
    """
    rank = first.shape[0]
    plain = _is_plain(rank, tuple(second.shape))
    return first.reshape(rank, -1), second.reshape(-1, rank) if plain else second.reshape(rank, -1).T


def pair_products(
    first: torch.Tensor, second: torch.Tensor, *, stacked: bool
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The factors of every product that two tensors make: of one, see `pair_matrices`, or of each in a stack."""
    if not stacked:
        return [pair_matrices(first, second)]
    return list(zip(first.unbind(0), second.unbind(0), strict=True))


def _is_plain(rank: int, second: tuple[int, ...]) -> bool:
    """Whether the second factor, of this shape, is a product or a point-wise convolution of `rank` inputs."""
    return second[1] == rank and math.prod(second[2:]) == 1
