"""How many layers are analysed at once: as many as fit in memory, by what each of them is going to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rmt_compress.analysis.approximating import SMALLEST
from rmt_compress.analysis.in_blocks import can_go_in_blocks
from rmt_compress.analysis.without_torch import suits_numpy
from rmt_compress.errors import SettingsError
from rmt_compress.layers.kinds import KINDS
from rmt_compress.layers.layer import FLOAT_BYTES
from rmt_compress.settings.sizes import shown_bytes
from rmt_compress.wording import times

if TYPE_CHECKING:
    from rmt_compress.analysis.settings import AnalysisSettings
    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.layers.layer import Layer

# What Python, torch and this package take before the first weight is read, and what is found of the layers.
PROGRAM = 320_000_000
# Of layers of usual size as many as there are cores are in work unless a user says otherwise.
_USUAL = 800_000_000
_SPARE = 100_000_000
# Entries of the long side that are converted at a time, see `decomposition.kernels.SLICE`.
_SLICE = 4096
# Matrices of the weight's size in float32 that a noise model makes of its entries.
_COPIES = {"equalized": 5, "signflip": 2, "all": 5}


@dataclass(frozen=True)
class MemoryBudget:
    """The most that the layers in work may take together.

    Attributes:
        bytes: that is.
        needs: tensor of each layer -> bytes that its analysis takes, the weight read whole.
        in_blocks: the tensors of layers that take less in blocks than they may whole, and so are read in blocks.
    """

    bytes: int
    needs: Mapping[str, int]
    in_blocks: frozenset[str] = frozenset()

    def alone(self, layer: Layer) -> bool:
        """Whether no other one like it may be in work beside a layer."""
        return 2 * self.needs[layer.tensor] > self.bytes

    def at_once(self, layers: Sequence[Layer], jobs: int) -> int:
        """How many of these layers, `jobs` at most, fit together, whichever they are."""
        total = 0
        for count, need in enumerate(sorted((self.needs[layer.tensor] for layer in layers), reverse=True)[:jobs]):
            total += need
            if total > self.bytes:
                return max(1, count)
        return jobs


def memory_budget(
    layers: Sequence[Layer], checkpoint: Checkpoint, settings: AnalysisSettings, max_memory: int | None
) -> MemoryBudget:
    """What the layers may take of `max_memory`, the bytes of the whole program.

    Without it the layers in work take no more together than three times the largest of them in float32, or than
    what is little on any machine; one that takes more by itself is in work alone.

    Raises:
        SettingsError: there is a layer that does not fit, not even in blocks; or not even the program does.
    """
    if max_memory is None:
        expected = {layer.tensor: _need(layer, checkpoint, settings, double=False) for layer in layers}
        largest = max((4 * layer.parameters for layer in layers), default=0)
        return MemoryBudget(max(3 * largest + _SPARE, _USUAL), expected)
    room = max_memory - PROGRAM
    if room <= 0:
        raise SettingsError(
            [f"max-memory {shown_bytes(max_memory)}: the program alone takes {shown_bytes(PROGRAM)}; give more"]
        )
    needs = {layer.tensor: _need(layer, checkpoint, settings, double=True) for layer in layers}
    blocked = [
        layer for layer in layers if needs[layer.tensor] > room and can_go_in_blocks(layer, checkpoint, settings)
    ]
    needs |= {layer.tensor: min(needs[layer.tensor], _need_in_blocks(layer)) for layer in blocked}
    hungriest = max(layers, key=lambda layer: needs[layer.tensor], default=None)
    if hungriest is not None and needs[hungriest.tensor] > room:
        takes = shown_bytes(PROGRAM + needs[hungriest.tensor])
        raise SettingsError(
            [
                f"max-memory {shown_bytes(max_memory)}: the program and {hungriest.tensor} "
                f"({hungriest.dtype} {times(hungriest.shape)}) may take {takes}; give as much, or leave the layer "
                f"out (--exclude '{hungriest.name}')"
            ]
        )
    return MemoryBudget(room, needs, frozenset(layer.tensor for layer in blocked))


def _need(layer: Layer, checkpoint: Checkpoint, settings: AnalysisSettings, *, double: bool) -> int:
    """Bytes that the analysis of a layer takes at the most, or where float32 will do."""
    rows, columns = layer.matrix or (1, 1)
    read = _read(layer, checkpoint)
    if layer.pair is not None:
        # In float64, and the triangles of both.
        return read + 2 * read * 8 // FLOAT_BYTES[layer.dtype] + 16 * layer.shape[0] ** 2
    entries = rows * columns
    if suits_numpy(layer):
        # In float32, again in float64 or as magnitudes, and the Gram matrix in both.
        return read + (12 + 4 * _COPIES.get(settings.noise, 0)) * layer.parameters + 20 * min(rows, columns) ** 2
    # Which the permuted axes of a transposed convolution are copied for.
    turned = entries * FLOAT_BYTES[layer.dtype] if KINDS[layer.kind].rows == (1,) and len(layer.shape) > 3 else 0
    copies = _COPIES.get(settings.noise, 0) * 4 * entries
    return read + turned + copies + max(_squares(layer, double=double), _directions(layer, settings))


def _need_in_blocks(layer: Layer) -> int:
    """Bytes that the analysis takes of a layer that is read in blocks."""
    rows, columns = layer.matrix or (1, 1)
    if KINDS[layer.kind].stacked:
        return rows * columns * FLOAT_BYTES[layer.dtype] + _squares(layer, double=True)
    block = min(rows, columns) * min(max(rows, columns), _SLICE) * FLOAT_BYTES[layer.dtype]
    return block + _squares(layer, double=True)


def _directions(layer: Layer, settings: AnalysisSettings) -> int:
    """Bytes of an approximate spectrum: the weight in float32, and some two thousand directions."""
    rows, columns = layer.matrix or (1, 1)
    if settings.exact or settings.noise != "mp" or min(rows, columns) < SMALLEST:
        return 0
    return 4 * (2048 * min(rows, columns) + (rows * columns if layer.dtype != "float32" else 0))


def _squares(layer: Layer, *, double: bool) -> int:
    """Bytes of a Gram matrix, of the copy whose eigenvalues are found, and of the slice that is being added."""
    rows, columns = layer.matrix or (1, 1)
    p, item = min(rows, columns), 8 if double or layer.dtype == "float64" else 4
    slice_ = 0 if item == FLOAT_BYTES[layer.dtype] else p * min(max(rows, columns), _SLICE) * item
    return 2 * p**2 * item + slice_


def _read(layer: Layer, checkpoint: Checkpoint) -> int:
    """Bytes that are read for a layer: of a file, and none of what lives in memory."""
    if checkpoint.path is None:
        return 0
    if layer.composition is not None:
        stored = sum(checkpoint.tensors[part].nbytes for part in layer.composition.parts)
        return stored + 4 * layer.parameters
    if layer.pair is not None:
        return checkpoint.tensors[layer.tensor].nbytes + checkpoint.tensors[layer.pair.second].nbytes
    if layer.part is not None and checkpoint.reads_blocks(layer.stored):
        return layer.nbytes
    return checkpoint.tensors[layer.stored].nbytes
