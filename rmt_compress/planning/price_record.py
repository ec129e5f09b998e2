"""A curve of prices as a plan file keeps it, so that another budget costs nothing.

Losses are float32 in base64, which is what they were rounded to when they were computed; costs that are
proportional to the rank are one number. A layer takes some six bytes a rank.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

import numpy as np

from rmt_compress.errors import PlanError
from rmt_compress.planning.allocation import SCALINGS, Choices, PriceCurve

if TYPE_CHECKING:
    from numpy.typing import NDArray


def curve_record(curve: PriceCurve, *, unit: str, whole: float, fixed: float) -> dict[str, Any]:
    """Plain JSON of a curve.

    Args:
        curve: the curve.
        unit: what its costs count.
        whole: cost of the whole network as it is.
        fixed: what of it stands outside the layers of the curve.
    """
    return {
        "unit": unit,
        "scaling": curve.scaling,
        "whole": whole,
        "fixed": fixed,
        "layers": {layer.tensor: _layer_record(layer) for layer in curve.layers},
    }


def curve_of_record(record: dict[str, Any]) -> tuple[PriceCurve, float, float]:
    """The curve, the cost of the whole network and what of it is fixed; undoes `curve_record`.

    Raises:
        PlanError: it is no such record.
    """
    try:
        if record["scaling"] not in SCALINGS:
            raise ValueError(f"no scaling is called {record['scaling']}")
        layers = [_layer(tensor, entry) for tensor, entry in record["layers"].items()]
        return PriceCurve(layers, record["scaling"]), float(record["whole"]), float(record["fixed"])
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        raise PlanError(f"the curve in the plan is damaged ({error}); plan the network anew") from error


def _layer_record(layer: Choices) -> dict[str, Any]:
    ranks, costs = layer.ranks, layer.costs
    steps = np.unique(np.diff(ranks)).tolist()
    even = len(ranks) < 2 or len(steps) == 1
    record: dict[str, Any] = {"dense": layer.dense, "share": layer.share, "total": layer.total}
    if len(ranks):
        slope = float(costs[0] / ranks[0])
        record["ranks"] = [int(ranks[0]), int(ranks[-1]), *steps] if even else {"listed": ranks.tolist()}
        record["costs"] = slope if np.array_equal(slope * ranks, costs) else _text(costs.astype("<f8"))
        record["losses"] = _text(layer.losses.astype("<f4"))
    return record


def _layer(tensor: str, record: dict[str, Any]) -> Choices:
    ranks: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
    costs = losses = np.zeros(0)
    if "ranks" in record:
        given, losses = record["ranks"], _numbers(record["losses"], "<f4")
        if isinstance(given, dict):
            ranks = np.array(given["listed"], dtype=np.int64)
        else:
            first, last, step = (*given, 1)[:3]
            ranks = first + step * np.arange(len(losses), dtype=np.int64)
            if ranks[-1] != last:
                raise ValueError(f"{tensor} has ranks up to {last} and losses up to {ranks[-1]}")
        costs = _numbers(record["costs"], "<f8") if isinstance(record["costs"], str) else record["costs"] * ranks
        if not len(ranks) == len(losses) == len(costs):
            raise ValueError(f"{tensor} has {len(ranks)} ranks, {len(losses)} losses and {len(costs)} costs")
    dense = None if record["dense"] is None else float(record["dense"])
    if dense is None and not len(ranks):
        raise ValueError(f"{tensor} has no choice at all")
    return Choices(tensor, ranks, costs, losses, dense, float(record["total"]), float(record["share"]))


def _text(numbers: NDArray[Any]) -> str:
    return base64.b64encode(numbers.tobytes()).decode()


def _numbers(text: str, kind: str) -> NDArray[np.float64]:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype=kind).astype(np.float64)
