"""A product of two factors by rows of itself: the first r of them that carry all others well.

Of W = up·down, of rank r, r rows span all. W = T·W[pivots], where T has the rows of the identity at the pivots, so
that r·(m + n − r) numbers are left of r·(m + n) ("Pivoting Factorization", MPIFA, ICML 2025). How well that can be
computed depends on the pivots alone: with every entry of T at most 2 no row of W is made of larger ones that
cancel (Gu and Eisenstat 1996, "Efficient algorithms for computing a strong rank-revealing QR factorization").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

LARGEST = 2.0
"""No coefficient is larger than this in magnitude, but for rounding."""


def pivoted(down: torch.Tensor, up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Other factors of the same product: `down` some rows of it, `up` the rows of the identity there.

    All is computed in float64, on the CPU, and rounded once to the type given, which moves the product by two to
    four times what rounding its factors to that type has moved it by: some 1e-7 of its norm in float32, 1e-3 in
    float16, 1e-2 in bfloat16 at ranks of some hundred.

    Args:
        down: (r, columns).
        up: (rows, r), r ≤ rows; it may have a smaller rank.

    Returns:
        the rows of up·down at the pivots, ascending, (r, columns); and (rows, r).

    Raises:
        ValueError: a value is not finite.
    """
    import numpy as np
    import torch

    left, right = (part.detach().cpu().double().numpy() for part in (up, down))
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise ValueError("a factor holds NaN or Inf")
    basis = np.linalg.qr(left)[0]
    pivots = _strong_rows(basis)
    coefficients = np.linalg.solve(basis[pivots].T, basis.T).T
    coefficients[pivots] = np.eye(len(pivots))
    made = (left[pivots] @ right, coefficients)
    first, second = (torch.from_numpy(np.ascontiguousarray(part)).to(down) for part in made)
    return first, second


def _strong_rows(basis: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which rows of an orthonormal (m, r) basis carry the others, with no coefficient larger than `LARGEST`.

    Pivoted QR finds rows that do nearly; as long as a coefficient is larger, its row takes the place of that pivot,
    which at least doubles the volume they span.
    """
    import numpy as np
    from scipy.linalg import qr

    rank = basis.shape[1]
    pivots: NDArray[np.int64] = qr(basis.T, mode="r", pivoting=True)[1][:rank].astype(np.int64)
    coefficients = np.linalg.solve(basis[pivots].T, basis.T).T
    while True:
        row, column = np.unravel_index(np.abs(coefficients).argmax(), coefficients.shape)
        large = coefficients[row, column]
        if abs(large) <= LARGEST:
            return np.sort(pivots)
        # The row becomes one of the identity: what the old pivot stood for is told by it and the other pivots.
        change = coefficients[row].copy()
        change[column] -= 1
        coefficients -= np.outer(coefficients[:, column] / large, change)
        pivots[column] = row
