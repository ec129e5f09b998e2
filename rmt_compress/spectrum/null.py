"""The fit error of pure noise: how large a Kolmogorov distance means nothing.

Eigenvalues repel each other, so the empirical distribution of noise follows the Marchenko–Pastur law far more
closely than independent points would: its deviations are a log-correlated Gaussian field, and p·gof grows like
log p instead of √p, almost independently of p/n. The quantiles of p·gof are therefore a smooth function of log p,
of the width w = 1 − 2α of the window and, weakly, of c = p/n. `experiments/null_fit_error.py` simulated them
(14 sizes from 16 to 4,096, six ratios, eight α, both rules, up to 6,000 draws each; the table is committed) and
fitted the constants below.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rmt_compress.spectrum.bulk import QuantileRule
from rmt_compress.spectrum.marchenko_pastur import FloatArray

PROBABILITIES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)

# p-values below this would be an extrapolation of the simulation by more than a decade.
SMALLEST_P_VALUE = 1e-4

# Those of `midpoint` hold for `spiked` too: on noise the two are one, and a bulk that spikes were left out of is
# noise of the size that is left.
_LAWS: dict[str, FloatArray] = {
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
            [0.6584, 0.2314, 0.0125, 0.1356, -0.1013, 0.0352, -0.2467, 0.2813],
            [0.7455, 0.2434, 0.0123, 0.1059, -0.0830, 0.0328, -0.2471, 0.1489],
            [0.7872, 0.2532, 0.0118, 0.1050, -0.0849, 0.0308, -0.2447, 0.1088],
            [0.8563, 0.2774, 0.0102, 0.1009, -0.0852, 0.0297, -0.2432, 0.0732],
            [0.9713, 0.2995, 0.0091, 0.0860, -0.0776, 0.0284, -0.2363, 0.0085],
            [1.1268, 0.3201, 0.0082, 0.0553, -0.0653, 0.0227, -0.2164, -0.0912],
            [1.2840, 0.3461, 0.0067, 0.0147, -0.0540, 0.0087, -0.1776, -0.1672],
            [1.4023, 0.3564, 0.0064, -0.0137, -0.0375, 0.0085, -0.1653, -0.2530],
            [1.5951, 0.4007, 0.0035, -0.0730, -0.0400, -0.0189, -0.0801, -0.2476],
            [1.8429, 0.4407, 0.0022, -0.1494, -0.0658, -0.0601, 0.0690, -0.2281],
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
    return np.maximum.accumulate(
        law_features(p, n, alpha) @ _LAWS["paper" if quantiles == "paper" else "midpoint"].T
    )
