"""A plan carried out: on the tensors of a checkpoint one by one, on a state dict, or on a live module.

What becomes of one weight is decided in `compress_weight` alone; files, state dicts, modules and the cycles of
training all come through it. A weight that the plan factorizes becomes two (`rmt_compress.layers.low_rank`), its
bias moves to the second, everything else keeps its name. Layout ``dense`` writes the truncated product under
the original name instead, so that the result loads anywhere.

Small entries are zeroed in what is stored: in the two factors of a factorized layer, in the weight itself where it
stays in one piece, the truncated product of layout ``dense`` included (BSSZ24 §4.2.1). Biases are never touched.
"""

from rmt_compress.compression.compressed import Compressed
from rmt_compress.compression.entry import compress
from rmt_compress.compression.weights import LayerOutcome, compress_weight

__all__ = ["Compressed", "LayerOutcome", "compress", "compress_weight"]
