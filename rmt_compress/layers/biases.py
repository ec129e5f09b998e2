"""Which biases may take up what the cut of a weight takes away on average.

A cut of y = Wx + b to W′x + b′ leaves the mean of y as it was where b′ = b + (W − W′)E[x].
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rmt_compress.layers.kinds import KINDS
from rmt_compress.layers.layer import FLOAT_DTYPES, Layer


def own_biases(layers: Sequence[Layer]) -> dict[str, str]:
    """Tensor of a layer -> the bias that is added to its outputs and to nothing else, where it has one.

    Not so of a transposed convolution, whose outputs differ in how many positions of the kernel they see, nor of a
    stack. The matrices packed in one tensor share one bias, a part each, as `Layer.part` says.

    Args:
        layers: all of a checkpoint, biases among them.
    """
    vectors = {name: layer for layer in layers if layer.kind == "vector" for name in (layer.tensor, *layer.aliases)}
    users = Counter(bias for bias, _ in {(layer.bias, layer.stored) for layer in layers})
    rows: dict[str, int] = {}
    for layer in layers:
        if layer.matrix is not None:
            rows[layer.stored] = layer.part.stop if layer.part else layer.matrix[0]
    found = {}
    for layer in layers:
        bias, kind = vectors.get(layer.bias or ""), KINDS[layer.kind]
        if bias is None or users[layer.bias] > 1 or kind.swaps or kind.stacked or layer.pair or not layer.matrix:
            continue
        places = len(layer.aliases) if layer.shared else 0
        usable = not (bias.why_skipped or bias.why_fixed) and bias.dtype in FLOAT_DTYPES
        if usable and len(bias.aliases) == places and bias.shape == (rows[layer.stored],):
            found[layer.tensor] = bias.tensor
    return found
