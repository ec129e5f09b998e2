"""The bidiagonal sampler draws from the same law as real Gaussian matrices."""

import numpy as np
import pytest
from scipy.stats import ks_2samp

from rmt_compress.spectrum import noise_eigenvalues


@pytest.mark.parametrize(("p", "n"), ((12, 12), (10, 45), (1, 7)))
def test_same_law_as_full_matrices(p, n, rng):
    ours = np.array([noise_eigenvalues(p, n, rng) for _ in range(1500)])
    full = np.array(
        [np.linalg.svd(rng.standard_normal((p, n)), compute_uv=False)[::-1] ** 2 / n for _ in range(1500)]
    )
    for index in {0, p // 2, p - 1}:
        assert ks_2samp(ours[:, index], full[:, index]).pvalue > 0.001
    assert ours.mean() == pytest.approx(1.0, rel=0.03)


def test_ascending_and_checked(rng):
    assert np.all(np.diff(noise_eigenvalues(50, 60, rng)) > 0)
    with pytest.raises(ValueError, match="p ≤ n"):
        noise_eigenvalues(5, 4, rng)
