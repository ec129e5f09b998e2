"""From a checkpoint to one verdict per layer: spectrum, bulk fit, spikes, or the reason it was skipped."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rmt_compress.analysis.analyzing import analyze
    from rmt_compress.analysis.one_layer import analyze_layer
    from rmt_compress.analysis.records import (
        Analysis,
        AnalyzedLayer,
        LayerAnalysis,
    )
    from rmt_compress.analysis.run_settings import RunSettings
    from rmt_compress.analysis.settings import AnalysisSettings
    from rmt_compress.analysis.stack_record import AnalyzedStack
    from rmt_compress.analysis.unfitted import AnalyzedPair, SkippedLayer

__all__ = [
    "Analysis",
    "AnalysisSettings",
    "AnalyzedLayer",
    "AnalyzedPair",
    "AnalyzedStack",
    "LayerAnalysis",
    "RunSettings",
    "SkippedLayer",
    "analyze",
    "analyze_layer",
]

_HOMES = {
    "AnalysisSettings": "settings",
    "RunSettings": "run_settings",
    "AnalyzedPair": "unfitted",
    "AnalyzedStack": "stack_record",
    "SkippedLayer": "unfitted",
    "analyze": "analyzing",
    "analyze_layer": "one_layer",
}


def __getattr__(name: str) -> object:
    # On first use: the command line needs the settings, and must not wait for scipy.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'records')}"), name)
