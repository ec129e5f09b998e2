"""Which layers are analysed with numpy alone: those for which torch would take longer to load than to compute.

Torch takes 1.7 s to load, more than the whole analysis of most files below 100 MB. On one thread it finds the
eigenvalues of a small matrix in float32 in .8 to 1 times the time in which numpy finds them in float64, its only
precision, and in half of it beyond p = 1500; milliseconds (benchmarks/startup.py):

    p         64    128    256    512    768   1024   1536   2048
    torch    .10    .38    1.9    9.9     27     64    189    329
    numpy    .13    .49    2.2     12     29     70    216    597

The layer alone decides, not what else is in the file nor what is loaded already: the same weight gives the same
digits from a file, a state dict and a module.
"""

from __future__ import annotations

from rmt_compress.layers.layer import Layer

_LARGEST_SIDE = 1024
# Another copy is made of the entries: in float32, 16 MB.
_MOST_ENTRIES = 2**22


def suits_numpy(layer: Layer) -> bool:
    """Whether `spectrum.NumpyKernels` analyse a layer, on the CPU and on one thread, wherever it comes from."""
    if layer.pair is not None or layer.matrix is None:
        return False
    return min(layer.matrix) <= _LARGEST_SIDE and layer.parameters <= _MOST_ENTRIES
