"""A network's score against the singular values kept in one layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rmt_compress.errors import SettingsError
from rmt_compress.progress import counter, phase
from rmt_compress.sweep.results import Sweep, SweepCurve, SweepPoint
from rmt_compress.sweep.target import POINTS, SweepTarget, check_points, saving

if TYPE_CHECKING:
    from rmt_compress.analysis import Analysis, AnalyzedLayer
    from rmt_compress.progress import Progress

MOST_LAYERS = 6
"""Layers in one sweep unless they are named: more curves are no picture."""


@phase("sweeping rank")
def sweep_rank(
    target: SweepTarget,
    *,
    layers: Sequence[str] = (),
    ranks: Sequence[int] = (),
    points: int = POINTS,
    progress: Progress | None = None,
) -> Sweep:
    """A network's score against the number of singular values kept in one layer, all others whole (SJK23 figure 5).

    Args:
        target: the network.
        layers: names of the layers, a curve each; none for the largest analysed ones, `MOST_LAYERS` at most.
        ranks: singular values to keep; none for about `points` from 1 to all, evenly spaced in their logarithm, of
            a shrunk cut to all that it keeps anything of. The predicted rank, the number of spikes, is always
            added.
        points: see `ranks`.
        progress: called with (trials done, trials in all, layer).

    Raises:
        SettingsError: no such layer, or it was skipped; a rank it does not have; fewer than 2 points.
    """
    chosen = _chosen_layers(target.analysis, layers)
    grids = [_rank_grid(layer, ranks, points, target.most(layer)) for layer in chosen]
    advance = counter(sum(map(len, grids)), progress)
    curves = []
    for layer, grid in zip(chosen, grids, strict=True):
        name = layer.name
        found = []
        for rank in grid:
            score = target.score_with({layer.tensor: target.truncated(layer, rank)})
            left = target.parameters - saving(layer, rank)
            found.append(SweepPoint(rank, left, score, {name: rank}))
            advance(name)
        predicted = next(point for point in found if point.amount == _predicted_rank(layer, target.most(layer)))
        curves.append(SweepCurve(name, tuple(found), predicted))
    return target.result("rank", curves)


def _chosen_layers(analysis: Analysis, names: Sequence[str]) -> list[AnalyzedLayer]:
    if not names:
        largest = sorted(analysis.analyzed, key=lambda layer: -layer.parameters)[:MOST_LAYERS]
        return [layer for layer in analysis.analyzed if layer in largest]
    known = {name: layer for layer in analysis.layers for name in (layer.tensor, layer.name)}
    chosen, problems = {}, []
    for name in names:
        layer = known.get(name)
        if layer is None:
            swept = ", ".join(layer.name for layer in analysis.analyzed) or "none"
            problems.append(f"no layer is called {name!r}; those that can be swept are {swept}")
        elif layer.fit is None:
            problems.append(f"{name} cannot be swept: {layer.reason}")
        else:
            chosen[name] = layer
    if problems:
        raise SettingsError(problems)
    return list(chosen.values())


def _predicted_rank(layer: AnalyzedLayer, most: int) -> int:
    return min(most, max(1, layer.fit.spikes))


def _rank_grid(layer: AnalyzedLayer, ranks: Sequence[int], points: int, most: int) -> list[int]:
    p = layer.fit.p
    if wrong := [rank for rank in ranks if not 1 <= rank <= p]:
        raise SettingsError([f"{layer.name} has ranks from 1 to {p}, not {rank}" for rank in wrong])
    if not ranks:
        check_points(points)
        ranks = [round(rank) for rank in np.geomspace(1, most, points)]
    return sorted({*ranks, _predicted_rank(layer, most)})
