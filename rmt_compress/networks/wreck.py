"""Whether a network is a wreck: its score nearer to guessing than to that of the network it was made from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rmt_compress.networks.tasks.task import Metric, Score

# Three standard errors: a network that guesses comes this near to the score of guessing, and hardly ever farther.
_DEVIATIONS = 3.0


def chance_accuracy(counts: Sequence[int]) -> float:
    """Share of right answers of one that always names the largest class, of `counts` samples per class."""
    return max(counts) / sum(counts)


def chance_margin(chance: float, samples: int) -> float:
    """How far from `chance` the share of right answers of a guess may lie, with `samples` asked."""
    return _DEVIATIONS * math.sqrt(chance * (1 - chance) / samples)


def percent(value: float) -> str:
    """A share as people read it."""
    return f"{value:.2%}"


def wreck(
    score: float,
    *,
    guess: float,
    original: float | None = None,
    margin: float = 0.0,
    higher_is_better: bool = True,
    name: str = "accuracy",
    called: str = "the original",
    shown: Callable[[float], str] = percent,
) -> str | None:
    """Why a score is that of a wreck, in words; None where it is none.

    It is one where it is no number, and where it is nearer to `guess` than to `original`, or on the far side of it;
    without an original, where it is no better than `guess`. An original that is no better than guessing itself
    proves nothing.

    Args:
        score: of the network.
        guess: of a constant answer: the share of the largest class, the loss of the mean.
        original: of the network it was made from, or the best that it has had.
        margin: how much better than `guess` is no more than luck, in the score's own unit.
        higher_is_better: direction of the score.
        name: of the score.
        called: what `original` is the score of.
        shown: a score as text.
    """
    sign = 1 if higher_is_better else -1
    if not math.isfinite(score):
        return f"{name} is {score}, no number"
    if original is None:
        if sign * (score - guess) > margin:
            return None
        return f"{name} {shown(score)} is no better than guessing ({shown(guess)})"
    if sign * (original - guess) <= margin or sign * (2 * score - guess - original) >= 0:
        return None
    return f"{name} {shown(score)} is nearer to guessing ({shown(guess)}) than to {called} ({shown(original)})"


def against_original(score: Score, original: Score) -> str | None:
    """Why a network is a wreck by its score and the original's; None: it is none, or no guess is known."""
    if score.guess is None or score.task != original.task:
        return None
    chance = score.accuracy is not None and 0 < score.guess < 1 and score.samples
    return wreck(
        score.value,
        guess=score.guess,
        original=original.value,
        margin=chance_margin(score.guess, score.samples) if chance else 0.0,
        higher_is_better=score.metric.higher_is_better,
        name=score.metric.name,
        shown=score.metric.shown,
    )


def trained(scores: Sequence[float], guess: float | None, samples: int, metric: Metric) -> str | None:
    """Why training has ended with a wreck, by the scores on the way; the last one counts. None: it has not.

    Args:
        scores: of the network before training, after every epoch, and of the one that is left.
        guess: the score of a constant answer; None where that means nothing.
        samples: how many were asked.
        metric: what the scores are.
    """
    if guess is None:
        return None
    margin = chance_margin(guess, samples) if metric.unit == "share" and 0 < guess < 1 else 0.0
    sign = 1 if metric.higher_is_better else -1
    best = max(scores, key=lambda score: sign * score)
    return wreck(
        scores[-1],
        guess=guess,
        original=best if sign * (best - guess) > margin else None,
        margin=margin,
        higher_is_better=metric.higher_is_better,
        name=metric.name,
        called="the best on the way",
        shown=metric.shown,
    )
