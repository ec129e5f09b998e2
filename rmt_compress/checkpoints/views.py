"""A checkpoint seen otherwise than it is stored: decoded, or under the names and shapes of the original network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from rmt_compress.checkpoints.base import Checkpoint, View
from rmt_compress.checkpoints.free_memory import check_fits_memory
from rmt_compress.checkpoints.keys import MANIFEST_KEY
from rmt_compress.checkpoints.manifest import FactorizedLayer, Manifest
from rmt_compress.errors import CheckpointError
from rmt_compress.layers import bitmask, group_patterns, pivot_rows
from rmt_compress.layers.bitmask import BITS, SHAPE, VALUES, SparseTensor, sparse_shape
from rmt_compress.layers.group_patterns import KEPT, PATTERN, PLACES, Grouped, grouped_shape
from rmt_compress.layers.layer import FLOAT_DTYPES, TensorInfo
from rmt_compress.layers.pivot_rows import COEFFICIENTS, PIVOTS, PivotRows
from rmt_compress.wording import printable

if TYPE_CHECKING:
    import torch

_MAX_DIMENSIONS = 64
_SPARSE_PARTS = (BITS, VALUES, SHAPE)
_PIVOT_PARTS = (PIVOTS, COEFFICIENTS)
_GROUP_PARTS = (KEPT, PLACES, PATTERN)
_CALLED = {
    _SPARSE_PARTS: "sparse tensor",
    _PIVOT_PARTS: "tensor without rows of the identity",
    _GROUP_PARTS: "tensor of kept entries",
}


class Renamed(View):
    """A checkpoint whose tensors have other names, `rename` of theirs, each its own."""

    def __init__(self, inner: Checkpoint, rename: Callable[[str], str]) -> None:
        super().__init__(inner)
        self._inside = {rename(name): name for name in inner.tensors}
        self._tensors = {name: replace(inner.tensors[inside], name=name) for name, inside in self._inside.items()}
        self._ties = {rename(first): tuple(map(rename, others)) for first, others in inner.ties.items()}

    def read(self, name: str) -> torch.Tensor:
        """See `Checkpoint.read`."""
        self._info(name)
        return self.inner.read(self._inside[name])

    def place(self, name: str) -> str:
        """See `Checkpoint.place`."""
        return self.inner.place(self._inside[name])


class CompressedFile(View):
    """The tensors of a compressed network: factors as they are, sparse tensors decoded on reading.

    Where the file holds something else than the manifest in its metadata says, it has none: another program has
    rewritten it. What is still stored in parts (a bitmask and values, pivots and coefficients, kept entries and
    their places) is decoded all the same.
    """

    def __init__(self, stored: Checkpoint) -> None:
        origin = str(stored.path)
        texts = {key: text for key, text in stored.metadata.items() if key != MANIFEST_KEY}
        manifest = Manifest.from_json(stored.metadata[MANIFEST_KEY], origin=origin, metadata=texts)
        super().__init__(stored)
        self.metadata = texts
        differences: list[str] = []
        self._tensors = self._describe(manifest, differences)
        coded = self._tensors.keys() - stored.tensors.keys()
        self._sparse, self._pivots = frozenset(manifest.sparse) & coded, frozenset(manifest.pivots) & coded
        self._patterned = frozenset(manifest.patterned) & coded
        if (difference := manifest.not_in(self._tensors)) is not None:
            differences.append(difference)
        ties = {} if differences else manifest.ties
        self._other_names = {other: kept for other, kept in ties.items() if other not in self._tensors}
        for other, kept in self._other_names.items():
            info = self._tensors[kept]
            self._tensors[other] = TensorInfo(other, info.shape, info.dtype, info.nbytes)
        self._ties = self._find_ties()
        if differences:
            self.notes = (*stored.notes, manifest.no_longer_holds("; ".join(differences[:3])))
            return
        self.format = f"{stored.format}, compressed"
        self.manifest = manifest
        self.notes = (*stored.notes, manifest.sentence())

    def _find_ties(self) -> dict[str, tuple[str, ...]]:
        """Ties of the stored tensors, and of the names the manifest adds."""
        ties = {
            first: others
            for first, others in self.inner.ties.items()
            if first in self._tensors and all(other in self._tensors for other in others)
        }
        for other, kept in self._other_names.items():
            ties[kept] = (*ties.get(kept, ()), other)
        return ties

    def read(self, name: str) -> torch.Tensor:
        """A dense copy of the tensor called `name`, on the CPU."""
        self._info(name)
        name = self._other_names.get(name, name)
        if name not in self._sparse | self._pivots | self._patterned:
            return self.inner.read(name)
        try:
            if name in self._pivots:
                return pivot_rows.decode(PivotRows(*(self.inner.read(name + part) for part in _PIVOT_PARTS)))
            if name in self._patterned:
                return group_patterns.decode(Grouped(*(self.inner.read(name + part) for part in _GROUP_PARTS)))
            return bitmask.decode(SparseTensor(*(self.inner.read(name + part) for part in _SPARSE_PARTS)))
        except ValueError as error:
            raise self._damaged(name, str(error)) from error

    def nonzeros(self, name: str) -> int:
        """See `Checkpoint.nonzeros`."""
        self._info(name)
        stored = self._other_names.get(name, name)
        if stored in self._sparse | self._pivots | self._patterned:
            return super().nonzeros(name)
        return self.inner.nonzeros(stored)

    def _describe(self, manifest: Manifest, differences: list[str]) -> dict[str, TensorInfo]:
        """What the file holds, the parts of a sparse tensor as one; where they are none, `differences` say so."""
        stored = self.inner.tensors
        parts_of: dict[str, tuple[str, ...]] = {
            **dict.fromkeys(manifest.sparse, _SPARSE_PARTS),
            **dict.fromkeys(manifest.pivots, _PIVOT_PARTS),
            **dict.fromkeys(manifest.patterned, _GROUP_PARTS),
        }
        described = {
            _SPARSE_PARTS: self._describe_sparse,
            _PIVOT_PARTS: self._describe_pivots,
            _GROUP_PARTS: self._describe_grouped,
        }
        whole_of = {name + part: name for name, parts in parts_of.items() for part in parts}
        if len(whole_of) < sum(map(len, parts_of.values())):
            raise CheckpointError(f"{self.inner.path}: its manifest gives a tensor two meanings")
        wholes: dict[str, TensorInfo] = {}
        for name, parts in parts_of.items():
            try:
                self._check_parts(name, parts)
                wholes[name] = described[parts](name)
            except ValueError as error:
                differences.append(f"{name} is no {_CALLED[parts]}: {error}")
        tensors: dict[str, TensorInfo] = {}
        for name, info in stored.items():
            whole = whole_of.get(name, name)
            if whole in wholes:
                tensors.setdefault(whole, wholes[whole])
            else:
                tensors[name] = info
        return tensors

    def _check_parts(self, name: str, parts: tuple[str, ...]) -> None:
        """A ValueError where the file does not hold a tensor in these parts."""
        stored = self.inner.tensors
        if name in stored:
            raise ValueError("it is stored dense")
        if any(name + part not in stored for part in parts):
            missing = all(name + part not in stored for part in parts)
            raise ValueError("it is missing" if missing else "one of its parts is missing")

    def _describe_pivots(self, name: str) -> TensorInfo:
        """What pivots and coefficients stand for; a ValueError where they are none."""
        pivots, coefficients = (self.inner.tensors[name + part] for part in _PIVOT_PARTS)
        if pivots.dtype != "int32" or len(pivots.shape) != 1:
            raise ValueError("its pivots are no 1-d int32 tensor")
        if coefficients.dtype not in FLOAT_DTYPES:
            raise ValueError("its coefficients are no floating-point tensor")
        shape = pivot_rows.pivot_shape(pivots.shape[0], coefficients.shape)
        return TensorInfo(name, shape, coefficients.dtype, math.prod(shape) * _itemsize(coefficients.dtype))

    def _describe_grouped(self, name: str) -> TensorInfo:
        """What kept entries and their places stand for; a ValueError where they are none."""
        kept, places, pattern = (self.inner.tensors[name + part] for part in _GROUP_PARTS)
        if pattern.dtype != "int64" or len(pattern.shape) != 1 or pattern.shape[0] > _MAX_DIMENSIONS:
            raise ValueError("its pattern is no short 1-d int64 tensor")
        if places.dtype != "uint8" or len(places.shape) != 1:
            raise ValueError("its places are no 1-d uint8 tensor")
        if kept.dtype not in FLOAT_DTYPES or len(kept.shape) != 2:
            raise ValueError("its kept entries are no 2-d floating-point tensor")
        shape = grouped_shape(self.inner.read(name + PATTERN).tolist(), kept.shape, places.shape[0])
        return TensorInfo(name, shape, kept.dtype, math.prod(shape) * _itemsize(kept.dtype))

    def _describe_sparse(self, name: str) -> TensorInfo:
        """What the three parts of a sparse tensor stand for; a ValueError where they are none."""
        bits, values, shape = (self.inner.tensors[name + part] for part in _SPARSE_PARTS)
        if shape.dtype != "int64" or len(shape.shape) != 1 or shape.shape[0] > _MAX_DIMENSIONS:
            raise ValueError("its shape is no short 1-d int64 tensor")
        if bits.dtype != "uint8" or len(bits.shape) != 1:
            raise ValueError("its bits are no 1-d uint8 tensor")
        if values.dtype not in FLOAT_DTYPES or len(values.shape) != 1:
            raise ValueError("its values are no 1-d floating-point tensor")
        sizes = sparse_shape(self.inner.read(name + SHAPE).tolist(), bits.shape[0], values.shape[0])
        itemsize = values.nbytes // values.shape[0] if values.shape[0] else _itemsize(values.dtype)
        return TensorInfo(name, sizes, values.dtype, math.prod(sizes) * itemsize)

    def _damaged(self, name: str, reason: str) -> CheckpointError:
        what = "packed" if name in self._pivots | self._patterned else "sparse"
        return CheckpointError(
            f"{self.inner.path}: the {what} tensor {name} is damaged: {reason}; compress the source again"
        )


class DenseView(View):
    """A checkpoint under the names and shapes of the original network: factors multiplied on reading.

    Of a checkpoint without factors it changes nothing.
    """

    def __init__(self, inner: Checkpoint) -> None:
        super().__init__(inner)
        layers = inner.manifest.factorized if inner.manifest else ()
        self._by_weight = {layer.weight: layer for layer in layers}
        self._biases = {layer.bias: layer.up_bias for layer in layers if layer.bias is not None}
        original = {stored: bias for bias, stored in self._biases.items()}
        factors = {name: layer for layer in layers for name in (layer.down, layer.up)}
        self._tensors: dict[str, TensorInfo] = {}
        for name, info in inner.tensors.items():
            shown, shape = original.get(name, name), info.shape
            if name in factors:
                shown, shape = factors[name].weight, factors[name].shape
            nbytes = info.nbytes if name not in factors else math.prod(shape) * _itemsize(info.dtype)
            self._tensors.setdefault(shown, TensorInfo(shown, shape, info.dtype, nbytes, info.why_skipped))
        self._ties = _ties(inner, {layer.up: layer for layer in layers}, original)

    def read(self, name: str) -> torch.Tensor:
        """The tensor called `name` as the original network has it, the product of its factors where it has such."""
        info = self._info(name)
        layer = self._by_weight.get(name)
        if layer is None:
            return self.inner.read(self._biases.get(name, name))
        # Shorter types are multiplied in float32, and are in memory in both.
        entries = math.prod(layer.shape)
        needed = entries * 4 + info.nbytes if info.nbytes < entries * 4 else info.nbytes
        check_fits_memory(needed, f"{self.path}: {printable(name)}, the product of its factors,")
        down, up = self.inner.read(layer.down), self.inner.read(layer.up)
        try:
            return layer.join(down, up)
        except (RuntimeError, MemoryError) as error:
            raise CheckpointError(f"{self.path}: {name} of {info.nbytes:,} bytes does not fit in memory") from error


def _ties(
    inner: Checkpoint, by_up: Mapping[str, FactorizedLayer], original: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """Ties under original names; factors are tied where their layers are, told by the second one."""
    downs = {layer.down for layer in by_up.values()}
    result = {}
    for first, others in inner.ties.items():
        names = [by_up[name].weight if name in by_up else original.get(name, name) for name in (first, *others)]
        if first not in downs:
            result[names[0]] = tuple(names[1:])
    return result


def _itemsize(dtype: str) -> int:
    import torch

    size: int = getattr(torch, dtype).itemsize
    return size
