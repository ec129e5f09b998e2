"""From a checkpoint to one verdict per layer: spectrum, bulk fit, spikes, or the reason it was skipped."""

from rmt_compress.analysis.one_layer import analyze_layer
from rmt_compress.analysis.records import (
    NOISE_ENERGY,
    SCHEMA,
    Analysis,
    AnalysisSettings,
    AnalyzedLayer,
    AnalyzedPair,
    LayerAnalysis,
    SkippedLayer,
    Verdict,
)
from rmt_compress.analysis.run import analyze
from rmt_compress.progress import Progress

__all__ = [
    "NOISE_ENERGY",
    "SCHEMA",
    "Analysis",
    "AnalysisSettings",
    "AnalyzedLayer",
    "AnalyzedPair",
    "LayerAnalysis",
    "Progress",
    "SkippedLayer",
    "Verdict",
    "analyze",
    "analyze_layer",
]
