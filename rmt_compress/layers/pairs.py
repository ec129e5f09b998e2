"""Pairs of tensors whose product is a weight: LoRA adapters, and layers that somebody has split already.

    PEFT        q_proj.lora_A.weight (r, in), q_proj.lora_B.weight (out, r), with or without the adapter's name
    kohya       …lora_down.weight, …lora_up.weight
    diffusers   …_lora.down.weight, …_lora.up.weight
    this tool   fc1.down.weight, fc1.up.weight; of convolutions one factor has the kernel, the other is 1×1

A product of rank r has no bulk of its own for Marchenko–Pastur to describe; what can be asked is how many of its r
directions it uses. The singular values come from the r × r product of the two triangular factors: the large matrix
is never formed. A bottleneck with something between its layers may bear the names ``down`` and ``up`` as well:
where there is a bias after the first, or another tensor beside them, they are not taken for a pair.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from rmt_compress.layers.matrix_view import FactorPair
from rmt_compress.spectrum.singular_values import NonFiniteError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from rmt_compress.layers.inference import TensorInfo

# (first factor, second factor in its place)
_FIRST = re.compile(
    r"^(?P<path>.*?)(?P<stem>(?:^|(?<=[._]))(?:lora_A|lora_down|down))(?P<adapter>(?:\.\w+)?)\.weight$"
)
_SECOND = {"lora_A": "lora_B", "lora_down": "lora_up", "down": "up"}


def factor_pairs(tensors: Mapping[str, TensorInfo]) -> dict[str, FactorPair]:
    """Name of the first factor -> the pair, for every pair whose shapes fit together."""
    pairs = {}
    names = sorted(tensors)
    for name, info in tensors.items():
        match = _FIRST.match(name)
        if match is None or (match["adapter"] and match["stem"] != "lora_A"):
            continue
        if match["stem"] == "down" and _is_crowded(match["path"], names):
            continue
        second = f"{match['path']}{_SECOND[match['stem']]}{match['adapter']}.weight"
        if second not in tensors or f"{name.removesuffix('weight')}bias" in tensors:
            continue
        matrix = _product_shape(info.shape, tensors[second].shape)
        if matrix is None or info.skip or tensors[second].skip or info.dtype != tensors[second].dtype:
            continue
        path = match["path"].rstrip("._") or match["stem"]
        pairs[name] = FactorPair(f"{path}{match['adapter']}", second, *matrix)
    return pairs


def pair_singular_values(down: torch.Tensor, up: torch.Tensor) -> NDArray[np.float64]:
    """The r singular values of the product of two factors, descending, computed in float64.

    Args:
        down: (r, in, …).
        up: (out, r, 1…); of a transposed convolution (r, out, k…), where `down` is (r, in, 1…).

    Raises:
        NonFiniteError: an entry is NaN or Inf.
    """
    import torch

    first, second = down.detach().double(), up.detach().double()
    if not bool(first.isfinite().all() and second.isfinite().all()):
        raise NonFiniteError("a factor holds NaN or Inf")
    rank = first.shape[0]
    right = first.reshape(rank, -1).T
    left = second.reshape(-1, rank) if _is_plain(rank, tuple(up.shape)) else second.reshape(rank, -1).T
    triangles = [torch.linalg.qr(side, mode="r").R for side in (left, right)]
    return np.asarray(torch.linalg.svdvals(triangles[0] @ triangles[1].T).cpu().numpy(), dtype=np.float64)


def effective_rank(values: NDArray[np.float64]) -> float:
    """Roy and Vetterli's: e to the entropy of s/Σs (*The effective rank*, 2007); 0 for a product that is zero."""
    total = values.sum()
    if total <= 0:
        return 0.0
    shares = values[values > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _is_crowded(path: str, names: Sequence[str]) -> bool:
    """Whether more than ``down`` and ``up`` is below a path: a norm between two layers makes them no product.

    Args:
        path: with the dot at its end.
        names: of all tensors, sorted.
    """
    for name in islice(names, bisect_left(names, path), None):
        if not name.startswith(path):
            break
        if not name.startswith((f"{path}down.", f"{path}up.")):
            return True
    return False


def _product_shape(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, int] | None:
    """(rows, columns) of the matrix that two factors make, None where they make none, or one not larger."""
    if len(first) != len(second) or len(first) < 2 or 0 in first or 0 in second:
        return None
    rank = first[0]
    if _is_plain(rank, second):
        rows, columns = second[0], math.prod(first[1:])
    elif second[0] == rank and math.prod(first[2:]) == 1:
        # A transposed convolution: its matrix is (in, out·∏k), see `rmt_compress.layers.factors`.
        rows, columns = first[1], math.prod(second[1:])
    else:
        return None
    return (rows, columns) if rank < min(rows, columns) else None


def _is_plain(rank: int, second: tuple[int, ...]) -> bool:
    return second[1] == rank and math.prod(second[2:]) == 1
