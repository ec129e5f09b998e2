"""Which tensors of an ONNX model are weights, read off the nodes that take them.

A weight may reach its node through Identity, Cast, Transpose and Reshape. Of two dimensions it is listed as stored,
and its kind says which way round it is used; of any other it is listed as it comes out of the last Transpose or
Reshape before the node, since only there its axes have a meaning.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rmt_compress.checkpoints.onnx.onnx_graph import OnnxGraph, Place, StoredTensor, Use
from rmt_compress.checkpoints.onnx.onnx_tensors import DTYPES, read_tensor
from rmt_compress.layers.kinds import LayerKind, convolution
from rmt_compress.layers.layer import FLOAT_DTYPES, Layer

if TYPE_CHECKING:
    import torch
    from onnx import NodeProto

# Names that exporters make up: a user knows the node rather than the tensor.
_MADE_UP = re.compile(r"onnx::\w+|\d+|(?:const_fold_opt_|val|tensor|t|v)_+\d+|_v_\d+|Constant_\d+(?:_output_0)?")
_SCOPES = "pkg.torch.onnx.name_scopes"
_MAX_AXES = 8
# Exporters put two or three nodes between a weight and its product.
_MAX_CHAIN = 32
# Types of quantized weights.
_SHORT = frozenset(
    {"int8", "uint8", "int4", "uint4", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"}
)


@dataclass(frozen=True)
class View:
    """What happens to a tensor on its way to a node.

    Attributes:
        steps: ``("reshape", shape)`` and ``("transpose", axes)``, in order, those without effect left out.
        casts: ONNX's numbers of the types it is turned into, in order.
        chain: the nodes on the way.
    """

    steps: tuple[tuple[str, tuple[int, ...]], ...] = ()
    casts: tuple[int, ...] = ()
    chain: tuple[Place, ...] = ()

    def shape(self, dims: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that comes out."""
        for kind, numbers in self.steps:
            dims = numbers if kind == "reshape" else tuple(dims[axis] for axis in numbers)
        return dims

    def apply(self, tensor: torch.Tensor) -> torch.Tensor:
        """What comes out, casts left aside."""
        for step, numbers in self.steps:
            tensor = tensor.reshape(numbers) if step == "reshape" else tensor.permute(numbers)
        return tensor.contiguous()

    def undo(self, tensor: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
        """The stored tensor, of shape `dims`, out of which `tensor` comes."""
        shapes = [dims]
        for step in self.steps:
            shapes.append(replace(self, steps=(step,)).shape(shapes[-1]))
        for (kind, numbers), before in zip(reversed(self.steps), reversed(shapes[:-1]), strict=True):
            if kind == "reshape":
                tensor = tensor.reshape(before)
            else:
                inverse = sorted(range(len(numbers)), key=numbers.__getitem__)
                tensor = tensor.permute(inverse)
        return tensor.contiguous()

    @property
    def flips(self) -> bool:
        """Whether it does no more than to swap the two axes of a matrix."""
        return self.steps == (("transpose", (1, 0)),)


@dataclass(frozen=True)
class WeightUse:
    """A node takes a weight, or what has become of it on the way."""

    use: Use
    view: View


@dataclass(frozen=True)
class Weight:
    """A stored tensor, how it is listed, and the places it is used at.

    Attributes:
        stored: the tensor.
        listed: what is done to it before it is listed.
        layer: what is known of it.
        uses: the nodes that take it as a weight.
        transposed: whether these nodes take the matrix as (inputs, outputs).
    """

    stored: StoredTensor
    listed: View
    layer: Layer
    uses: tuple[WeightUse, ...] = ()
    transposed: bool = False


@dataclass(frozen=True)
class _Role:
    """What a node makes of a weight: the layer's kind, or why it is none; `bias` is where one is taken."""

    kind: LayerKind
    transposed: bool = False
    groups: int = 1
    bias: Use | None = None
    why_skipped: str | None = None
    why_whole: str | None = None


def find_weights(graph: OnnxGraph) -> dict[str, Weight]:
    """Every tensor of a model that may be a weight, or that is learned, by its key.

    Numbers that only shape the computation are left out: integers of less than two dimensions, single constants.
    """
    found = {}
    for key, stored in graph.tensors.items():
        floats = DTYPES[stored.data_type][0] in FLOAT_DTYPES
        if len(stored.dims) > 1 or (floats and (stored.node is None or math.prod(stored.dims) > 1)):
            found[key] = _weight(graph, stored)
    return _with_unique_names(found)


def follow(graph: OnnxGraph, stored: StoredTensor) -> Iterator[WeightUse | None]:
    """Where a tensor ends up, through nodes that only pass it on; None for an output of a graph."""
    pending = [(stored.value, View())]
    while pending:
        value, view = pending.pop()
        if value.output:
            yield None
        for use in value.uses:
            further = _passed_on(graph, use, view, stored.dims)
            if further is None:
                yield WeightUse(use, view)
            else:
                pending.append((graph.outputs[use.place][0], further))


def _passed_on(graph: OnnxGraph, use: Use, view: View, dims: tuple[int, ...]) -> View | None:
    """What `view` has become behind a node; None where that does more than to pass its input on."""
    operator, node = graph.operator(use.place), graph.node(use.place)
    if use.number != 0 or len(node.output) != 1 or len(view.chain) == _MAX_CHAIN:
        return None
    chain = (*view.chain, use.place)
    shape = view.shape(dims)
    if operator == "Identity":
        return replace(view, chain=chain)
    if operator == "Cast":
        return replace(view, chain=chain, casts=(*view.casts, integer(node, "to", 1)))
    steps = view.steps
    if operator == "Transpose":
        axes = tuple(integers(node, "perm")) or tuple(reversed(range(len(shape))))
        if sorted(axes) != list(range(len(shape))):
            return None
        if axes != tuple(range(len(shape))):
            undone = steps and steps[-1] == ("transpose", axes) == ("transpose", (1, 0))
            steps = steps[:-1] if undone else (*steps, ("transpose", axes))
        return replace(view, chain=chain, steps=steps)
    if operator == "Reshape":
        target = _reshaped(graph, use.place, shape)
        if target is None:
            return None
        return replace(view, chain=chain, steps=steps if target == shape else (*steps, ("reshape", target)))
    return None


def _reshaped(graph: OnnxGraph, place: Place, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape a Reshape gives to a tensor of `shape`; None where it is computed, or not understood."""
    stored = graph.constant(place, 1)
    if stored is None or stored.proto is None or stored.data_type != 7 or math.prod(stored.dims) > _MAX_AXES:
        return None
    wanted = read_tensor(stored.proto, stored.external, graph.path, stored.name).flatten().tolist()
    if integer(graph.node(place), "allowzero", 0) or any(
        length == 0 and axis >= len(shape) for axis, length in enumerate(wanted)
    ):
        return None
    lengths = [shape[axis] if length == 0 else length for axis, length in enumerate(wanted)]
    known = math.prod(length for length in lengths if length != -1)
    if lengths.count(-1) == 1 and known:
        lengths[lengths.index(-1)] = math.prod(shape) // known
    return tuple(lengths) if min(lengths, default=1) >= 0 and math.prod(lengths) == math.prod(shape) else None


def _weight(graph: OnnxGraph, stored: StoredTensor) -> Weight:
    everywhere = list(follow(graph, stored))
    uses = [use for use in everywhere if use is not None]
    roles = [(use, _role(graph, use, stored)) for use in uses]
    # What multiplies inputs comes first; what only looks rows up, adds or hands out may stand beside it.
    roles.sort(key=lambda pair: pair[1].why_skipped is not None or pair[1].kind == "embedding")
    dtype = DTYPES[stored.data_type][0]
    if len(stored.dims) < 2 or not roles:
        reason = None if len(stored.dims) < 2 else "no node takes it" if not everywhere else "handed out as it is"
        kind: LayerKind = "vector" if len(stored.dims) < 2 else "unknown"
        layer = Layer(stored.key, stored.key, kind, stored.dims, dtype, why_skipped=reason, in_graph=True)
        return Weight(stored, View(), layer)
    (first, role), others = roles[0], roles[1:]
    as_stored = role.kind == "unknown" or (len(stored.dims) == 2 and first.view.flips)
    listed = View() if as_stored else replace(first.view, casts=(), chain=())
    kind = role.kind
    if kind == "recurrent":  # (1 direction, gates × hidden, inputs)
        listed = View((*listed.steps, ("reshape", listed.shape(stored.dims)[1:])))
    if kind == "linear" and role.transposed != first.view.flips:
        kind = "linear_transposed"
    skip, whole = role.why_skipped, role.why_whole
    if dtype in _SHORT:
        skip = f"quantized: stored as {dtype} for {graph.operator(first.use.place)}"
    if any(to not in DTYPES or DTYPES[to][0] not in FLOAT_DTYPES for to in first.view.casts):
        whole = whole or "turned into whole numbers on the way"
    if len(everywhere) > len(uses):
        whole = whole or "an output of the graph as well"
    for use, other in others:
        if other != replace(role, bias=other.bias) or (use.view.steps, use.view.casts) != (
            first.view.steps,
            first.view.casts,
        ):
            whole = (
                whole or f"used in another way by {graph.operator(use.use.place)} {graph.node(use.use.place).name}"
            )
    layer = Layer(
        name=_shown_name(graph, stored, first.use.place),
        tensor=stored.key,
        kind=kind,
        shape=listed.shape(stored.dims),
        dtype=dtype,
        bias=_own_bias(graph, [(use.use.place, other.bias) for use, other in roles]),
        groups=role.groups,
        why_whole=whole,
        why_skipped=skip,
        in_graph=True,
    )
    return Weight(stored, listed, layer, tuple(use for use, _ in roles), role.transposed)


def _role(graph: OnnxGraph, used: WeightUse, stored: StoredTensor) -> _Role:
    place, index = used.use
    operator, node = graph.operator(place), graph.node(place)
    shape = used.view.shape(stored.dims)
    if operator in ("MatMul", "Gemm") and index < 2:
        if len(shape) != 2:
            return _Role("unknown", why_skipped=f"a stack of matrices, used by {operator}")
        flipped = operator == "Gemm" and bool(integer(node, "transB" if index else "transA", 0))
        bias = Use(place, 2) if operator == "Gemm" else _added(graph, place) if index else None
        return _Role(
            "linear", (index == 1) != flipped, bias=bias, why_whole=_product_refusal(graph, place, operator, index)
        )
    if operator in ("Conv", "ConvTranspose") and index == 1:
        kind = convolution(len(shape), transposed=operator == "ConvTranspose")
        if kind is not None:
            return _Role(kind, groups=max(1, integer(node, "group", 1)), bias=Use(place, 2))
    if operator == "Gather" and index == 0 and len(shape) == 2 and integer(node, "axis", 0) == 0:
        return _Role("embedding")
    if operator in ("LSTM", "GRU", "RNN") and index in (1, 2) and len(shape) == 3:
        if shape[0] == 1:
            return _Role("recurrent")
        return _Role("unknown", why_skipped=f"the gates of both directions of {operator}, in one tensor")
    return _Role("unknown", why_skipped=f"used by {operator}, not multiplied with the inputs of a layer")


def _product_refusal(graph: OnnxGraph, place: Place, operator: str, index: int) -> str | None:
    """Why a product cannot be written as two."""
    if graph.constant(place, 1 - index) is not None:
        return "multiplied with another weight, not with inputs"
    if operator == "Gemm" and graph.opset < 7:
        return f"used by a Gemm of opset {graph.opset}; two of them need opset 7"
    return None


def _added(graph: OnnxGraph, place: Place) -> Use | None:
    """Where the sum takes a stored vector that a product alone goes into: a Linear of more axes than two."""
    (product,) = graph.outputs[place]
    if product.output or len(product.uses) != 1:
        return None
    ((place, number),) = product.uses
    bias = graph.constant(place, 1 - number) if graph.operator(place) == "Add" else None
    return Use(place, 1 - number) if bias is not None and len(bias.dims) == 1 else None


def _own_bias(graph: OnnxGraph, uses: Sequence[tuple[Place, Use | None]]) -> str | None:
    """The bias that every one of a weight's nodes adds as it is, and that nothing else takes."""
    taken = {bias for _, bias in uses if bias is not None}
    found = [None if bias is None else graph.constant(*bias) for _, bias in uses]
    stored = found[0]
    if stored is None or any(other is not stored for other in found):
        return None
    elsewhere = stored.value.output or any(use not in taken for use in stored.value.uses)
    scaled = any(number(graph.node(place), name) != 1.0 for place, _ in uses for name in ("alpha", "beta"))
    return None if elsewhere or scaled else stored.key


def _shown_name(graph: OnnxGraph, stored: StoredTensor, place: Place) -> str:
    node = graph.node(place)
    if _MADE_UP.fullmatch(stored.name):
        return _module_path(node) or node.name or stored.key
    return stored.key.removesuffix(".weight")


def _module_path(node: NodeProto) -> str | None:
    """The path of the module a node was made from, as torch's exporter notes it; None where nobody did."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            # A list of strings as Python prints it: the modules from outside to inside, then the operation.
            scopes = re.findall(r"'([^']*)'", entry.value)
            return scopes[-2] or None if len(scopes) > 1 else None
    return None


def _with_unique_names(weights: Mapping[str, Weight]) -> dict[str, Weight]:
    """Layers under names that no other has, the tensor's own added where that is needed."""
    counts = Counter(weight.layer.name for weight in weights.values())
    found = {}
    for key, weight in weights.items():
        name = weight.layer.name
        if name != key and (counts[name] > 1 or name in weights):
            name = key if key.endswith(".weight") else f"{name} ({key})"
        found[key] = replace(weight, layer=replace(weight.layer, name=name))
    return found


def integer(node: NodeProto, name: str, default: int) -> int:
    """The attribute called `name`, a whole number."""
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)


def number(node: NodeProto, name: str, default: float = 1.0) -> float:
    """The attribute called `name`, a number."""
    return next((float(attribute.f) for attribute in node.attribute if attribute.name == name), default)


def integers(node: NodeProto, name: str) -> Sequence[int]:
    """The attribute called `name`, whole numbers; none where it is left out."""
    return next((list(attribute.ints) for attribute in node.attribute if attribute.name == name), [])
