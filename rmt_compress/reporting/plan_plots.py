"""A picture of a plan: what is kept of each layer, and what else a budget would have given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rmt_compress.layers.kinds import KINDS
from rmt_compress.reporting.blanks import blank_figure, said_in_figure
from rmt_compress.reporting.chart_plots import draw_chart
from rmt_compress.reporting.html.budget_curves import price_chart, tried_networks
from rmt_compress.reporting.html.curves import sweep_charts
from rmt_compress.reporting.html.page_parts import Chart
from rmt_compress.reporting.layer_names import names_in, network_order
from rmt_compress.reporting.prune_table import has_a_row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from rmt_compress.plan import LayerDecision, Plan
    from rmt_compress.pruning.result import PruneResult

_COLORS = {"factorized": "#c8553d", "truncated": "#d4a24c", "kept": "#9db4c8", "skipped": "#dee2e6"}
_NAMED = 40
"""More layers than these stand as bars without names."""


def plan_figure(plan: Plan) -> Figure:
    """A bar for each layer; beside them the networks that were tried, and what other sizes are expected to cost."""
    return _figure(plan, plan.settings.get("budget"), (), {})


def prune_figure(result: PruneResult) -> Figure:
    """That of its plan, with what is stored in place of what was planned, and its sweep."""
    left = {each.tensor: each.nonzeros / max(1, each.parameters) for each in result.outcomes}
    sweeps = () if result.sweep is None else sweep_charts(result.sweep)
    return _figure(result.plan, result.budget, sweeps, left)


def _figure(
    plan: Plan, budget: Mapping[str, Any] | None, more: Sequence[Chart], left: Mapping[str, float]
) -> Figure:
    charts = [each for each in (tried_networks(budget), price_chart(plan)) if isinstance(each, Chart)]
    charts += more
    decisions = [each for each in plan.layers if has_a_row(each)]
    decisions = [decisions[place] for place in network_order([each.name for each in decisions])]
    height = min(10.0, max(3.8 if charts else 1.8, 1.2 + 0.22 * len(decisions)))
    figure = blank_figure(7.0 + 5.4 * len(charts), height, "plot()")
    panels = figure.subplots(1, 1 + len(charts), squeeze=False)[0]
    _draw_layers(panels[0], decisions, left)
    for axes, chart in zip(panels[1:], charts, strict=True):
        draw_chart(axes, chart)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_layers(axes: Axes, decisions: Sequence[LayerDecision], left: Mapping[str, float]) -> None:
    shares = [left.get(each.tensor, _kept(each)) for each in decisions]
    for action, color in _COLORS.items():
        places = [place for place, each in enumerate(decisions) if each.action == action]
        if places:
            axes.barh(places, [100 * shares[place] for place in places], 0.7, color=color, label=action)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("weights left, %" if left else "directions kept, % of all")
    changed = sum(each.changes for each in decisions)
    axes.set_title(f"{changed} of {len(decisions)} layers are changed", fontsize=10)
    if len(decisions) <= _NAMED:
        _, names = names_in(32, [each.name for each in decisions])
        axes.set_yticks(range(len(names)), [said_in_figure(name, 60) for name in names], fontsize=8)
        for place, each in enumerate(decisions):
            if each.rank is not None:
                axes.annotate(
                    f"rank {each.rank}",
                    (100 * shares[place], place),
                    textcoords="offset points",
                    xytext=(3, 0),
                    va="center",
                    fontsize=8,
                )
    else:
        axes.set_ylabel("layers, in the order of the network")
    if decisions:
        axes.legend(frameon=False, fontsize=8, loc="lower right")


def _kept(decision: LayerDecision) -> float:
    """Share of a layer's directions that a plan keeps."""
    if decision.rank is None:
        return 1.0
    matrix = KINDS[decision.kind].matrix(decision.shape)
    return 1.0 if matrix is None else decision.rank / min(matrix)
