"""Weights that a checkpoint stores as several tensors: weight norm, W = g·v/‖v‖; spectral norm, W/σ; masks.

What acts in the network is the effective weight; it is computed here where the tensors say how:

    torch.nn.utils.weight_norm        weight_g, weight_v
    torch.nn.utils.spectral_norm      weight_orig, and the vectors weight_u, weight_v: σ = uᵀ·W·v
    torch.nn.utils.prune              weight_orig, weight_mask: their product
    …parametrizations.weight_norm     parametrizations.weight.original0 (g) and original1 (v)
    …parametrizations.spectral_norm   parametrizations.weight.original, parametrizations.weight.0._u and 0._v
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rmt_compress.layers.layer import FLOAT_DTYPES, Composition

if TYPE_CHECKING:
    import torch

    from rmt_compress.layers.layer import TensorInfo

_PARAMETRIZED = re.compile(r"^(?P<path>(?:.*\.)?)parametrizations\.(?P<own>\w+)\.(?:original\d*|\d+\..+|\d+)$")
_STACKED = re.compile(r"^(?P<stem>(?:.*\.)?parametrizations\.\w+\.)1\.")
_OLD = re.compile(r"^(?P<weight>(?:.*\.)?weight\w*?)_(?P<part>g|v|u|orig|mask)$")


def compositions(tensors: Mapping[str, TensorInfo]) -> dict[str, Composition]:
    """Name of the largest tensor of every weight stored as several -> how the weight is computed."""
    found = {}
    stacked = {match["stem"] for name in tensors if (match := _STACKED.match(name)) is not None}
    for name, info in tensors.items():
        if (new := _PARAMETRIZED.match(name)) is not None:
            weight, stem = new["path"] + new["own"], f"{new['path']}parametrizations.{new['own']}."
            norms, directions = f"{stem}original0", f"{stem}original1"
            matrix, left, right = f"{stem}original", f"{stem}0._u", f"{stem}0._v"
            mask = f"{stem}0.mask"
            # A second parametrization after the first changes the weight in ways that names do not tell.
            if stem in stacked:
                continue
        elif (old := _OLD.match(name)) is not None:
            weight = old["weight"]
            norms, directions = f"{weight}_g", f"{weight}_v"
            matrix, left, right = f"{weight}_orig", f"{weight}_u", f"{weight}_v"
            mask = f"{weight}_mask"
        else:
            continue
        if name == directions and norms in tensors and _are_norms(tensors[norms].shape, info.shape):
            composition = Composition("weight norm", weight, (directions, norms))
        elif name == matrix and left in tensors and right in tensors:
            if _axis(info.shape, tensors[left].shape, tensors[right].shape) is None:
                continue
            composition = Composition("spectral norm", weight, (matrix, left, right))
        elif name == matrix and tensors.get(mask, info).shape == info.shape != () and mask in tensors:
            composition = Composition("pruning mask", weight, (matrix, mask))
        else:
            continue
        if info.why_skipped is None and all(tensors[part].dtype in FLOAT_DTYPES for part in composition.parts):
            found[name] = composition
    return found


def unknown_parametrization(name: str, tensors: Mapping[str, TensorInfo]) -> str | None:
    """Why the tensor `name`, in no composition, is no weight by itself; None where it is an ordinary tensor."""
    old = _OLD.match(name)
    if _PARAMETRIZED.match(name) or (
        old is not None and (old["part"] == "orig" or (old["part"] == "v" and f"{old['weight']}_g" in tensors))
    ):
        return (
            "a part of a parametrized weight: open the model itself, or remove the parametrization and save again"
        )
    return None


def compose(composition: Composition, read: Callable[[str], torch.Tensor]) -> torch.Tensor:
    """The effective weight, in the type and shape of its largest tensor."""
    import torch

    largest, *others = [read(name) for name in composition.parts]
    if composition.method == "pruning mask":
        return largest * others[0].to(largest.dtype)
    dtype = torch.promote_types(largest.dtype, torch.float32)
    if composition.method == "weight norm":
        directions, norms = largest.to(dtype), others[0].to(dtype)
        axes = [axis for axis, size in enumerate(norms.shape) if size == 1] or list(range(directions.dim()))
        lengths = directions.square().sum(axes, keepdim=bool(norms.dim())).sqrt()
        weight = directions * (norms / lengths)
    else:
        matrix, left, right = (part.to(dtype) for part in (largest, *others))
        axis = _axis(tuple(matrix.shape), tuple(left.shape), tuple(right.shape))
        assert axis is not None
        unfolded = matrix.movedim(axis, 0).flatten(1)
        weight = matrix / (left @ (unfolded @ right))
    return weight.to(largest.dtype)


def _are_norms(norms: tuple[int, ...], directions: tuple[int, ...]) -> bool:
    """Whether g holds one length per slice of v along one axis, or a single one."""
    if not norms or math.prod(norms) == 1:
        return len(norms) in (0, len(directions))
    return len(norms) == len(directions) and (
        sum(own == other for own, other in zip(norms, directions, strict=True) if own != 1) == 1
        and sum(own != 1 for own in norms) == 1
    )


def _axis(shape: tuple[int, ...], left: tuple[int, ...], right: tuple[int, ...]) -> int | None:
    """The axis of the outputs in a spectrally normalised weight: the first, or the second if transposed."""
    if len(shape) < 2 or len(left) != 1 or len(right) != 1 or 0 in shape:
        return None
    return next(
        (axis for axis in (0, 1) if (shape[axis], math.prod(shape) // shape[axis]) == (*left, *right)), None
    )
