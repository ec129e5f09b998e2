"""Numbers that change from epoch to epoch, each a pure function of the epoch: nothing to save, nothing to resume.

Learning rate (the rate of epoch 1 is the one given):

    constant            the same throughout
    step:0.96,4         × 0.96 after every 4 epochs
    cosine              half a cosine from the given rate down towards 0 after the last epoch

Share f of the bulk that a cut keeps (method.md §8):

    auto                falls evenly from cut to cut, to 0 at the last
    0.45                the same at every cut (SJK23)
    slope:0.005         max(0, 1 − slope · epoch) (BSSZ24)
    0.6,0.3,0           cut by cut; the last one stays

Share of a budget that a cut leaves, from a share s of the network that comes to the budget b at the last cut:

    geometric           every cut leaves the same share of what there was: s·(b/s)^t, t = 1/n … 1
    linear              every cut takes the same amount: s − (s − b)·t
    once                b at the first cut

Threshold ξ of sparsification: ``0.001:0.02`` rises linearly from the first epoch to the last, ``0.01`` stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence


def learning_rate(spec: str, first: float, epochs: int) -> Callable[[int], float]:
    """The learning rate of an epoch, counted from 1.

    Args:
        spec: see the module's description.
        first: that of the first epoch.
        epochs: how many there will be.

    Raises:
        ValueError: no such schedule.
    """
    name, _, text = spec.partition(":")
    if spec == "constant":
        return lambda epoch: first
    if spec == "cosine":
        return lambda epoch: first * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / max(1, epochs)))
    if name == "step":
        numbers = _numbers(text)
        if len(numbers) == 2 and numbers[0] > 0 and numbers[1] >= 1 and numbers[1].is_integer():
            factor, every = numbers[0], int(numbers[1])
            return lambda epoch: first * factor ** ((epoch - 1) // every)
    raise ValueError(f"the learning-rate schedule must be constant, cosine or step:FACTOR,EPOCHS, got {spec!r}")


def retained_share(spec: str, cuts: Sequence[int]) -> Callable[[int], float]:
    """The share f of the bulk that the cut after an epoch keeps.

    Args:
        spec: see the module's description.
        cuts: the epochs after which a cut is made, ascending.

    Raises:
        ValueError: no such schedule, or a share outside [0, 1].
    """
    if spec == "auto":
        return lambda epoch: 1 - (cuts.index(epoch) + 1) / len(cuts)
    name, _, text = spec.partition(":")
    numbers = _numbers(text if name == "slope" else spec)
    if name == "slope" and len(numbers) == 1 and numbers[0] > 0:
        return lambda epoch: max(0.0, 1 - numbers[0] * epoch)
    if name != "slope" and numbers and all(0 <= number <= 1 for number in numbers):
        return lambda epoch: numbers[min(cuts.index(epoch), len(numbers) - 1)]
    raise ValueError(
        f"the retained share must be auto, a number or a list of numbers from 0 to 1, or slope:NUMBER, got {spec!r}"
    )


def share_left(spec: str, start: float, goal: float, cuts: Sequence[int]) -> Callable[[int], float]:
    """The share of the whole network that the cut after an epoch leaves.

    Args:
        spec: see the module's description.
        start: share that there is before the first cut.
        goal: share after the last; the one asked for throughout where there is no more than that.
        cuts: the epochs after which a cut is made, ascending.

    Raises:
        ValueError: no such schedule.
    """
    ways: dict[str, Callable[[float], float]] = {
        "geometric": lambda done: start * (goal / start) ** done,
        "linear": lambda done: start - (start - goal) * done,
        "once": lambda done: goal,
    }
    if spec not in ways:
        raise ValueError(f"the way to a budget must be {', '.join(ways)}, got {spec!r}")

    def share(epoch: int) -> float:
        done = (cuts.index(epoch) + 1) / len(cuts)
        return goal if goal >= start or done == 1 else ways[spec](done)

    return share


def threshold(spec: str, epochs: int) -> Callable[[int], float]:
    """The threshold ξ of an epoch, counted from 1.

    Raises:
        ValueError: no number of 0 or more, nor two with a colon between.
    """
    first, colon, last = spec.partition(":")
    ends = _numbers(f"{first},{last}" if colon else first)
    if len(ends) != 1 + bool(colon) or not all(0 <= end < math.inf for end in ends):
        raise ValueError(f"the sparsification threshold must be XI or FIRST:LAST, of 0 or more, got {spec!r}")
    low, high = ends[0], ends[-1]
    return lambda epoch: low + (high - low) * (epoch - 1) / max(1, epochs - 1)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return []
