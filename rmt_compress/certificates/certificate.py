"""What is certified of a cut on a set of samples, and what was measured beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rmt_compress.notebooks.figures import figure_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from rmt_compress.certificates.telescoping import Bound


class Spread(NamedTuple):
    """Middle and top of a quantity over samples."""

    median: float
    max: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Spread:
        """That of (samples,)."""
        return cls(float(np.median(values)), float(np.max(values)))

    def to_json(self) -> dict[str, float]:
        """Both by name."""
        return {"median": self.median, "max": self.max}


@dataclass(frozen=True)
class LayerCertificate:
    """One cut layer, with the later ones cut already.

    Attributes:
        name: of the layer.
        rank: that is left; None where it is not known to be of lower rank.
        lipschitz: √2·∏σ_max of what stands behind it.
        bound: how far δ can move, the smallest of all bounds.
        measured: how far δ has moved.
        ratio: median of bound over measured, over the samples that have moved; None where none has.
        violations: samples that have moved farther than they can; anything but 0 is a bug.
    """

    name: str
    rank: int | None
    lipschitz: float
    bound: Spread
    measured: Spread
    ratio: float | None
    violations: int

    def to_json(self) -> dict[str, Any]:
        """The layer's entry in `certify --json`."""
        return {
            "name": self.name,
            "rank": self.rank,
            "lipschitz": self.lipschitz,
            "bound": self.bound.to_json(),
            "measured": self.measured.to_json(),
            "ratio": self.ratio,
            "violations": self.violations,
        }


@dataclass(frozen=True)
class BoundOutcome:
    """What one of the bounds gives by itself.

    Attributes:
        accuracy: share of samples that are right and certified to stay so.
        same_answer: share of samples whose answer is certified to stay.
        bound: how far δ can move, all cuts together.
    """

    accuracy: float
    same_answer: float
    bound: Spread

    def to_json(self) -> dict[str, Any]:
        """All of it by name."""
        return {"accuracy": self.accuracy, "same_answer": self.same_answer, "bound": self.bound.to_json()}


@dataclass(frozen=True)
class Certificate:
    """A cut on a set of samples.

    Attributes:
        data: what was asked, in words.
        samples: how many.
        accuracy_before: share of right answers of the original network.
        accuracy_after: of the cut one, measured.
        accuracy_certified: a lower bound on that, which no answer of the cut network was needed for.
        same_answer: share of answers that have stayed, measured.
        same_answer_certified: a lower bound on that.
        loss_before: mean cross-entropy in nats.
        loss_after: of the cut network, measured.
        loss_certified: an upper bound on that.
        ratio: median of bound over measured change of δ; None where nothing has moved.
        violations: samples beyond their bound, or changed though certified; anything but 0 is a bug.
        layers: the cut layers in order.
        bounds: each bound alone, and ``best``, the smallest of them for every layer and sample.
        confidence: (samples,), δ before.
        confidence_after: (samples,), δ after, measured.
        bound: (samples,), how far δ can move.
        reserve: (samples,), how many times larger the bound could be and the sample still be certified right; a
            sample of less than 1 is not certified, one that is wrong has 0.
        steps: for every layer (2, samples): bound and measured change.
    """

    data: str
    samples: int
    accuracy_before: float
    accuracy_after: float
    accuracy_certified: float
    same_answer: float
    same_answer_certified: float
    loss_before: float
    loss_after: float
    loss_certified: float
    ratio: float | None
    violations: int
    layers: tuple[LayerCertificate, ...]
    bounds: Mapping[Bound, BoundOutcome]
    confidence: NDArray[np.float64] = field(repr=False, compare=False)
    confidence_after: NDArray[np.float64] = field(repr=False, compare=False)
    bound: NDArray[np.float64] = field(repr=False, compare=False)
    reserve: NDArray[np.float64] = field(repr=False, compare=False)
    steps: tuple[NDArray[np.float64], ...] = field(repr=False, compare=False)

    @property
    def vacuous(self) -> bool:
        """Whether the bound says next to nothing: less than half of the right answers certified."""
        return self.accuracy_certified < self.accuracy_before / 2

    def plot(self) -> Figure:
        """Bounds against measured changes, as `certify --plot` draws them.

        Raises:
            MissingDependencyError: there is no matplotlib.
        """
        return figure_of(self)

    def to_json(self) -> dict[str, Any]:
        """The object of `certify --json`."""
        return {
            "samples": self.samples,
            "accuracy": {
                "before": self.accuracy_before,
                "after": self.accuracy_after,
                "certified": self.accuracy_certified,
            },
            "same_answer": {"measured": self.same_answer, "certified": self.same_answer_certified},
            "loss": {
                "before": self.loss_before,
                "after": self.loss_after,
                "certified": self.loss_certified,
            },
            "vacuous": self.vacuous,
            "ratio": self.ratio,
            "violations": self.violations,
            "bounds": {name: outcome.to_json() for name, outcome in self.bounds.items()},
            "layers": [layer.to_json() for layer in self.layers],
        }


def median_ratio(bound: NDArray[np.float64], measured: NDArray[np.float64]) -> float | None:
    """Median of bound over measured, over what has moved; None where nothing has."""
    moved = measured > 0
    return float(np.median(bound[moved] / measured[moved])) if moved.any() else None
