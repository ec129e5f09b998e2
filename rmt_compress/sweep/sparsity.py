"""A network's score against a threshold below which entries become 0, with and without low rank first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from rmt_compress.errors import SettingsError
from rmt_compress.layers.layer import as_weight
from rmt_compress.layers.zeroing import count_nonzero, sparsify
from rmt_compress.planning.making import make_plan
from rmt_compress.progress import counter, phase
from rmt_compress.sweep.results import Sweep, SweepCurve, SweepPoint
from rmt_compress.sweep.target import POINTS, SweepTarget, check_points

if TYPE_CHECKING:
    from rmt_compress.plan import Plan
    from rmt_compress.progress import Progress

MAGNITUDE, LOW_RANK_FIRST = "magnitude alone", "low rank, then magnitude"

# A weight as it is, or its two factors: down (rank × columns) and up (rows × rank).
Pieces = tuple[torch.Tensor, ...]


@phase("sweeping sparsity")
def sweep_sparsity(
    target: SweepTarget,
    *,
    shares: Sequence[float] = (),
    thresholds: Sequence[float] = (),
    keep_bulk: float = 0.0,
    points: int = POINTS,
    progress: Progress | None = None,
) -> Sweep:
    """A network's score against one threshold ξ below which all entries become 0 (BSSZ24 figures 6, 9, 11).

    Two curves: the network as it is, and its spikes in two factors wherever these are smaller.

    Args:
        target: the network.
        shares: shares of all parameters that are to be left; each gives the ξ that leaves as many. None for about
            `points` from a half down to 1 %, evenly spaced in their logarithm. ξ = 0 is always added.
        thresholds: values of ξ, instead of shares.
        keep_bulk: share f of the bulk that is kept beside the spikes.
        points: see `shares`.
        progress: called with (trials done, trials in all, curve).

    Raises:
        SettingsError: a share outside (0, 1], a negative threshold, both given, or fewer than 2 points.
    """
    if shares and thresholds:
        raise SettingsError(["shares and thresholds are two ways to say the same: give one"])
    problems = [f"share {share:g} is outside (0, 1]" for share in shares if not 0 < share <= 1]
    problems += [f"threshold {threshold:g} is negative" for threshold in thresholds if not threshold >= 0]
    if problems:
        raise SettingsError(problems)
    if not shares and not thresholds:
        check_points(points)
        shares = [float(share) for share in np.geomspace(0.5, 0.01, points)]
    # Which weights may be sparsified is the plan's decision.
    plan = make_plan(target.analysis, keep_bulk=keep_bulk, shrink=target.shrink, sparsify=1.0)
    pieces = {MAGNITUDE: _pieces(target, plan, split=False), LOW_RANK_FIRST: _pieces(target, plan, split=True)}
    cuts = {}
    for name, parts in pieces.items():
        untouched = target.nonzeros_outside(parts)
        found = thresholds or _thresholds(parts, [round(share * target.parameters) - untouched for share in shares])
        cuts[name] = sorted({0.0, *found}, reverse=True)
    advance = counter(sum(map(len, cuts.values())), progress)
    curves = []
    ranks = {decision.name: decision.rank for decision in plan.layers if decision.rank is not None}
    for name, parts in pieces.items():
        rest = target.nonzeros_outside(parts)
        tried = []
        for threshold in cuts[name]:
            sparse = {
                tensor: tuple(sparsify(factor, threshold) for factor in factors)
                for tensor, factors in parts.items()
            }
            left = rest + sum(count_nonzero(factor) for factors in sparse.values() for factor in factors)
            score = target.score_with({tensor: _joined(target, tensor, sparse[tensor]) for tensor in sparse})
            tried.append(SweepPoint(threshold, left, score, ranks if name == LOW_RANK_FIRST else {}))
            advance(name)
        predicted = tried[-1] if name == LOW_RANK_FIRST and keep_bulk == 0 else None
        curves.append(SweepCurve(name, tuple(tried), predicted))
    return target.result("sparsity", curves)


def _pieces(target: SweepTarget, plan: Plan, *, split: bool) -> dict[str, Pieces]:
    """Every weight that may be sparsified, in two factors where the plan splits it and `split` is set."""
    layers = {layer.tensor: layer for layer in target.analysis.analyzed}
    pieces: dict[str, Pieces] = {}
    for decision in plan.layers:
        weight = target.weight(decision.tensor)
        if decision.sparsify is None or weight is None:
            continue
        if split and decision.rank is not None:
            pieces[decision.tensor] = target.decomposition(layers[decision.tensor]).factors(decision.rank)
        else:
            pieces[decision.tensor] = (weight,)
    return pieces


def _thresholds(pieces: Mapping[str, Pieces], counts: Sequence[int]) -> list[float]:
    """The thresholds that leave so many of all entries; none for a count below 1."""
    sizes = torch.cat([factor.abs().flatten() for factors in pieces.values() for factor in factors])
    sizes = sizes.sort(descending=True).values
    return [float(sizes[count - 1]) if count <= len(sizes) else 0.0 for count in counts if count >= 1]


def _joined(target: SweepTarget, tensor: str, pieces: Pieces) -> torch.Tensor:
    if len(pieces) == 1:
        return pieces[0]
    down, up = pieces
    layer = next(layer.layer for layer in target.analysis.analyzed if layer.tensor == tensor)
    return as_weight(layer, up @ down)
