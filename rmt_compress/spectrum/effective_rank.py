"""How many of its directions a matrix uses."""

from __future__ import annotations

import numpy as np

from rmt_compress.spectrum.marchenko_pastur import FloatArray


def effective_rank(values: FloatArray) -> float:
    """Roy and Vetterli's: e to the entropy of s/Σs (*The effective rank*, 2007); 0 for a matrix that is zero."""
    total = values.sum()
    if total <= 0:
        return 0.0
    shares = values[values > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))
