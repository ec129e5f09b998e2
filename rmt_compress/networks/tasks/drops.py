"""By how much a score may fall, as people write it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmt_compress.errors import SettingsError

if TYPE_CHECKING:
    from rmt_compress.networks.tasks.task import Metric


def allowed_drop(text: str, metric: Metric, full: float) -> float:
    """A drop in the metric's own unit: from points of a share, else from a number or a percentage of `full`.

    Args:
        text: ``0.5`` points of accuracy; ``0.02`` or ``2%`` of a loss.
        metric: what falls.
        full: from where.

    Raises:
        SettingsError: it is no such number.
    """
    amount = drop_number(text)
    if metric.unit == "share":
        return amount / 100
    return amount / 100 * abs(full) if text.endswith("%") else amount


def drop_number(text: str) -> float:
    """The number in a drop, whatever its unit.

    Raises:
        SettingsError: there is none of at least 0.
    """
    try:
        amount = float(text.removesuffix("%"))
    except ValueError:
        amount = -1.0
    if not 0 <= amount < float("inf"):
        raise SettingsError([f"max-drop is a number of points, or a percentage as 2%, of at least 0, got {text!r}"])
    return amount
