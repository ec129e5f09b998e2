"""Layers that have no fit: those that were not asked, and those that are products of two factors already."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from rmt_compress import spectrum
from rmt_compress.analysis.layer_record import LayerRecord
from rmt_compress.layers.layer import FactorPair
from rmt_compress.wording import times

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class SkippedLayer(LayerRecord):
    """Why the spectrum of a layer was not asked, or has no answer.

    Of one with NaN or Inf `finite` is False; of one that include or exclude left out `left_out` is True; of one
    whose bulk is zero `low_rank` is.
    """

    reason: str
    finite: bool = True
    left_out: bool = False
    low_rank: bool = False
    fit: ClassVar[None] = None
    verdict: ClassVar[None] = None

    def to_json(self) -> dict[str, Any]:
        """The layer's object in `analyze --json`."""
        known = {"diagnosis": "low rank", "diagnosis_reason": self.reason} if self.low_rank else {}
        return super().to_json() | {"reason": self.reason, **known}


@dataclass(frozen=True)
class AnalyzedPair(LayerRecord):
    """What is known of a layer that is a product of two factors already: it has no bulk to fit.

    The singular values are those of the product, descending, as many as its rank.
    """

    pair: FactorPair
    singular_values: NDArray[np.float64] = field(repr=False, compare=False)
    fit: ClassVar[None] = None
    verdict: ClassVar[None] = None

    @property
    def matrix(self) -> tuple[int, int]:
        """Shape (rows, columns) of the product."""
        return self.pair.rows, self.pair.columns

    @property
    def effective_rank(self) -> float:
        """How many of its directions the product uses."""
        return spectrum.effective_rank(self.singular_values)

    @property
    def reason(self) -> str:
        """Why it has no fit."""
        used = f"effective rank {self.effective_rank:.3g}" if self.singular_values[0] else "but the product is zero"
        return f"already factorized: rank {len(self.singular_values)} of {times(self.matrix)}, {used}"

    def to_json(self) -> dict[str, Any]:
        """The layer's object in `analyze --json`."""
        return super().to_json() | {
            "reason": self.reason,
            "spectral_norm": float(self.singular_values[0]),
            "effective_rank": self.effective_rank,
            "diagnosis": "low rank",
            "diagnosis_reason": self.reason,
        }
