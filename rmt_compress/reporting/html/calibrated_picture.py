"""What calibration makes of a layer's directions, for a page: their worth, from the plan's curve of prices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rmt_compress.decomposition.bases import basis_called
from rmt_compress.planning.price_record import curve_of_record

if TYPE_CHECKING:
    from rmt_compress.plan import Plan
    from rmt_compress.planning.allocation import Choices

_POINTS = 64
# By basis, what half the square of a singular value is.
_WORTH = {
    "two-sided": "predicted rise of the loss without it",
    "input": "half the energy of the outputs without it",
}


def calibrated_pictures(plan: Plan) -> dict[str, tuple[dict[str, Any], str]]:
    """By tensor, what the calibrated spectrum of a layer is drawn from, and what it shows in words.

    A curve of prices has the loss ½Σ_{i>r} σ_i² of each rank r that saves anything, so that the differences of
    neighbours are the calibrated spectrum down to the last such rank. None where the plan has no curve, and where
    its directions are those of the weights alone.
    """
    if plan.curve is None or not basis_called(plan.basis).calibrated:
        return {}
    curve, _, _ = curve_of_record(plan.curve)
    ranks = {decision.tensor: decision.rank for decision in plan.layers}
    worth = _WORTH[plan.basis]
    drawn = {layer.tensor: _picture(layer, ranks.get(layer.tensor), worth) for layer in curve.layers}
    return {tensor: each for tensor, each in drawn.items() if each is not None}


def _picture(layer: Choices, kept: int | None, of: str) -> tuple[dict[str, Any], str] | None:
    ends = np.append(0, layer.ranks)
    worth = -np.diff(np.append(layer.total, layer.losses)) / np.diff(ends)
    # Of float32 losses the smallest differences may come to nothing, which has no place on a logarithmic axis.
    places, worth = layer.ranks[worth > 0], worth[worth > 0]
    if len(places) < 2:
        return None
    shown = np.arange(len(places))
    if len(places) > _POINTS:
        # The first directions differ most.
        shown = np.unique(np.geomspace(1, len(places), _POINTS).astype(int)) - 1
    points = [[int(places[index]), float(f"{worth[index]:.3g}")] for index in shown]
    left = "all are kept" if kept is None else f"the first {kept:,} are kept"
    words = (
        f"What each direction is worth as calibrated, the {of}: from {worth[0]:.3g} for the first to "
        f"{worth[-1]:.3g} for number {places[-1]:,}, the last at which a cut saves anything; {left}."
    )
    return {"points": points, "kept": kept, "worth": of}, words
