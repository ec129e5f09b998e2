"""Accuracy against how much of a network is kept: singular values of a layer, shares of all, zeros, budgets.

Every sweep puts truncated weights in the place of the original ones, asks the network, and puts the originals back:
the product of two factors answers like the factors themselves. Each layer is decomposed once for all sweeps.

    target = SweepTarget(model, analyze(model), load_data("mnist", split="test"))
    sweep_rank(target, layers=["fc1"]), sweep_share(target), sweep_sparsity(target)

`sweep_budget` has a target of its own: what it cuts within is planned as `prune` plans it.
"""

from rmt_compress.sweep.budget import EDGE, BudgetTarget, sweep_budget
from rmt_compress.sweep.rank import sweep_rank
from rmt_compress.sweep.results import SCHEMA, SWEEP_KINDS, Measure, Sweep, SweepCurve, SweepKind, SweepPoint
from rmt_compress.sweep.share import sweep_share
from rmt_compress.sweep.sparsity import LOW_RANK_FIRST, MAGNITUDE, sweep_sparsity
from rmt_compress.sweep.target import SweepTarget

__all__ = [
    "EDGE",
    "LOW_RANK_FIRST",
    "MAGNITUDE",
    "SCHEMA",
    "SWEEP_KINDS",
    "BudgetTarget",
    "Measure",
    "Sweep",
    "SweepCurve",
    "SweepKind",
    "SweepPoint",
    "SweepTarget",
    "sweep_budget",
    "sweep_rank",
    "sweep_share",
    "sweep_sparsity",
]
