"""The analysis of a weight that is larger than the memory it may take: read in blocks, never whole.

Of a stack one matrix is in memory at a time. Of any other matrix no more than a block is, beside its smaller Gram
matrix: much of a tall or wide one (an embedding of 128,000 × 4096) is saved so, and little of a square one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from rmt_compress import spectrum
from rmt_compress.analysis.noise_models import Measured, noise_model
from rmt_compress.analysis.one_layer import MASK, analyze_stack
from rmt_compress.analysis.records import AnalyzedLayer, LayerAnalysis
from rmt_compress.analysis.unfitted import SkippedLayer
from rmt_compress.analysis.without_torch import suits_numpy
from rmt_compress.layers.kinds import KINDS
from rmt_compress.layers.splitting import is_weight

if TYPE_CHECKING:
    import torch

    from rmt_compress.analysis.settings import AnalysisSettings
    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.decomposition.kernels import TorchKernels
    from rmt_compress.layers.layer import Layer

# Noise models that look at singular values alone.
_BY_VALUES = ("mp", "general")


def can_go_in_blocks(layer: Layer, checkpoint: Checkpoint, settings: AnalysisSettings) -> bool:
    """Whether a layer can be analysed without being read whole; a small one takes little anyway."""
    if suits_numpy(layer):
        return False
    if layer.composition is not None or layer.pair is not None or not checkpoint.reads_blocks(layer.stored):
        return False
    return KINDS[layer.kind].stacked or (settings.noise in _BY_VALUES and not _turned(layer))


def _turned(layer: Layer) -> bool:
    """Whether the matrix has other entries side by side than the tensor, seen as its first axis and all others."""
    rows = KINDS[layer.kind].rows
    return not (rows == (0,) or (rows == (1,) and len(layer.shape) == 2))


def analyze_in_blocks(
    layer: Layer, checkpoint: Checkpoint, settings: AnalysisSettings, kernels: TorchKernels
) -> LayerAnalysis:
    """`rmt_compress.analysis.one_layer.analyze_layer` of a layer that `can_go_in_blocks`."""
    from rmt_compress.decomposition.matrix_blocks import BlockKernels

    if KINDS[layer.kind].stacked:
        matrices = (
            checkpoint.read_block(layer.stored, slice(number, number + 1)).reshape(layer.shape[1:])
            for number in range(layer.shape[0])
        )
        return analyze_stack(layer, matrices, settings, kernels)
    matrix = _Stored(layer, checkpoint)
    by_blocks: spectrum.Kernels[Any] = BlockKernels(kernels)
    rows, columns = layer.matrix or (0, 0)
    try:
        values = spectrum.singular_values(matrix, by_blocks, alpha=settings.alpha)
        found = noise_model(settings).fit(
            Measured(values, max(rows, columns), partial(by_blocks.entries, matrix)), settings
        )
    except spectrum.NonFiniteError:
        return _not_finite(layer, matrix)
    except spectrum.DegenerateSpectrumError as error:
        return SkippedLayer(layer, str(error), low_rank=any(bool(block.any()) for block in matrix.rows()))
    return AnalyzedLayer(layer, found.fit, values, settings, details=found.details, scaled=found.values)


class _Stored:
    """The tensor of a layer as the matrix of its first axis and all others; see `decomposition.matrix_blocks`."""

    def __init__(self, layer: Layer, checkpoint: Checkpoint) -> None:
        import torch

        self._name, self._checkpoint = layer.stored, checkpoint
        self._first = 0 if layer.part is None else layer.part.start
        self.shape = (layer.shape[0], math.prod(layer.shape[1:]))
        self.dtype: torch.dtype = getattr(torch, layer.dtype)

    def along(self, axis: int, size: int) -> Iterator[torch.Tensor]:
        """So many rows (axis 0) or columns (axis 1) at a time."""
        whole = slice(self._first, self._first + self.shape[0])
        for start in range(0, self.shape[axis], size):
            stop = min(start + size, self.shape[axis])
            if axis:
                yield self._checkpoint.read_block(self._name, whole, slice(start, stop))
            else:
                yield self._checkpoint.read_block(self._name, slice(self._first + start, self._first + stop))

    def rows(self) -> Iterator[torch.Tensor]:
        """Some rows at a time, whatever the shape."""
        return self.along(0, max(1, 2**24 // self.shape[1]))


def _not_finite(layer: Layer, matrix: _Stored) -> SkippedLayer:
    """Why a weight with NaN or Inf is skipped, as of one in memory."""
    bad, others, nonzero = 0, False, False
    for block in matrix.rows():
        finite = block.isfinite()
        bad += int((~finite).sum())
        others = others or not bool((finite | block.isneginf()).all())
        nonzero = nonzero or bool(block[finite].any())
    if not others and not (is_weight(layer.stored) and nonzero):
        return SkippedLayer(layer, MASK)
    return SkippedLayer(layer, f"{bad:,} of its entries are NaN or Inf", finite=False)
