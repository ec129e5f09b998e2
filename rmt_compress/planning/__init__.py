"""How many singular values to keep: rank rules, and from an analysis to a plan."""

from rmt_compress.planning.making import make_plan, may_sparsify
from rmt_compress.planning.settings import PlanSettings, WhenNotSmaller

__all__ = ["PlanSettings", "WhenNotSmaller", "make_plan", "may_sparsify"]
