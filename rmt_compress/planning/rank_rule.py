"""What a rank rule is: one row per rule, each in a module of `rmt_compress.planning.rules`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rmt_compress.analysis.records import AnalyzedLayer


class Number(NamedTuple):
    """What stands behind the name of a rule, after a colon.

    Attributes:
        placeholder: for help texts.
        meaning: with its range, for error messages.
        suits: whether a number is in that range.
    """

    placeholder: str
    meaning: str
    suits: Callable[[float], bool]


SHARE = Number("SHARE", "a share above 0 and at most 1", lambda number: 0 < number <= 1)
COUNT = Number("COUNT", "a whole number of at least 1", lambda number: number >= 1 and number.is_integer())


@dataclass(frozen=True)
class RankRule:
    """How many singular values of a layer to keep; which ones is another question (the largest).

    Attributes:
        name: in plans and on the command line.
        source: where it was published.
        caption: of its curve in pictures.
        rank: of a layer and its number, how many to keep; `keep` brings that between 1 and all.
        number: what follows the name; None for nothing.
        from_spikes: whether it counts from the spikes. Such a rule cuts only layers that fit, and its number is the
            share of the bulk that is kept beside them, `PlanSettings.keep_bulk`.
        grid: so many numbers for a sweep, from where accuracy has collapsed to where a split hardly shrinks a
            square layer; None for a rule that is not swept.
    """

    name: str
    source: str
    caption: str
    rank: Callable[[AnalyzedLayer, float], int]
    number: Number | None = None
    from_spikes: bool = False
    grid: Callable[[int], Sequence[float]] | None = None

    @property
    def usage(self) -> str:
        """How it is written: ``energy:SHARE``."""
        return f"{self.name}:{self.number.placeholder}" if self.number else self.name

    def written(self, number: float) -> str:
        """It and its number, as in a plan: ``energy:0.9``."""
        return f"{self.name}:{number!r}" if self.number else self.name

    def keep(self, layer: AnalyzedLayer, number: float) -> int:
        """Number of singular values it keeps, between 1 and all; of a stack the most that any expert needs."""
        return max(max(1, min(self.rank(matrix, number), matrix.fit.p)) for matrix in layer.matrices)
