"""A picture of several states of one network: spikes, edge, bulk energy and fit error of every layer over them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.outputs import make_folder
from rmt_compress.reporting.blanks import blank_figure, said_in_figure, write_figure
from rmt_compress.reporting.layer_names import common_prefix, network_order

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rmt_compress.analysis.trend import LayerTrend, Trend

# So many layers have colours that can be told apart, those that changed most; the others are grey.
_COLORS = ("#c8553d", "#457b9d", "#8a9a5b", "#8d6a9f", "#d4a24c", "#1d3557", "#4aa3a2", "#b56576")
_REST = "#c4c9ce"
PANELS = (
    ("spikes", "spikes, % of the singular values"),
    ("edge", "noise edge s₊, in units of the first state's"),
    ("bulk_energy", "energy of the bulk, %"),
    ("gof", "fit error"),
)
"""What is drawn over the states, each in a panel, with its caption."""
_LABELLED = 12
# More characters than these, all names together, are set at an angle.
_LEVEL = 60


def trend_figure(trend: Trend) -> Figure:
    """Four panels, a line for each layer."""
    figure = blank_figure(11.4, 7.6, "--plots")
    layers = [trend.layers[i] for i in network_order([layer.name for layer in trend.layers])]
    coloured = changed_most(layers, len(_COLORS))
    colors = dict(zip(coloured, _COLORS, strict=False))
    prefix = common_prefix([layer.name for layer in layers])
    # Grey first, so that the colours lie above it.
    order = [*(set(range(len(layers))) - colors.keys()), *coloured]
    places, unit = places_of(trend.names)
    for axes, (quantity, caption) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        for place in order:
            layer = layers[place]
            named = said_in_figure(layer.name.removeprefix(prefix), 40) if place in colors else None
            axes.plot(
                places,
                course(layer, quantity),
                "o-" if len(places) <= _LABELLED else "-",
                color=colors.get(place, _REST),
                lw=1.6 if place in colors else 0.9,
                ms=3.5,
                label=named,
            )
        if quantity == "gof":
            gof = trend.analyses[0].settings.gof
            axes.axhline(gof, color="#1d3557", lw=0.8, ls="--")
            axes.annotate(f"--gof {gof:g}", (places[0], gof), textcoords="offset points", xytext=(0, 3), fontsize=8)
            axes.set_ylim(bottom=0)
        axes.set_title(caption, fontsize=10)
        if unit is None:
            # Names, as many as there is room for.
            step = -(-len(places) // _LABELLED)
            labels = [said_in_figure(name, 40) for name in trend.names[::step]]
            turned = sum(map(len, labels)) > _LEVEL
            axes.set_xticks(
                places[::step], labels, rotation=30 if turned else 0, ha="right" if turned else "center"
            )
            axes.tick_params("x", labelsize=8)
        else:
            axes.set_xlabel(said_in_figure(unit, 40))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e9ecef", zorder=0)
    handles, names = figure.axes[0].get_legend_handles_labels()
    if rest := len(layers) - len(colors):
        from matplotlib.lines import Line2D

        handles.append(Line2D([], [], color=_REST))
        names.append(f"{rest} more, which changed less")
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def changed_most(layers: Sequence[LayerTrend], count: int) -> list[int]:
    """Positions of so many layers, ascending: those whose share of spikes has changed most over the states."""

    def moved(place: int) -> float:
        spikes = layers[place].series("spikes")
        return (max(spikes) - min(spikes)) / layers[place].states[0].fit.p

    return sorted(sorted(range(len(layers)), key=moved, reverse=True)[:count])


def course(layer: LayerTrend, quantity: str) -> list[float]:
    """One of the quantities of `PANELS` in every state, in the unit of its caption."""
    values = layer.series(quantity)
    scale = {"spikes": 100 / layer.states[0].fit.p, "bulk_energy": 100.0}.get(quantity, 1.0)
    if quantity == "edge":
        scale = 1 / values[0]
    return [value * scale for value in values]


def places_of(names: Sequence[str]) -> tuple[Sequence[int], str | None]:
    """Where the states stand on an axis, and its caption: by their numbers where these rise."""
    found = [re.fullmatch(r"(.*?)(\d{1,9})(\D*)", name) for name in names]
    parts = [match.group(1, 3) for match in found if match]
    numbers = [int(match[2]) for match in found if match]
    if len(numbers) == len(names) and len(set(parts)) == 1 and all(a < b for a, b in pairwise(numbers)):
        return numbers, parts[0][0].strip("/-_. ") or "state"
    return range(len(names)), None


def write_trend_plot(trend: Trend, folder: Path) -> Path:
    """Draw all layers into ``trend.png`` in `folder`, made if absent.

    Raises:
        OutputError: the folder cannot be made.
    """
    figure = trend_figure(trend)
    make_folder(folder)
    path = folder / "trend.png"
    write_figure(figure, path)
    return path
