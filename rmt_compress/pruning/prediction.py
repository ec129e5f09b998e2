"""What agreement on inputs that a network made itself says of real samples, with its error.

Measured in experiments/self_calibration.py, over every rule of the portfolio at several sizes: of three MLPs the
accuracy that was lost over the share of answers that changed on made-up vectors and half a point, without which no
change would promise no loss; and of one language model the rise of its loss over the Kullback–Leibler divergence on
its own text. The ranges are those of nine in ten of the cuts, each network weighing the same. Of networks that take
anything else nothing is known, and nothing is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rmt_compress.networks.calibration.made_up import SAMPLED_TEXT, SPIKED_NOISE

if TYPE_CHECKING:
    from rmt_compress.networks.tasks.task import Score


@dataclass(frozen=True)
class Ratio:
    """A real loss over what stands for it on made-up inputs.

    Attributes:
        low: a twentieth of the cuts have less.
        middle: the median.
        high: a twentieth have more.
        cuts: that were measured.
        networks: that they are of.
    """

    low: float
    middle: float
    high: float
    cuts: int
    networks: int


FLOOR = 0.005
"""What is added to a share of changed answers."""
ACCURACY = Ratio(0.0, 0.32, 1.12, 180, 3)
TEXT = Ratio(0.80, 1.01, 1.36, 36, 1)


_MEASURED = {SPIKED_NOISE: ACCURACY, SAMPLED_TEXT: TEXT}


def predicted(score: Score, kind: str) -> tuple[str, dict[str, Any]] | None:
    """What a cut will cost on real samples, as a sentence and as plain JSON; None where nothing was measured.

    Args:
        score: agreement of the cut network with the uncut one, on inputs that this one made.
        kind: of these inputs, see `MadeUp`.
    """
    ratio = _MEASURED.get(kind)
    if ratio is None or score.task != "agreement" or score.metric.name != "same answer" or score.loss is None:
        return None
    text = ratio is TEXT
    seen = max(0.0, score.loss) if text else 1 - score.value + FLOOR
    low, middle, high = (part * seen for part in (ratio.low, ratio.middle, ratio.high))
    if text:
        falls = f"the loss rises by {middle:.3f} nats per token, {low:.3f} to {high:.3f}"
    else:
        falls = f"accuracy falls by {100 * middle:.1f} points, {100 * low:.1f} to {100 * high:.1f}"
    networks = "one network" if ratio.networks == 1 else f"{ratio.networks} networks"
    note = (
        f"predicted of real samples: {falls} in nine of ten of the {ratio.cuts} cuts of {networks} that this was "
        f"measured on; {score.value:.1%} of the answers to what it made are the same"
    )
    unit = "nats per token" if text else "share"
    return note, {"of": "loss" if text else "accuracy", "unit": unit, "low": low, "likely": middle, "high": high}
