"""Norms of what a layer does to a difference of its inputs: never below the true ones.

Of a matrix they are exact. A convolution with zeros around its input is a part of a circular one on a larger image:
with n pixels, k taps d apart and N ≥ n + d(k−1) places on a circle nothing wraps around onto anything else, and the
outputs are those of the circle at some of its places. The norm of the circular operator, which a Fourier transform
takes apart into one small matrix per frequency, therefore bounds that of the real one (Sedghi, Gupta, Long 2019 for
the circle itself). With a stride of s every s-th place is kept, frequencies N/s apart fall on one another, and the
matrix of a frequency is theirs side by side over √s. Power iteration, which is the usual way, comes from below.

All is computed in float64, and raised by 1e-9 of itself for what rounding may have taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_ROUNDING = 1 + 1e-9
_ENTRIES = 1 << 22
"""Complex numbers of the matrices of frequencies in work at once: 64 MiB."""


def spectral_norm(matrix: torch.Tensor) -> float:
    """The largest singular value of a matrix (rows, columns)."""
    import torch

    wide = matrix.detach().double()
    gram = wide @ wide.T if wide.shape[0] <= wide.shape[1] else wide.T @ wide
    return math.sqrt(max(float(torch.linalg.eigvalsh(gram)[-1]), 0.0)) * _ROUNDING


def largest_row_sum(weight: torch.Tensor) -> float:
    """The most that a layer makes of a difference of which no entry exceeds 1: ‖W‖_∞ of the flattened weight.

    Of a convolution that is its norm where some output sees no border, and a bound otherwise.
    """
    return float(weight.detach().double().flatten(1).abs().sum(1).max()) * _ROUNDING


def convolution_norm(
    weight: torch.Tensor,
    image: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
) -> float:
    """A bound on the spectral norm of a convolution with zeros (any number) around its input.

    Args:
        weight: (out, in / groups, taps …).
        image: pixels of the input along every axis.
        stride: along every axis.
        dilation: along every axis.
        groups: of channels that do not mix.
    """
    parts = weight.detach().double().chunk(groups)
    return max(_one_group(part, image, stride, dilation) for part in parts)


def padding_gain(image: Sequence[int], padding: Sequence[int], mode: str) -> float:
    """What padding makes of a difference at most: √(how often a pixel is repeated); 1 where zeros are put around.

    Args:
        image: pixels along every axis.
        padding: pixels before and behind, the last axis first, as `torch.nn.functional.pad` takes them.
        mode: ``zeros``, ``reflect``, ``replicate`` or ``circular``.
    """
    import torch
    from torch.nn import functional

    if mode == "zeros":
        return 1.0
    places = torch.arange(math.prod(image), dtype=torch.float64).reshape(1, 1, *image)
    padded = functional.pad(places, list(padding), mode=mode)
    return math.sqrt(int(padded.flatten().long().bincount().max()))


def _one_group(weight: torch.Tensor, image: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> float:
    import torch

    reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    circle = [-(-(n + r) // s) * s for n, r, s in zip(image, reach, stride, strict=True)]
    best = 0.0
    left: list[torch.Tensor] = []
    bounds: list[torch.Tensor] = []
    # Cheap bounds of all frequencies first: ‖G‖⁴ ≤ ‖G²‖_F². Few frequencies can then be the largest.
    for gram in _grams(weight, circle, stride, dilation):
        above = torch.linalg.matrix_norm(gram @ gram).sqrt()
        bounds.append(above)
        left.append(gram)
        leader = int(above.argmax())
        best = max(best, float(torch.linalg.eigvalsh(gram[leader])[-1]))
        # What cannot be the largest need not be kept.
        left, bounds = _still_possible(left, bounds, best)
    for gram, above in zip(left, bounds, strict=True):
        for place in above.argsort(descending=True).tolist():
            if float(above[place]) <= best:
                break
            best = max(best, float(torch.linalg.eigvalsh(gram[place])[-1]))
    return math.sqrt(best) * _ROUNDING


def _still_possible(
    grams: list[torch.Tensor], bounds: list[torch.Tensor], best: float
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    kept = [(gram[above > best], above[above > best]) for gram, above in zip(grams, bounds, strict=True)]
    return [gram for gram, above in kept if len(above)], [above for _, above in kept if len(above)]


def _grams(
    weight: torch.Tensor, circle: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Iterator[torch.Tensor]:
    """M Mᴴ or Mᴴ M of the matrix M of each frequency, whichever is smaller: (frequencies, m, m), part by part."""
    import torch

    outputs, inputs = weight.shape[:2]
    taps = torch.cartesian_prod(*(d * torch.arange(k) for d, k in zip(dilation, weight.shape[2:], strict=True)))
    taps = taps.reshape(-1, len(circle)).double()
    flat = weight.flatten(2).movedim(2, 0).reshape(len(taps), -1).to(torch.complex128)
    coarse = [n // s for n, s in zip(circle, stride, strict=True)]
    # A real weight has the same matrix at ω and −ω but for the sign of the imaginary part.
    half = [*coarse[:-1], coarse[-1] // 2 + 1]
    frequencies = torch.cartesian_prod(*map(torch.arange, half)).reshape(-1, len(circle))
    folds = torch.cartesian_prod(*(n * torch.arange(s) for n, s in zip(coarse, stride, strict=True)))
    folds = folds.reshape(-1, len(circle))
    together = max(1, _ENTRIES // (len(folds) * outputs * inputs))
    for first in range(0, len(frequencies), together):
        some = frequencies[first : first + together]
        angles = (some[:, None] + folds).double() / torch.tensor(circle, dtype=torch.float64)
        phases = torch.polar(torch.ones(1, dtype=torch.float64), -2 * math.pi * (angles @ taps.T))
        matrices = (phases @ flat).reshape(len(some), len(folds), outputs, inputs)
        wide = matrices.movedim(1, 2).reshape(len(some), outputs, -1) / math.sqrt(len(folds))
        yield wide @ wide.mH if outputs <= wide.shape[2] else wide.mH @ wide
