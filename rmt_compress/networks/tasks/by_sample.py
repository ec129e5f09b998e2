"""A mean over places, of which a sample may have many, split into what each sample adds to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


class BySample:
    """Sums and counts of places by sample.

    With unequal counts the mean over places is a ratio of two sums; what a sample adds is its sum over the mean
    count. In the difference of two networks, whose counts are the same, that is all to first order (Cochran 1977,
    ch. 6).
    """

    def __init__(self) -> None:
        self._sums: list[NDArray[np.float64]] = []
        self._counts: list[NDArray[np.float64]] = []

    def add(self, sums: torch.Tensor, counts: torch.Tensor) -> None:
        """A batch: (N,) sums over the places of each sample, and how many these are."""
        self._sums.append(sums.double().cpu().numpy())
        self._counts.append(counts.double().cpu().numpy())

    @property
    def each(self) -> NDArray[np.float64] | None:
        """(samples,), with the mean over all places as their mean; None of no places."""
        counts = np.concatenate(self._counts) if self._counts else np.zeros(0)
        if not counts.sum():
            return None
        return np.asarray(np.concatenate(self._sums) / counts.mean())
