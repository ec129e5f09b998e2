"""Find the noise in a saved neural network with random matrix theory, and cut it.

import rmt_compress as rmt
analysis = rmt.analyze("model.safetensors")   # a path, a state dict or an nn.Module
for layer in analysis.analyzed:
    print(layer.layer.name, layer.verdict, layer.fit.spikes)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from rmt_compress.notebooks.figures import drawn_by

if TYPE_CHECKING:
    from rmt_compress.analysis import Analysis, AnalysisSettings, LayerAnalysis, RunSettings, analyze
    from rmt_compress.certificates.certificate import Certificate
    from rmt_compress.checkpoints import Checkpoint, open_checkpoint
    from rmt_compress.compression import compress
    from rmt_compress.compression.zero_budget import divide_sparsity
    from rmt_compress.decomposition.moments_file import load_moments, save_moments
    from rmt_compress.errors import RmtCompressError
    from rmt_compress.layers import Layer
    from rmt_compress.networks.batchnorm import fold_batchnorm
    from rmt_compress.networks.calibration.calibrating import calibrate
    from rmt_compress.networks.permuting import permute_for_pattern
    from rmt_compress.networks.repair.repairing import repair_blocks
    from rmt_compress.networks.streamed.block_by_block import calibrate_stored
    from rmt_compress.plan import Plan, load_plan
    from rmt_compress.planning.making import make_plan
    from rmt_compress.planning.within import plan_within
    from rmt_compress.pruning.certifying import certify
    from rmt_compress.pruning.road import prune
    from rmt_compress.saving.reloading import load, load_dense
    from rmt_compress.saving.semi_structured import to_semi_structured
    from rmt_compress.saving.writing import save

# Names are fetched on first use, so that `rmt-compress --help` does not wait for torch.
_HOMES = {
    "Analysis": "analysis",
    "AnalysisSettings": "analysis",
    "LayerAnalysis": "analysis",
    "RunSettings": "analysis",
    "analyze": "analysis",
    "Certificate": "certificates.certificate",
    "calibrate": "networks.calibration.calibrating",
    "calibrate_stored": "networks.streamed.block_by_block",
    "certify": "pruning.certifying",
    "fold_batchnorm": "networks.batchnorm",
    "load_moments": "decomposition.moments_file",
    "save_moments": "decomposition.moments_file",
    "Checkpoint": "checkpoints",
    "open_checkpoint": "checkpoints",
    "RmtCompressError": "errors",
    "Layer": "layers.layer",
    "Plan": "plan",
    "compress": "compression",
    "divide_sparsity": "compression.zero_budget",
    "load_plan": "plan",
    "make_plan": "planning.making",
    "permute_for_pattern": "networks.permuting",
    "plan_within": "planning.within",
    "prune": "pruning",
    "repair_blocks": "networks.repair.repairing",
    "load": "saving",
    "load_dense": "saving",
    "save": "saving",
    "to_semi_structured": "saving.semi_structured",
}
# What draws a result lies above the class whose `.plot()` asks for it; this face lies above both.
drawn_by(
    {
        name: f"{__name__}.reporting.{place}"
        for name, place in {
            "Analysis": "spectrum_plots:analysis_figure",
            "AnalyzedLayer": "spectrum_plots:layer_figure",
            "Trend": "trend_plots:trend_figure",
            "Plan": "plan_plots:plan_figure",
            "PruneResult": "plan_plots:prune_figure",
            "Sweep": "sweep_plots:sweep_figure",
            "Finetuned": "training_plots:finetuned_figure",
            "Certificate": "certificate_plots:certificate_figure",
        }.items()
    }
)

__all__ = [
    "Analysis",
    "AnalysisSettings",
    "Certificate",
    "Checkpoint",
    "Layer",
    "LayerAnalysis",
    "Plan",
    "RmtCompressError",
    "RunSettings",
    "analyze",
    "calibrate",
    "calibrate_stored",
    "certify",
    "compress",
    "divide_sparsity",
    "fold_batchnorm",
    "load",
    "load_dense",
    "load_moments",
    "load_plan",
    "make_plan",
    "open_checkpoint",
    "permute_for_pattern",
    "plan_within",
    "prune",
    "repair_blocks",
    "save",
    "save_moments",
    "to_semi_structured",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
