"""One number for G where no gradients are to be had: what noise at a layer's outputs does to the network's.

Let the outputs of a layer move by ε·z, z ~ N(0, I). To second order the Kullback–Leibler divergence of the answers
of a softmax moves by ½ε² zᵀFz, in the mean by ½ε² tr F with F the Fisher matrix at these outputs, and half the
squared distance of other outputs likewise with the Gauss–Newton matrix: tr G without labels and without gradients,
by one pass a layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from rmt_compress.decomposition.moments import LayerMoments
from rmt_compress.layers.kinds import KINDS
from rmt_compress.layers.layer import as_matrix
from rmt_compress.networks.calibration.runner import Disturber
from rmt_compress.networks.calibration.scalars import are_logits, log_chances
from rmt_compress.networks.calibration.watchers import seed_of
from rmt_compress.networks.calling import main_output
from rmt_compress.progress import counter

if TYPE_CHECKING:
    from rmt_compress.layers.layer import Layer
    from rmt_compress.networks.calibration.runner import Runner
    from rmt_compress.networks.calibration.watchers import Seen
    from rmt_compress.progress import Progress

SHARE = 0.03
"""Deviation of the noise in units of that of the outputs: far above rounding, and its third power still small."""


def with_numbers(
    layers: Mapping[str, LayerMoments],
    seen: Mapping[str, Seen],
    weights: Mapping[str, torch.Tensor],
    runner: Runner,
    batches: Iterable[Any],
    seed: int,
    progress: Progress | None,
) -> dict[str, LayerMoments]:
    """Moments with tr G/m, a 0-d tensor, in the place of G.

    Args:
        layers: moments without G.
        seen: what was seen of the layers, by the same names.
        weights: their tensors, of their own shapes.
        runner: runs the network.
        batches: what it is run on, once as it is and once disturbed for every layer.
        seed: of the noise.
        progress: told of every layer.
    """
    held = [(inputs, main_output(runner.run(inputs, Disturber()))) for inputs in batches]
    advance = counter(len(layers), progress)
    found = {}
    for name, own in layers.items():
        found[name] = replace(own, outputs=_mean_diagonal(own, seen[name], weights[name], runner, held, seed))
        advance(name)
    return found


def _mean_diagonal(
    own: LayerMoments,
    seen: Seen,
    weight: torch.Tensor,
    runner: Runner,
    batches: list[tuple[Any, torch.Tensor | None]],
    seed: int,
) -> torch.Tensor | None:
    layer = seen.layer
    scale = SHARE * _deviation(own, layer, weight)
    if scale == 0.0 or KINDS[layer.kind].stacked:
        return None
    moved, samples = 0.0, 0
    # Not larger than a float32 can hold, in which ONNX keeps seeds.
    ask = runner.disturbed(layer, scale, seed_of(seed, layer.tensor) % 2**24)
    for inputs, before in batches:
        after = main_output(ask(inputs))
        if before is None or after is None:
            return None
        some, count = _divergence(before.double(), after.double())
        moved, samples = moved + some, samples + count
    # What a transposed convolution writes overlaps: a pixel is an entry of kernel / stride patches.
    entries = layer.shape[KINDS[layer.kind].outputs] * seen.spread
    return torch.tensor(max(moved, 0.0) / (samples * scale**2 * entries), dtype=torch.float64)


def _deviation(own: LayerMoments, layer: Layer, weight: torch.Tensor) -> float:
    """Root of the mean square of Wx over inputs and outputs."""
    W = as_matrix(layer, weight.double())
    if KINDS[layer.kind].swaps:
        W = W.T
    C = own.inputs if own.inputs.dim() == 2 else own.inputs.diag()
    return math.sqrt(max(0.0, float(((W @ C) * W).sum()) / len(W)))


def _divergence(before: torch.Tensor, after: torch.Tensor) -> tuple[float, int]:
    """Twice the divergence of the answers, summed over samples, and how many these are."""
    if not are_logits(before):
        return float((after - before).square().sum()), len(before)
    some, others = log_chances(before.flatten(0, -2)), log_chances(after.flatten(0, -2))
    return 2 * float((some.exp() * (some - others)).sum()), len(some)
