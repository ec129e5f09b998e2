"""What is known of a tensor and of the layer it is the weight of, and how it is read as one matrix.

Rows are outputs, columns are inputs × kernel positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from rmt_compress.layers.kinds import KINDS, LayerKind, WeightT

if TYPE_CHECKING:
    import torch

FLOAT_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
FLOAT_DTYPES = frozenset(FLOAT_BYTES)


@dataclass(frozen=True)
class TensorInfo:
    """What a checkpoint says of a tensor before it is read.

    Attributes:
        name: full name in the checkpoint.
        shape: its shape.
        dtype: torch's name of the element type without ``torch.`` (``float32``, ``bfloat16``, ``int8`` …).
        nbytes: bytes of the dense tensor.
        why_skipped: why it is not to be read as a weight, where the checkpoint knows (sparse, no values, a buffer).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    why_skipped: str | None = None


class Part(NamedTuple):
    """The rows ``start`` to ``stop`` of the tensor called ``tensor``."""

    tensor: str
    start: int
    stop: int


class Composition(NamedTuple):
    """A weight that is computed from several tensors, see `rmt_compress.layers.parametrized`.

    Attributes:
        method: how.
        weight: name the weight has without the parametrization.
        parts: names of the tensors in the checkpoint, first the one of the weight's own shape.
    """

    method: Literal["weight norm", "spectral norm", "pruning mask"]
    weight: str
    parts: tuple[str, ...]


class FactorPair(NamedTuple):
    """A weight stored as the product of two factors, see `rmt_compress.layers.pairs`.

    Attributes:
        name: of the layer they form.
        second: name of the factor that is applied last; the layer's own tensor is the first.
        rows: of the product.
        columns: of the product.
        stacked: whether they make many products of this shape, the first axis of both counting them.
    """

    name: str
    second: str
    rows: int
    columns: int
    stacked: bool = False


@dataclass(frozen=True)
class Layer:
    """One weight of a checkpoint and what is known of the layer around it.

    Attributes:
        name: the module path (``fc1``) when the tensor is ``fc1.weight``, else the tensor's own name.
        tensor: the tensor's full name in the checkpoint; of one of several matrices in it with a label behind
            (``attn.in_proj_weight[q]``). No two layers of a checkpoint have the same.
        kind: what the layer computes; ``stack`` for many matrices of one shape; ``vector`` for 0-/1-d tensors,
            ``unknown`` for other shapes; ``factors`` for the first of two tensors whose product is the weight;
            ``linear_transposed`` for a product whose tensor is (in, out): GPT-2's Conv1D, ONNX's MatMul.
        shape: the tensor's shape, or that of the part.
        dtype: torch's name of the element type, without the ``torch.`` prefix.
        bias: the full name of the bias tensor, where there is one.
        groups: number of groups of a convolution.
        aliases: other names of the same tensor (tied weights).
        shared: whether the aliases are no more than further places of one and the same module.
        why_whole: why the weight must stay in one piece, where the checkpoint knows.
        why_fixed: why the weight can be analysed but not changed at all.
        why_skipped: why the checkpoint itself says the tensor is not to be read as a weight.
        why_unknown: why nothing says what the layer computes, of kind ``unknown`` only.
        why_in_place: why a weight that is cut keeps its shape, where what reads it cannot run two factors.
        part: which rows of which tensor the weight is, where a tensor holds several.
        composition: how the weight is computed, where it is stored as several tensors.
        pair: the product that this weight is a factor of.
        by_class: whether the kind is that of the module's class, so that it is not inferred.
        in_graph: whether kind and groups are those of a graph that uses the tensor, so that nothing is guessed from
            its name and shape.
    """

    name: str
    tensor: str
    kind: LayerKind
    shape: tuple[int, ...]
    dtype: str
    bias: str | None = None
    groups: int = 1
    aliases: tuple[str, ...] = field(default=())
    shared: bool = False
    why_whole: str | None = None
    why_fixed: str | None = None
    why_skipped: str | None = None
    why_unknown: str | None = None
    why_in_place: str | None = None
    part: Part | None = None
    composition: Composition | None = None
    pair: FactorPair | None = None
    by_class: bool = False
    in_graph: bool = False

    @property
    def stored(self) -> str:
        """Name of the tensor in the checkpoint that the weight is in; the largest where there are several."""
        return self.tensor if self.part is None else self.part.tensor

    @property
    def tied(self) -> bool:
        """Whether another module uses the same tensor, for which a change of this layer would be one too."""
        return bool(self.aliases) and not self.shared

    @property
    def parameters(self) -> int:
        """Number of entries of the weight; the bias is not counted."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the weight; of a type that is not analysed as many as it has entries."""
        return self.parameters * FLOAT_BYTES.get(self.dtype, 1)

    @property
    def matrix(self) -> tuple[int, int] | None:
        """Shape (rows, columns) of the matrix, or of each matrix, the weight is read as; None where it is none."""
        if self.pair is not None:
            return self.pair.rows, self.pair.columns
        return KINDS[self.kind].matrix(self.shape)

    @property
    def matrices(self) -> int:
        """How many matrices the weight is: one, or of a stack one per expert."""
        return self.shape[0] if KINDS[self.kind].stacked else 1

    def factor_parameters(self, rank: int) -> int:
        """Entries of the two factors of this rank; the split is worth it when they are fewer than `parameters`.

        Raises:
            ValueError: the layer is read as no matrix.
        """
        if self.matrix is None:
            raise ValueError(f"{self.tensor}: a {self.kind} tensor is read as no matrix")
        return self.matrices * rank * sum(self.matrix)

    def skip_reason(self, *, min_size: int = 1, embeddings: bool = False) -> str | None:
        """Why this layer cannot or should not be analysed, from its description alone; None if it can be.

        `min_size` and `embeddings` are as in `AnalysisSettings`.
        """
        if self.why_skipped is not None:
            return self.why_skipped
        if self.kind == "vector":
            return "a vector or scalar, not a matrix"
        if 0 in self.shape:
            return "an empty tensor"
        if self.dtype not in FLOAT_DTYPES:
            return f"stored as {self.dtype}: a spectrum needs float16, bfloat16, float32 or float64"
        if self.pair is not None:
            return None
        matrix = self.matrix
        if matrix is None:
            return self.why_unknown or f"a {len(self.shape)}-d tensor of no known layer kind"
        if self.groups > 1:
            return f"a convolution of {self.groups} groups: each group is a matrix of its own"
        if self.kind == "embedding" and not embeddings:
            return "an embedding table, analysed on request only (--embeddings)"
        if min(matrix) < min_size:
            return f"min(rows, columns) = {min(matrix)} is below {min_size}, too few singular values for a fit"
        return None


def as_matrix(layer: Layer, weight: WeightT) -> WeightT:
    """Weight tensor of `layer` as its (rows, columns) matrix, a view where the memory layout allows.

    Of a stack it is (experts, rows, columns).

    Raises:
        ValueError: the layer is read as no matrix.
    """
    if layer.matrix is None or layer.pair is not None:
        raise ValueError(f"{layer.tensor}: a {layer.kind} tensor is read as no matrix")
    return KINDS[layer.kind].as_matrix(weight)


def as_weight(layer: Layer, matrix: torch.Tensor) -> torch.Tensor:
    """The (rows, columns) matrix of `layer` as a contiguous tensor of the layer's shape; undoes `as_matrix`."""
    return KINDS[layer.kind].as_weight(matrix, layer.shape)
