"""Which layers are analysed with numpy alone: those for which torch would take longer to load than to compute.

Torch takes 1.7 s to load, more than the whole analysis of most files below 100 MB. Once it is loaded it is the
faster one by some milliseconds up to p = 1024. A p × 2p layer on one thread (benchmarks/results/startup.md), torch
in float32, numpy with a float32 Gram matrix and the eigenvalues in float64, the only ones that it has:

    p               64    128    256    512    768   1024   1536   2048
    torch, ms      2.3    2.2    4.6     18     48    113    361    614
    numpy, ms      2.5    3.2    5.2     22     54    124    394   1120

The layer alone decides, not what else is in the file nor what is loaded already: the same weight gives the same
digits from a file, a state dict and a module.
"""

from __future__ import annotations

from rmt_compress.layers.layer import Layer

_LARGEST_SIDE = 1024
# Another copy is made of the entries: in float32, 16 MB.
_MOST_ENTRIES = 2**22


def suits_numpy(layer: Layer) -> bool:
    """Whether `spectrum.NumpyKernels` analyse a layer on the CPU, wherever it comes from."""
    if layer.pair is not None or layer.matrix is None:
        return False
    return min(layer.matrix) <= _LARGEST_SIDE and layer.parameters <= _MOST_ENTRIES
