"""Published ways to cut a network by low rank, written anew from the papers, each as directions and an allocation.

    plain       singular vectors of the weight
    SVD-LLM     Wang et al. 2024 (arXiv 2403.07378, §3.1): S the Cholesky factor of X Xᵀ, W′ = SVD_r(W S) S⁻¹, so
                that ‖W X − W′ X‖ is least; the same share of every layer
    ASVD        Yuan et al. 2023 (arXiv 2312.05821, §3.2, 3.3): S diagonal, the mean absolute inputs to the power α;
                W′ = SVD_r(W S) S⁻¹; shares of layers by the loss that each alone brings at .1, .2, … .9
    BALF        González Martínez 2025 (arXiv 2509.25136): whitened inputs; of every layer its energies as shares of
                their sum, and one price for all layers by Lagrange's multiplier on what they keep against its cost

Whitening by Cholesky factor and by eigenvectors (BALF) give the same W′, since the two differ by a rotation. What
is not in the papers is the same for all: convolutions are read as (outputs, inputs × kernel) on unfolded patches at
some places, the bias takes up the mean of what is cut, and a layer that would not shrink stays as it is. Moments
are summed in float64 and decomposed by torch's SVD; of rmt_compress only the two layers in the place of one are
taken.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from rmt_compress.layers.low_rank import split_module

PLACES = 64
"""At so many places of a sample a convolution's inputs are looked at, as rmt_compress does."""
RATIOS = tuple(step / 10 for step in range(1, 10))
ALPHA = 0.5
_RIDGE = 1e-6
Shapes = Mapping[str, tuple[int, int]]
"""Name of a weight -> (rows, columns) of its matrix."""


@dataclass(eq=False)
class Inputs:
    """Sums over the inputs of one layer, of n numbers each.

    Attributes:
        second: Σ x xᵀ, (n, n), float64.
        total: Σ x, (n,).
        magnitude: Σ |x|, (n,).
        count: how many vectors.
    """

    second: torch.Tensor
    total: torch.Tensor
    magnitude: torch.Tensor
    count: int = 0

    def add(self, rows: torch.Tensor) -> None:
        """Add vectors, (N, n)."""
        rows = rows.double()
        self.second.addmm_(rows.T, rows)
        self.total += rows.sum(0)
        self.magnitude += rows.abs().sum(0)
        self.count += len(rows)


@dataclass(frozen=True, eq=False)
class Cut:
    """All directions of one matrix, W = left · right.

    Attributes:
        energies: (p,), σ² in the metric of the method, descending.
        left: (rows, p).
        right: (p, columns).
    """

    energies: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor

    def truncated(self, rank: int) -> torch.Tensor:
        """The matrix of the leading directions, float64."""
        return self.left[:, :rank] @ self.right[:rank]


def observe(
    model: nn.Module, layers: Sequence[str], batches: Iterable[torch.Tensor], seed: int
) -> dict[str, Inputs]:
    """The inputs of Linear and Conv2d layers, by the names of their weights, in one forward pass."""
    found: dict[str, Inputs] = {}
    generator = torch.Generator().manual_seed(seed)
    handles = []
    for name in layers:
        module = model.get_submodule(name.removesuffix(".weight"))
        width = module.get_parameter("weight")[0].numel()
        zeros = torch.zeros(width, dtype=torch.float64)
        own = found[name] = Inputs(torch.zeros(width, width, dtype=torch.float64), zeros, zeros.clone())

        def hook(module: nn.Module, arguments: tuple[torch.Tensor, ...], own: Inputs = own) -> None:
            own.add(_vectors(module, arguments[0], generator))

        handles.append(module.register_forward_pre_hook(hook))
    try:
        with torch.no_grad():
            for batch in batches:
                model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _vectors(module: nn.Module, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The vectors that a weight is multiplied with, (N, n); of a convolution those at some of its places."""
    if not isinstance(module, nn.Conv2d):
        return inputs.flatten(0, -2)
    assert not isinstance(module.padding, str)
    patches = functional.unfold(inputs, module.kernel_size, module.dilation, module.padding, module.stride)
    chosen = torch.randperm(patches.shape[2], generator=generator)[:PLACES]
    return patches[:, :, chosen].transpose(1, 2).flatten(0, 1)


def plain(matrix: torch.Tensor) -> Cut:
    """Singular vectors of a matrix, (rows, columns)."""
    u, s, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    return Cut(s.square(), u, s[:, None] * vt)


def whitened(matrix: torch.Tensor, inputs: Inputs) -> Cut:
    """SVD-LLM's: least ‖(W − W′) X‖_F at every rank; energies are its squares.

    Where the inputs do not span their space, a ridge of 1e-6 of their mean energy makes the factor exist.
    """
    second = inputs.second / inputs.count
    ridge = _RIDGE * second.diagonal().mean() * torch.eye(len(second), dtype=torch.float64)
    factor = torch.linalg.cholesky(second + ridge)
    u, s, vt = torch.linalg.svd(matrix.double() @ factor, full_matrices=False)
    right = torch.linalg.solve_triangular(factor, s[:, None] * vt, upper=False, left=False)
    return Cut(s.square(), u, right)


def scaled(matrix: torch.Tensor, inputs: Inputs, alpha: float = ALPHA) -> Cut:
    """ASVD's: inputs weighed by their mean absolute value to the power alpha."""
    scale = (inputs.magnitude / inputs.count).clamp(min=1e-6).pow(alpha)
    u, s, vt = torch.linalg.svd(matrix.double() * scale, full_matrices=False)
    return Cut(s.square(), u, s[:, None] * vt / scale)


def equal_share(shapes: Shapes, keep: float) -> dict[str, int | None]:
    """The same share of every layer's weights."""
    return {name: rank_of(shape, keep) for name, shape in shapes.items()}


def rank_of(shape: tuple[int, int], keep: float) -> int | None:
    """The rank whose factors have at most this share of a layer's weights; None for the whole layer."""
    return None if keep >= 1 else max(1, int(keep * math.prod(shape) / sum(shape) + 1e-9))


def energy_share(cuts: Mapping[str, Cut], shapes: Shapes, keep: float) -> dict[str, int | None]:
    """The same share of every layer's energy, the largest that the budget allows."""
    kept = {name: (cut.energies.cumsum(0) / cut.energies.sum()) for name, cut in cuts.items()}

    def at(share: float) -> dict[str, int | None]:
        wanted = {name: int(torch.searchsorted(own, share)) + 1 for name, own in kept.items()}
        return {name: _or_whole(shapes[name], rank) for name, rank in wanted.items()}

    return _bisected(at, shapes, keep)


def one_price(cuts: Mapping[str, Cut], shapes: Shapes, keep: float) -> dict[str, int | None]:
    """BALF's: every layer at the choice of the most relative energy less its price, at the least price."""
    kept = {name: (cut.energies.cumsum(0) / cut.energies.sum()) for name, cut in cuts.items()}
    costs = {
        name: (torch.arange(1, len(own) + 1).double() * sum(shapes[name])).clamp(max=math.prod(shapes[name]))
        for name, own in kept.items()
    }

    def at(logarithm: float) -> dict[str, int | None]:
        price = math.exp(-logarithm)
        return {
            name: _or_whole(shapes[name], int((own - price * costs[name]).argmax()) + 1)
            for name, own in kept.items()
        }

    return _bisected(at, shapes, keep, 0.0, 60.0)


def by_sensitivity(losses: Mapping[tuple[str, float], float], shapes: Shapes, keep: float) -> dict[str, int | None]:
    """ASVD's: the cuts of single layers that bring most loss are left out, as many as the budget allows.

    Args:
        losses: (layer, share of its weights) -> loss of the network in which that layer alone is cut.
        shapes: of the layers.
        keep: the share of all weights.
    """
    order = sorted(losses, key=lambda each: -losses[each])

    def at(place: float) -> dict[str, int | None]:
        shares = dict.fromkeys(shapes, 1.0)
        for name, share in order[len(order) - 1 - round(place) :]:
            shares[name] = min(shares[name], share)
        return {name: rank_of(shapes[name], share) for name, share in shares.items()}

    # The fewer of the harmless cuts are made the larger is the network.
    made = next((place for place in range(len(order)) if size(at(place), shapes) <= keep), len(order) - 1)
    return at(made)


def size(ranks: Mapping[str, int | None], shapes: Shapes) -> float:
    """The share of the layers' weights that is left."""
    whole = sum(math.prod(shape) for shape in shapes.values())
    return sum(_cost(shapes[name], rank) for name, rank in ranks.items()) / whole


def _cost(shape: tuple[int, int], rank: int | None) -> int:
    return math.prod(shape) if rank is None else rank * sum(shape)


def _or_whole(shape: tuple[int, int], rank: int) -> int | None:
    return rank if rank * sum(shape) < math.prod(shape) else None


def _bisected(
    at: Callable[[float], dict[str, int | None]], shapes: Shapes, keep: float, low: float = 0.0, high: float = 1.0
) -> dict[str, int | None]:
    """The largest network within the budget of those that grow with a number between `low` and `high`."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if size(at(middle), shapes) <= keep else (low, middle)
    return at(low)


def carried_out(
    model: nn.Module, cuts: Mapping[str, Cut], ranks: Mapping[str, int | None], inputs: Mapping[str, Inputs]
) -> nn.Module:
    """A copy of the network with two thinner layers in the place of each that is cut, its bias corrected."""
    small = copy.deepcopy(model)
    for name, rank in ranks.items():
        if rank is None:
            continue
        path = name.removesuffix(".weight")
        module, cut = small.get_submodule(path), cuts[name]
        weight = module.get_parameter("weight")
        left, right = cut.left[:, :rank].to(weight.dtype), cut.right[:rank].to(weight.dtype)
        if module._parameters.get("bias") is not None:
            mean = inputs[name].total / inputs[name].count
            change = weight.detach().flatten(1).double() - cut.truncated(rank)
            with torch.no_grad():
                module.get_parameter("bias").add_((change @ mean).to(weight.dtype))
        if isinstance(module, nn.Conv2d):
            factors = right.reshape(rank, *weight.shape[1:]), left[:, :, None, None]
        else:
            factors = right, left
        small.set_submodule(path, split_module(module, *(each.contiguous() for each in factors), name=path))
    return small
