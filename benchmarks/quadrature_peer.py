"""The bulk fit as the published notebooks do it: numerical quadrature and a root search for every number.

Written from the formulas of KML21 and SJK23, sharing no code with `rmt_compress`: the Marchenko–Pastur
density is integrated by adaptive quadrature (QUADPACK), each quantile is found by Brent's method on that integral,
and each value of the fitted distribution function is another quadrature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.optimize import brentq

# Tracy–Widom, β = 1: the 0.9 quantile (Bejan 2005, table 1).
_TRACY_WIDOM_90 = 0.4501


@dataclass(frozen=True)
class PeerFit:
    """The numbers of one fit, for comparison: see `rmt_compress.spectrum.BulkFit`."""

    sigma2: float
    lambda_plus: float
    spikes: int
    gof: float


def fit(eigenvalues: NDArray[np.float64], n: int, alpha: float = 0.25) -> PeerFit:
    """BEMA with the paper's rule at β = 0.1.

    Args:
        eigenvalues: the p ascending eigenvalues s²/n.
        n: the larger side of the matrix.
        alpha: share of the ranks left out at either end.
    """
    p = len(eigenvalues)
    c = p / n
    lower, upper = (1 - math.sqrt(c)) ** 2, (1 + math.sqrt(c)) ** 2

    def density(x: float) -> float:
        return math.sqrt(max((upper - x) * (x - lower), 0.0)) / (2 * math.pi * c * x) if x > 0 else 0.0

    def distribution(x: float) -> float:
        return float(quad(density, lower, min(max(x, lower), upper))[0])

    ranks = range(math.ceil(alpha * p), math.floor((1 - alpha) * p) + 1)
    quantiles = np.array([brentq(lambda x, k=k: distribution(x) - k / p, lower, upper) for k in ranks])
    middle = eigenvalues[ranks[0] - 1 : ranks[-1]]
    sigma2 = float(quantiles @ middle / (quantiles @ quantiles))
    correction = _TRACY_WIDOM_90 * n ** (-2 / 3) * c ** (-1 / 6) * (1 + math.sqrt(c)) ** (4 / 3)
    lambda_plus = sigma2 * (upper + correction)
    law = [distribution(float(value) / sigma2) for value in middle]
    gof = max(max(abs(F - k / p), abs(F - (k - 1) / p)) for F, k in zip(law, ranks, strict=True))
    return PeerFit(sigma2, lambda_plus, int(np.sum(eigenvalues > lambda_plus)), gof)
