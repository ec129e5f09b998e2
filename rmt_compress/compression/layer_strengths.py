"""How strongly each layer of a network is pruned beside the others, by what its spectrum says.

*Spectral edge budget* (method.md §16): σ₊ of a layer is its edge in singular values of W/√N, z its standard score
over the layers, and the magnitudes of its entries are compared with those of other layers after division by

    w(s) = max(0.1, 1 + β·max(0, 1 − s/s_d)·z)

so that a layer of a high edge gives up more. β and s_d follow the share s of all entries that go, and the layer's
type. *AlphaPruning* (Lu et al., NeurIPS 2024, arXiv 2410.10912, eq. 4): a layer of a heavy tail, that is of a low
exponent α, loses the smaller share of its entries, 1 − τ to 1 + τ times the network's, linear in α.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rmt_compress.spectrum import DegenerateSpectrumError, fit_heavy_tail

if TYPE_CHECKING:
    from rmt_compress.analysis.records import Analysis, AnalyzedLayer

_ATTENTION = re.compile(r"(?:^|[._])(?:\w*attn\w*|\w*attention\w*|qkv\w*|[qkv]_?proj|query|key|value)[._]", re.I)
_LOWEST = 0.1
_SPREAD = 0.3


class Strength(NamedTuple):
    """How much the edge counts at one share of zeros.

    Attributes:
        beta: β of layers that are no attention.
        attention: β of attention.
        fades: s_d, the share of zeros at which the edge counts no more.
        tail: whether the exponent α of the tail stands in the edge's place.
    """

    beta: float
    attention: float
    fades: float
    tail: bool = False


# (largest share of zeros, what holds up to it): those published for ViT-B/16.
_PUBLISHED = (
    (0.2, Strength(0.5, 0.5, 0.3, tail=True)),
    (0.4, Strength(1.0, 1.0, 0.5)),
    (0.55, Strength(1.25, 1.25, 0.7)),
    (1.0, Strength(2.0, 1.0, 0.85)),
)


def strength_at(share: float) -> Strength:
    """What is published for a share of zeros, 0 to 1."""
    return next(strength for most, strength in _PUBLISHED if share <= most)


def edge_weights(analysis: Analysis, share: float, strength: Strength | None = None) -> dict[str, float]:
    """Name of a tensor -> w(s), for every layer that was analysed; the others count as 1.

    Args:
        analysis: of the network.
        share: s, the share of zeros, 0 to 1.
        strength: None for `strength_at` this share.
    """
    strength = strength or strength_at(share)
    found = tail_exponents(analysis) if strength.tail else _edges(analysis.analyzed)
    fade = max(0.0, 1 - share / strength.fades)
    betas = {tensor: strength.attention if _ATTENTION.search(tensor) else strength.beta for tensor in found}
    scores = _standard_scores(found)
    return {tensor: max(_LOWEST, 1 + betas[tensor] * fade * scores[tensor]) for tensor in found}


def tail_shares(analysis: Analysis) -> dict[str, float]:
    """Name of a tensor -> its share of zeros in units of the network's, before all are scaled to meet it."""
    exponents = tail_exponents(analysis)
    if not exponents:
        return {}
    low, high = min(exponents.values()), max(exponents.values())
    if low == high:
        return dict.fromkeys(exponents, 1.0)
    return {
        tensor: 1 + _SPREAD * (2 * (exponent - low) / (high - low) - 1) for tensor, exponent in exponents.items()
    }


def tail_exponents(analysis: Analysis) -> dict[str, float]:
    """Name of a tensor -> α of its eigenvalues, see `spectrum.heavy_tail`, where they have a tail."""
    found = {}
    for layer in analysis.analyzed:
        try:
            found[layer.tensor] = fit_heavy_tail(layer.singular_values**2).alpha
        except DegenerateSpectrumError:
            continue
    return found


def _edges(layers: Sequence[AnalyzedLayer]) -> dict[str, float]:
    return {layer.tensor: float(np.sqrt(layer.fit.lambda_plus)) for layer in layers}


def _standard_scores(values: Mapping[str, float]) -> dict[str, float]:
    """How many standard deviations each is above the mean; 0 of all where they are equal."""
    numbers = np.array(list(values.values()))
    deviation = float(numbers.std()) if len(numbers) else 0.0
    if deviation == 0:
        return dict.fromkeys(values, 0.0)
    return {name: float((value - numbers.mean()) / deviation) for name, value in values.items()}
