"""What to do where pruning saved next to nothing."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from rmt_compress.planning.making import plan_with

if TYPE_CHECKING:
    from rmt_compress.planning.settings import PlanSettings
    from rmt_compress.pruning.result import PruneResult

# With less than this share gone, a user wonders what happened.
_ENOUGH_SAVED = 0.05

_RULES = ("energy:0.9", "energy:0.7", "ratio:0.3")


def advice(result: PruneResult, settings: PlanSettings) -> str | None:
    """One line with the command that would save more, where less than a twentieth or nothing was saved; else None.

    Args:
        result: of pruning, written.
        settings: what the plan was made with.
    """
    totals = result.totals
    gone = 1 - totals["nonzeros"] / max(1, totals["parameters"])
    if result.layout == "dense" or (gone >= _ENOUGH_SAVED and not result.grew):
        return None
    command = f"rmt-compress prune {shlex.quote(result.source)} -o {shlex.quote(str(result.output))} --force"
    sizes = result.sizes
    said = f"only {gone:.1%} of the weights are gone"
    if result.grew and sizes is not None:
        said = f"the file is {sizes[1] - sizes[0]:,} bytes larger than before, {gone:.1%} of the weights are gone"
    return f"{said}; to save more: {command} {_option(result, settings)} (measure what it costs with --data)"


def _option(result: PruneResult, settings: PlanSettings) -> str:
    """The mildest option under which at least a tenth of the weights would go, going by shapes and spectra."""
    if result.analysis is not None:
        for rule in _RULES:
            plan = plan_with(result.analysis, replace(settings, rule=rule, keep_bulk=0.0))
            layers = {layer.tensor: layer.layer for layer in result.analysis.analyzed}
            saved = sum(
                layers[decision.tensor].parameters - layers[decision.tensor].factor_parameters(decision.rank or 0)
                for decision in plan.layers
                if decision.action == "factorized"
            )
            if saved >= 2 * _ENOUGH_SAVED * result.totals["parameters"]:
                return f"--rule {rule}"
    return "--sparsity 0.5"
