"""Spectra of pure noise without the matrices: how null distributions and error rates are measured."""

from __future__ import annotations

import numpy as np

from rmt_compress.spectrum.marchenko_pastur import FloatArray


def noise_eigenvalues(p: int, n: int, generator: np.random.Generator) -> FloatArray:
    """Eigenvalues s²/n of one p × n matrix of independent standard normal entries, p ≤ n, ascending.

    Householder reflections turn such a matrix into a bidiagonal one of independent χ variables without changing
    its singular values (Dumitriu and Edelman, J. Math. Phys. 43, 2002), so that a draw costs O(p²), not O(n·p²).

    Raises:
        ValueError: p > n or p < 1.
    """
    from scipy.linalg import eigh_tridiagonal

    if not 1 <= p <= n:
        raise ValueError(f"noise_eigenvalues needs 1 ≤ p ≤ n, got p = {p}, n = {n}")
    diagonal = np.sqrt(generator.chisquare(n - np.arange(p)))
    below = np.sqrt(generator.chisquare(np.arange(p - 1, 0, -1)))
    main = diagonal**2
    main[1:] += below**2
    if p > 1:  # scipy 1.11 takes no matrix of one entry
        main = eigh_tridiagonal(main, diagonal[:-1] * below, eigvals_only=True, lapack_driver="sterf")
    return np.asarray(np.maximum(main, 0.0) / n, dtype=np.float64)
