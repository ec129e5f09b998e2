"""In words what a layer's spectrum looks like, and the numbers that say so (method.md §15).

The first that holds is the layer's word:

    low rank                   half of its directions or fewer are more than the rounding of its entries
    noise                      the bulk fits Marchenko and Pastur's law about as noise of its size does, and next to
                               nothing sticks out
    noise plus spikes          the same, with spikes
    scaled noise (plus spikes) the same, once the scales of rows and columns are taken out, if that is their doing
    heavy-tailed               a quarter of the eigenvalues or more follow a power law better than an exponential
    structured                 none of these

*About as noise does*: the fit error is at most `NEAR` times the 95 % point of noise of its size, and spikes are a
quarter of the directions at most. Both are of the fit that leaves the spikes out of the ranks (`--quantiles
spiked`): otherwise every layer with many spikes would be called structured for being full of them.

*Their doing*: without the scales the fit error is less by the 95 % point or more, or spikes are half as many. A
layer that passes by a hair what it missed by a hair owes that to no scales.

A word says what a bulk looks like, not what it is worth: see docs/when-the-edge-lies.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from rmt_compress import spectrum

if TYPE_CHECKING:
    from numpy.typing import NDArray

Word = Literal[
    "noise",
    "noise plus spikes",
    "scaled noise",
    "scaled noise plus spikes",
    "heavy-tailed",
    "low rank",
    "structured",
]
WORDS: tuple[Word, ...] = get_args(Word)

# A fit error up to so many times the 95 % point of noise is near that of noise.
NEAR = 2.0
# A share of the directions: more spikes than this reach into the window of the fit, and fewer eigenvalues are no
# tail of a whole spectrum.
QUARTER = 0.25
# Spikes with no more of the energy than this are nothing.
NOTHING = 0.01
# Martin and Mahoney call a tail of a greater exponent no power law.
LARGEST_EXPONENT = 6.0
# Products are rounded in their sums too.
_ROUNDINGS = 4
# Half of the distance from 1 to the next number, by torch's name of the type.
_ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}


@dataclass(frozen=True)
class BulkError:
    """How a spectrum fits noise, its spikes left out of the ranks.

    Attributes:
        gof: the fit error.
        null: the 95 % point of the fit error of noise of this size.
        spikes: directions above the edge.
        of: all directions.
        spike_energy: share of the squares in spikes.
    """

    gof: float
    null: float
    spikes: int
    of: int
    spike_energy: float

    @property
    def near_noise(self) -> bool:
        """Whether it fits about as noise does."""
        return self.gof <= NEAR * self.null and self.spikes <= QUARTER * self.of


@dataclass(frozen=True)
class Measures:
    """The numbers that a diagnosis is made of.

    Attributes:
        shape: (rows, columns).
        rank: directions above the rounding of the matrix's entries.
        stable_rank: ‖W‖_F²/‖W‖².
        effective_rank: see `spectrum.effective_rank`.
        raw: how the matrix itself fits noise; None where its bulk is zero.
        equalized: the same with the scales of rows and columns taken out; None where that was not tried.
        tail: the power law of the largest eigenvalues; None where fewer than two different ones are not zero.
    """

    shape: tuple[int, int]
    rank: int
    stable_rank: float
    effective_rank: float
    raw: BulkError | None
    equalized: BulkError | None
    tail: spectrum.HeavyTail | None


@dataclass(frozen=True)
class Diagnosis:
    """A word for a layer, and why it is that one."""

    word: Word
    reason: str


def measure(
    values: NDArray[np.float64],
    shape: tuple[int, int],
    dtype: str,
    *,
    scaled: tuple[NDArray[np.float64], int] | None = None,
    alpha: float = 0.25,
    beta: float = 0.1,
    gof_error: float = 0.0,
) -> Measures:
    """The numbers for a matrix that is not zero.

    Costs some p² operations more than the fit.

    Args:
        values: its p singular values, descending.
        shape: (rows, columns).
        dtype: torch's name of the type of its entries.
        scaled: singular values once scales are taken out, and the larger side of what they are of.
        alpha: see `spectrum.fit_bulk`.
        beta: see `spectrum.fit_bulk`.
        gof_error: how wrong the fit error of these values can be; noise may show so much more.
    """
    energy = float(np.square(values).sum())
    # The largest singular value that rounding of all entries, independent of one another, makes.
    sides = shape[0] ** 0.5 + shape[1] ** 0.5
    rounding = _ROUNDINGS * _ROUNDING[dtype] * np.sqrt(energy / (shape[0] * shape[1])) * sides
    return Measures(
        shape=shape,
        rank=int((values > rounding).sum()),
        stable_rank=energy / float(values[0]) ** 2,
        effective_rank=spectrum.effective_rank(values),
        raw=_bulk_error(values, max(shape), alpha, beta, gof_error),
        equalized=None if scaled is None else _bulk_error(*scaled, alpha, beta),
        tail=_tail(values),
    )


def _tail(values: NDArray[np.float64]) -> spectrum.HeavyTail | None:
    try:
        return spectrum.fit_heavy_tail(values**2)
    except spectrum.DegenerateSpectrumError:
        return None


def _bulk_error(
    values: NDArray[np.float64], n: int, alpha: float, beta: float, gof_error: float = 0.0
) -> BulkError | None:
    try:
        fit = spectrum.fit_bulk(values**2 / n, n, alpha=alpha, beta=beta, quantiles="spiked")
    except spectrum.DegenerateSpectrumError:
        return None
    null = spectrum.fit_error_quantile(0.95, fit.p - fit.left_out, fit.n - fit.left_out, alpha=alpha)
    energy = values**2
    return BulkError(fit.gof, null + gof_error, fit.spikes, fit.p, float(energy[: fit.spikes].sum() / energy.sum()))


def diagnose(found: Measures) -> Diagnosis:
    """The word for these numbers."""
    p, tail, raw, equalized = min(found.shape), found.tail, found.raw, found.equalized
    if 2 * found.rank <= p:
        return Diagnosis("low rank", f"{found.rank} of {p} directions are more than rounding")
    if raw is not None and raw.near_noise:
        return Diagnosis(*_noise(raw))
    if equalized is not None and equalized.near_noise and _explains(equalized, raw):
        word, why = _noise(equalized)
        return Diagnosis(
            "scaled noise" if word == "noise" else "scaled noise plus spikes",
            f"scales of rows and columns taken out, {why}; with them {_misses(raw)}",
        )
    missed = _misses(raw)
    if tail is None:
        return Diagnosis("structured", f"{missed}; its directions are all alike")
    if equalized is not None:
        missed += f", scales taken out {_hardly_better(equalized) if equalized.near_noise else _misses(equalized)}"
    law = f"α {tail.alpha:.2f} ± {tail.error:.2f} of {tail.size} eigenvalues"
    missed += "" if equalized is not None else ", scales of rows and columns not tried"
    if against := _against_heavy_tail(tail, p):
        return Diagnosis("structured", f"{missed}; no power law: {against}")
    return Diagnosis("heavy-tailed", f"power law {law}; {missed}")


KEYS = (
    *("effective_rank", "diagnosis", "diagnosis_reason", "rounding_rank", "stable_rank"),
    *("hill_alpha", "hill_alpha_error", "hill_size"),
)
"""What `analyze --json` has of a diagnosis."""


def as_json(found: Measures) -> dict[str, float | str | None]:
    """The `KEYS` of a layer with these numbers."""
    diagnosis, tail = diagnose(found), found.tail
    law = (None,) * 3 if tail is None else (tail.alpha, tail.error, tail.size)
    said = diagnosis.word, diagnosis.reason, found.rank, found.stable_rank, *law
    return dict(zip(KEYS, (found.effective_rank, *said), strict=True))


def _explains(equalized: BulkError, raw: BulkError | None) -> bool:
    """Whether it is for the scales that a matrix is not near noise."""
    if raw is None or 2 * equalized.spikes <= raw.spikes:
        return True
    return raw.gof / raw.null - equalized.gof / equalized.null >= 1


def _noise(error: BulkError) -> tuple[Word, str]:
    word: Word = "noise" if error.spike_energy <= NOTHING else "noise plus spikes"
    spikes = f"{error.spikes} of {error.of} are spikes with {error.spike_energy:.0%} of the energy"
    return word, f"{_times_noise(error)}, {spikes}"


def _times_noise(error: BulkError) -> str:
    return f"fit error {error.gof / error.null:.1f} times that of noise"


def _hardly_better(error: BulkError) -> str:
    return f"hardly better ({_times_noise(error)}, {error.spikes} of {error.of} spikes)"


def _misses(error: BulkError | None) -> str:
    """Why a spectrum is not near noise."""
    if error is None:
        return "the bulk is zero"
    if error.gof > NEAR * error.null:
        return _times_noise(error)
    return f"{error.spikes} of {error.of} directions would be spikes"


def _against_heavy_tail(tail: spectrum.HeavyTail, p: int) -> str:
    """What speaks against a power law, nothing where it holds."""
    if tail.size < QUARTER * p:
        return f"it would hold for {tail.size} of {p} eigenvalues only"
    if tail.alpha > LARGEST_EXPONENT:
        return f"its exponent would be {tail.alpha:.1f}"
    if not tail.passes:
        return f"its distance {tail.distance:.2f} is too great for {tail.size} eigenvalues"
    return "" if tail.over_exponential > 0 else "an exponential law fits the tail better"
