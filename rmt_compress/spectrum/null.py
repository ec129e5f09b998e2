"""The fit error of pure noise: how large a Kolmogorov distance means nothing.

Eigenvalues repel each other, so the empirical distribution of noise follows the Marchenko–Pastur law far more
closely than independent points would: its deviations are a log-correlated Gaussian field, and p·gof grows like
log p instead of √p, almost independently of p/n. The quantiles of p·gof are therefore a smooth function of log p,
of the width w = 1 − 2α of the window and, weakly, of c = p/n. `experiments/null_fit_error.py` simulated them
(14 sizes from 16 to 4,096, six ratios, eight α, up to 6,000 draws each; the table is committed) and fitted the
constants below.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rmt_compress.spectrum.bulk import QuantileRule
from rmt_compress.spectrum.marchenko_pastur import FloatArray

PROBABILITIES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)

# p-values below this would be an extrapolation of the simulation by more than a decade.
SMALLEST_P_VALUE = 1e-4

_LAWS: dict[QuantileRule, FloatArray] = {
    "midpoint": np.array(
        [
            [0.1282, 0.2920, 0.0082, 0.0649, -0.0681, -0.0017, 0.0296, 0.2213],
            [0.2109, 0.3052, 0.0074, 0.0724, -0.0759, 0.0011, 0.0372, 0.1309],
            [0.2708, 0.3111, 0.0071, 0.0651, -0.0729, 0.0004, 0.0450, 0.0717],
            [0.3596, 0.3270, 0.0062, 0.0775, -0.0861, 0.0033, 0.0600, 0.0292],
            [0.4842, 0.3425, 0.0054, 0.1070, -0.1174, 0.0064, 0.0878, -0.0351],
            [0.6726, 0.3417, 0.0064, 0.1458, -0.1596, 0.0190, 0.1177, -0.1970],
            [0.8163, 0.3564, 0.0059, 0.2214, -0.2342, 0.0370, 0.1483, -0.2152],
            [0.9111, 0.3689, 0.0055, 0.2348, -0.2556, 0.0495, 0.1726, -0.1853],
            [1.0476, 0.4148, 0.0024, 0.2913, -0.3356, 0.0764, 0.2231, 0.1046],
            [1.2271, 0.4794, -0.0023, 0.3109, -0.4055, 0.0686, 0.3085, 0.4157],
        ]
    ),
    "paper": np.array(
        [
            [0.8223, 0.1301, 0.0263, 0.2157, -0.1575, 0.0420, -0.2552, 0.0083],
            [1.0423, 0.0727, 0.0357, 0.1780, -0.1295, 0.0408, -0.2601, -0.3412],
            [1.1067, 0.0701, 0.0370, 0.1816, -0.1345, 0.0393, -0.2603, -0.4198],
            [1.2258, 0.0685, 0.0392, 0.1775, -0.1404, 0.0362, -0.2573, -0.5379],
            [1.3855, 0.0644, 0.0418, 0.1744, -0.1433, 0.0360, -0.2536, -0.6747],
            [1.6225, 0.0376, 0.0477, 0.1645, -0.1468, 0.0312, -0.2395, -0.9036],
            [1.8153, 0.0520, 0.0477, 0.0980, -0.1222, 0.0102, -0.1906, -1.0394],
            [1.9659, 0.0480, 0.0497, 0.0472, -0.0903, 0.0023, -0.1682, -1.1609],
            [2.0029, 0.1859, 0.0343, -0.0671, -0.0718, -0.0417, -0.0530, -0.8853],
            [2.0630, 0.3052, 0.0286, -0.1200, -0.1700, -0.1153, 0.1245, -0.4632],
        ]
    ),
}


def law_features(p: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> FloatArray:
    """The terms the law is linear in, (…, 8), for arrays of sizes and windows."""
    p, n, alpha = (np.asarray(value, dtype=np.float64) for value in (p, n, alpha))
    w, root = 1 - 2 * alpha, np.sqrt(p / n)
    size = np.log(p * w)
    terms = (np.ones_like(size), size, size**2, w, w**2, root, root * w, 1 / (p * w))
    return np.stack(np.broadcast_arrays(*terms), axis=-1)


def fit_error_quantile(
    probability: float, p: int, n: int, *, alpha: float = 0.25, quantiles: QuantileRule = "midpoint"
) -> float:
    """The fit error that pure Gaussian noise of this size stays below with the given probability.

    Within 1.5 % (root mean square over the grid) for probabilities up to 0.99, 3 % at 0.999.

    Args:
        probability: in [0.01, 0.999].
        p: smaller side of the matrix, 16 or more.
        n: larger side.
        alpha: BEMA's α, between 0.05 and 0.4.
        quantiles: the rule σ̂² was fitted with.

    Raises:
        ValueError: the probability is outside the simulated range.
    """
    if not PROBABILITIES[0] <= probability <= PROBABILITIES[-1]:
        raise ValueError(f"the null law is known for probabilities in [0.01, 0.999], got {probability}")
    levels = _levels(p, n, alpha, quantiles)
    return float(np.interp(_stretch(probability), _stretch(np.array(PROBABILITIES)), levels) / p)


def fit_error_p_value(
    gof: float, p: int, n: int, *, alpha: float = 0.25, quantiles: QuantileRule = "midpoint"
) -> float:
    """The chance that pure Gaussian noise of this size has a fit error of `gof` or more.

    Beyond the simulated 0.1 % the tail is continued exponentially, and cut at 1e-4.
    """
    levels, stretched = _levels(p, n, alpha, quantiles), _stretch(np.array(PROBABILITIES))
    x = gof * p
    if x <= levels[-1]:
        inside = float(np.interp(x, levels, stretched, left=0.0))
    else:
        slope = (stretched[-1] - stretched[-2]) / (levels[-1] - levels[-2])
        inside = float(stretched[-1] + slope * (x - levels[-1]))
    return float(max(np.exp(-inside), SMALLEST_P_VALUE))


def _stretch(probability: ArrayLike) -> FloatArray:
    # On −log(1 − probability) the upper tail is close to a straight line.
    return -np.log1p(-np.asarray(probability, dtype=np.float64))


def _levels(p: int, n: int, alpha: float, quantiles: QuantileRule) -> FloatArray:
    return np.maximum.accumulate(law_features(p, n, alpha) @ _LAWS[quantiles].T)
