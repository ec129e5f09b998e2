"""The few leading singular vectors of a large matrix by a block Krylov method, checked before they are believed.

The Krylov space of A·Aᵀ over a random block holds the leading eigenvectors long before it is large (Musco and Musco
2015, "Randomized block Krylov methods for stronger and faster approximate singular value decomposition"). The
products are done in float32; a last one, the rotation to Ritz vectors and the judgement in float64.

With residuals ρᵢ = ‖A·Aᵀuᵢ − θᵢuᵢ‖ each Ritz value θᵢ lies within ρᵢ of an eigenvalue, so that the energy of the
truncation, ‖A − U·UᵀA‖² = ‖A‖² − Σθᵢ, is above the least possible one by Σρᵢ at the most. (In truth by some ρᵢ²
over gaps: by less than 1e-8 of itself wherever it was measured, where Σρᵢ is held to 1e-5.) That no leading
eigenvalue has been passed over is as certain as that a random block of more than so many columns is not orthogonal
to its vector.
"""

from __future__ import annotations

import math

import torch

from rmt_compress.decomposition.kernels import column_blocks, double_blocks, squared_norm

# Largest Σρᵢ as a share of the energy that is cut off.
_TOLERANCE = 1e-5
# Columns of the block beside those that are wanted.
_SPARE = 8
# Rounding of A·Aᵀuᵢ in float32 as a share of sᵢ·s₁, with room to spare.
_ROUNDING = 4 * 2.0**-24
# The space may grow to this share of p: beyond, all eigenvectors of the Gram matrix are had for the same time.
_LARGEST_SPACE = 1 / 4
_LEAST_STEPS = 4
# Entries that are converted at once, of a shorter type and for float64: few, so that they are still in a core's
# cache when they are multiplied.
_SLICE = 2**19
# Below, the eigenvectors of the Gram matrix come at once.
_SMALLEST = 1000


def worth_trying(a: torch.Tensor, rank: int) -> bool:
    """Whether the method could be the faster one for this matrix (p, n), p ≤ n."""
    p = a.shape[0]
    fits = (rank + _SPARE) * 2 * _LEAST_STEPS <= _LARGEST_SPACE * p
    return p >= _SMALLEST and fits and a.device.type == "cpu" and a.dtype != torch.float64


def leading_subspace(a: torch.Tensor, rank: int) -> torch.Tensor | None:
    """Orthonormal left singular vectors (p, rank) in float64, descending; None where they do not converge.

    `a` is (p, n), p ≤ n, float32 or shorter, on the CPU.
    """
    energy = squared_norm(a)
    found = _grow(a, rank, energy)
    return None if found is None else _judged(a, found.double(), energy)


def _grow(a: torch.Tensor, rank: int, energy: float) -> torch.Tensor | None:
    """Vectors (p, rank) in float32 that have converged as far as float32 tells; `energy` is ‖A‖²."""
    p = a.shape[0]
    generator = torch.Generator().manual_seed(0)
    width = rank + _SPARE
    most = int(_LARGEST_SPACE * p) // width
    space, images = torch.empty(p, most * width), torch.empty(p, most * width)
    block = torch.randn(p, width, generator=generator)
    check, before = _LEAST_STEPS, (0, math.inf)
    for step in range(1, most + 1):
        size = step * width
        old = space[:, : size - width]
        for _ in range(2):  # once leaves what was lost in cancellation
            block = torch.linalg.qr(block - old @ (old.T @ block))[0]
        image = _times_gram(a, block)
        if not bool(image.isfinite().all()):
            return None
        space[:, size - width : size], images[:, size - width : size] = block, image
        block = image
        if step < check and step < most:
            continue
        values, vectors = torch.linalg.eigh((space[:, :size].T @ images[:, :size]).double())
        values, rotation = values[-rank:], vectors[:, -rank:].float()
        ritz: torch.Tensor = space[:, :size] @ rotation
        residual = float((images[:, :size] @ rotation - ritz * values.float()).norm(dim=0).sum())
        cut = max(0.0, energy - float(values.sum()))
        # Where rounding is all that is left, the last step in float64 will take it away.
        allowed = _TOLERANCE * cut / 2 + _ROUNDING * float((values.clamp(min=0) * values[-1]).sqrt().sum())
        if residual <= allowed:
            return ritz
        if allowed == 0:
            return None
        # The residual falls geometrically: the steps still needed by the rate so far.
        steps, last = before
        rate = math.log(last / residual) / (step - steps) if last < math.inf else math.inf
        needed = math.log(residual / allowed) / rate if rate > 0 else math.inf
        if step + needed > most + 1:
            return None
        before, check = (step, residual), step + max(2, min(step // 2, math.ceil(needed)))
    return None


def _times_gram(a: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    """A·Aᵀ·block in float32; of a shorter type no more than a slice is converted at once."""
    if a.dtype == torch.float32:
        return a @ (a.T @ block)
    # As rows, which BLAS multiplies faster than columns, of a weight stored row by row by far.
    rows = block.T.contiguous()
    image = torch.zeros_like(rows)
    for columns in column_blocks(a, torch.float32, _SLICE):
        image.addmm_(rows @ columns, columns.T)
    return image.T


def _judged(a: torch.Tensor, u: torch.Tensor, energy: float) -> torch.Tensor | None:
    """Ritz vectors from one more step beyond `u`, in float64; None where their residuals are too large."""
    image = u
    for _ in range(2):
        u = torch.linalg.qr(image)[0]
        # As rows: of the few columns that QR leaves one behind another BLAS takes five times as long.
        rows = torch.zeros_like(u.T)
        for block in double_blocks(a, _SLICE):
            rows.addmm_(u.T @ block, block.T)
        image = rows.T
    values, rotation = torch.linalg.eigh(u.T @ image)
    values, rotation = values.flip(0), rotation.flip(1)
    ritz = u @ rotation
    residual = float((image @ rotation - ritz * values).norm(dim=0).sum())
    return ritz if residual <= _TOLERANCE * (energy - float(values.sum())) else None
