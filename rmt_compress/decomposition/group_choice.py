"""Which k of every n neighbouring entries of a matrix's rows are kept, and what those become.

By magnitude the largest stay as they are. By the second moments C = E[x xᵀ] of what the matrix is applied to, the
groups of a row are taken in order. Taking entries S of a group to zero costs least, every entry from the group on
being free to make up for it, at

    ½ w_Sᵀ (B_SS)⁻¹ w_S,   B = (H_F)⁻¹ restricted to the group, H = C + ridge, F the group and all behind it

(Hassibi and Stork 1993 for a set of entries; method.md §16 is the same without what makes up for it, r = w_S and
C_g for B⁻¹). All patterns of a group are compared, in groups of very many the entries of least w²/B_jj go; the rest
of the row takes up −w_S (B_SS)⁻¹ (H_F⁻¹)_SF. The inverses come from one Cholesky factor, as in SparseGPT (Frantar
and Alistarh 2023, arXiv 2301.00774). Every choice begins from the dense weights: nothing is gone because it was
once.
"""

from __future__ import annotations

import math
from itertools import combinations

import torch

from rmt_compress.layers.group_patterns import Pattern

_RIDGE = 0.01
# Patterns of a group that are compared one by one: 70 of 4:8.
_COMPARED = 100


def kept_by_magnitude(matrix: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """A matrix (rows, columns) with all but the k largest of every n entries at 0; of equal ones the first stay.

    The columns are a multiple of n.
    """
    groups = matrix.detach().reshape(-1, pattern.of)
    return matrix.masked_fill(~_largest(groups.abs().float(), pattern.kept).reshape(matrix.shape), 0)


def kept_by_inputs(matrix: torch.Tensor, pattern: Pattern, inputs: torch.Tensor) -> torch.Tensor:
    """A matrix with k of every n entries kept, those and with those values that change its outputs least.

    Args:
        matrix: (rows, columns), the columns a multiple of n.
        pattern: k and n.
        inputs: C, (columns, columns); its diagonal, (columns,), tells which entries stay, at their values.
    """
    seen = inputs.to(matrix.device, torch.float64)
    if seen.dim() == 1:
        scores = matrix.detach().double().abs() * seen.sqrt()
        chosen = _largest(scores.reshape(-1, pattern.of), pattern.kept).reshape(matrix.shape)
        return matrix.masked_fill(~chosen, 0)
    ridge = _RIDGE * float(seen.diagonal().mean()) or 1.0
    hessian = seen + ridge * torch.eye(len(seen), dtype=torch.float64, device=matrix.device)
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    weights, gone = matrix.detach().double().clone(), torch.zeros(matrix.shape, dtype=torch.bool)
    several = math.comb(pattern.of, pattern.kept) <= _COMPARED
    for first in range(0, matrix.shape[1], pattern.of):
        behind = slice(first, first + pattern.of)
        upper = factor[behind, behind]
        own = upper.T @ upper
        group = weights[:, behind]
        removed, share = _compared(group, own, pattern) if several else _least(group, own, pattern)
        weights[:, first:] -= share @ (upper.T @ factor[behind, first:])
        gone[:, behind] = removed.cpu()
    return weights.to(matrix.dtype).masked_fill(gone.to(matrix.device), 0)


def _compared(group: torch.Tensor, own: torch.Tensor, pattern: Pattern) -> tuple[torch.Tensor, torch.Tensor]:
    """What goes of every row's group, and w_S (B_SS)⁻¹, 0 elsewhere; the cheapest of all patterns."""
    sets = torch.tensor(list(combinations(range(pattern.of), pattern.of - pattern.kept)), device=group.device)
    removed = torch.zeros(len(sets), pattern.of, dtype=torch.bool, device=group.device).scatter_(
        1, sets, value=True
    )
    inverses = _inverses(own, removed)
    costs = torch.einsum("rj,sjk,rk->rs", group, inverses, group)
    best = costs.argmin(1)
    return removed[best], torch.einsum("rj,rjk->rk", group, inverses[best])


def _least(group: torch.Tensor, own: torch.Tensor, pattern: Pattern) -> tuple[torch.Tensor, torch.Tensor]:
    """The same for one set in each row: the entries that cost least by themselves."""
    removed = ~_largest(group.square() / own.diagonal(), pattern.kept)
    return removed, torch.einsum("rj,rjk->rk", group, _inverses(own, removed))


def _inverses(own: torch.Tensor, removed: torch.Tensor) -> torch.Tensor:
    """(B_SS)⁻¹ in its place, 0 elsewhere, (sets, n, n) for sets (sets, n)."""
    both = removed[:, :, None] & removed[:, None, :]
    eye = torch.eye(len(own), dtype=own.dtype, device=own.device)
    return torch.where(both, torch.linalg.inv(torch.where(both, own, eye)), torch.zeros((), dtype=own.dtype))


def _largest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """True at the `count` largest of every row, of equal ones the first."""
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros(scores.shape, dtype=torch.bool, device=scores.device).scatter_(1, order, value=True)
