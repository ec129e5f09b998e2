"""The graph of a torch.export program as the plain JSON it is stored as: which node uses which weight, and how.

Nothing here is torch's deserializer. That one evaluates text from the file as Python (symbolic shapes, guards) and
resolves any dotted name under ``torch``; here a graph is data that is looked through and edited.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rmt_compress.layers.kinds import LayerKind, convolution

Json = dict[str, Any]

ATEN = "torch.ops.aten."

LINEAR = f"{ATEN}linear.default"
MM, ADDMM = f"{ATEN}mm.default", f"{ATEN}addmm.default"
# Which argument of a product is the matrix on the right.
_PRODUCTS = {MM: "mat2", ADDMM: "mat2", f"{ATEN}matmul.default": "other"}
_CONVOLUTION = f"{ATEN}convolution.default"
_CONVOLUTIONS: dict[str, LayerKind] = {
    f"{ATEN}conv1d.default": "conv1d",
    f"{ATEN}conv2d.default": "conv2d",
    f"{ATEN}conv3d.default": "conv3d",
    f"{ATEN}conv1d.padding": "conv1d",
    f"{ATEN}conv2d.padding": "conv2d",
    f"{ATEN}conv3d.padding": "conv3d",
    f"{ATEN}conv_transpose1d.default": "conv_transpose1d",
    f"{ATEN}conv_transpose2d.input": "conv_transpose2d",
    f"{ATEN}conv_transpose3d.input": "conv_transpose3d",
}
_EMBEDDINGS = (f"{ATEN}embedding.default", f"{ATEN}_embedding_bag.default", f"{ATEN}embedding_bag.default")
_RECURRENT = tuple(
    f"{ATEN}{name}" for name in ("lstm.input", "lstm.data", "gru.input", "gru.data", "rnn_tanh.input")
)
# Views after which a matrix is still itself, and those after which it is its transpose.
_SAME = tuple(f"{ATEN}{name}.default" for name in ("detach", "alias", "detach_", "lift_fresh_copy"))
_TRANSPOSING = tuple(
    f"{ATEN}{name}" for name in ("t.default", "numpy_T.default", "permute.default", "transpose.int")
)
_MAX_VIEWS = 8
# What indices may go through on their way to a table.
_PASSING = tuple(
    f"{ATEN}{name}"
    for name in (
        "view.default",
        "reshape.default",
        "_to_copy.default",
        "to.dtype",
        "clone.default",
        "alias.default",
    )
)


@dataclass(frozen=True)
class Use:
    """One node that takes a weight.

    Attributes:
        node: its place in the graph.
        argument: the name of the argument the weight is.
        kind: what the node makes of the weight; None for what is neither product, convolution nor table.
        views: places of the nodes between weight and `node` that only turn it around.
        bias: value that is added to the result, where there is one.
        groups: of a convolution.
    """

    node: int
    argument: str
    kind: LayerKind | None
    views: tuple[int, ...]
    bias: str | None = None
    groups: int = 1


class Graph:
    """One level of a stored graph; everything under it is shared with the whole, `program`, and edited in place.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, IndexError: it is not what torch writes.
    """

    def __init__(self, program: Json) -> None:
        module = program["graph_module"]
        self.graph: Json = module["graph"]
        self.nodes: list[Json] = self.graph["nodes"]
        self.values: Json = self.graph["tensor_values"]
        self.specs: list[Json] = module["signature"]["input_specs"]
        # Weight's name -> value in the graph, and whether it is a learned parameter.
        self.placeholders: dict[str, str] = {}
        self.buffers: set[str] = set()
        for spec in self.specs:
            for kind in ("parameter", "buffer"):
                if kind in spec:
                    name = _text(spec[kind][f"{kind}_name"])
                    self.placeholders[name] = _text(spec[kind]["arg"]["name"])
                    if kind == "buffer":
                        self.buffers.add(name)
        self._mutated = {
            _text(value)
            for spec in module["signature"]["output_specs"]
            for entry in spec.values()
            for key, value in entry.items()
            if key in ("parameter_name", "buffer_name")
        }
        self._consumers: dict[str, list[tuple[int, str]]] = {}
        for place, node in enumerate(self.nodes):
            _text(node["target"])
            for argument in node["inputs"]:
                direct = _tensor(argument["arg"])
                for value in value_names(argument["arg"]):
                    role = _text(argument["name"]) if value == direct else ""
                    self._consumers.setdefault(value, []).append((place, role))
            if any(
                count > 1 for count in Counter(entry["name"] for entry in node["inputs"] if entry["name"]).values()
            ):
                raise ValueError(f"an argument of {node['target']:.60} is given twice")
        # Every value is made once: to follow it through its uses takes no longer than the graph is long.
        made = Counter([*set(self.placeholders.values()), *value_names([node["outputs"] for node in self.nodes])])
        if len(made) < made.total():
            raise ValueError(f"{made.most_common(1)[0][0]:.60} stands for two values")
        self._returned = set(value_names(self.graph["outputs"]))

    def uses(self, weight: str) -> tuple[Use, ...]:
        """Every node that takes the weight called `weight`."""
        value = self.placeholders.get(weight)
        return () if value is None else tuple(self._follow(value, (), turned=False))

    def table_of(self, indices: str) -> str | None:
        """The weight whose rows the value `indices` looks up, as it is or in another shape or type."""
        names = {indices}
        for node in self.nodes:
            if node["target"] in _PASSING and _tensor(argument(node, "self") or {}) in names:
                names.update(value_names(node["outputs"]))
        for weight in self.placeholders:
            for use in self.uses(weight):
                if use.kind == "embedding" and _tensor(argument(self.nodes[use.node], "indices") or {}) in names:
                    return weight
        return None

    def own_bias(self, uses: Collection[Use]) -> str | None:
        """The value that all these nodes add to their results as it is, and that no other node takes."""
        values, places = {use.bias for use in uses}, {use.node for use in uses}
        value = values.pop() if len(values) == 1 else None
        if value is None or value in self._returned:
            return None
        scaled = any(_factor(self.nodes[place], name) != 1 for place in places for name in ("alpha", "beta"))
        elsewhere = any(place not in places for place, _ in self._consumers.get(value, ()))
        return None if scaled or elsewhere else value

    def refusal(self, weight: str) -> str | None:
        """Why the weight must stay as it is, whatever its uses; None where nothing speaks against a change."""
        if weight in self._mutated:
            return "changed by the graph itself as it runs"
        if self.placeholders.get(weight) in self._returned:
            return "an output of the graph as well"
        return None

    def _follow(self, value: str, views: tuple[int, ...], *, turned: bool) -> Iterator[Use]:
        for place, role in self._consumers.get(value, ()):
            node = self.nodes[place]
            turns = self.turns(node, role)
            if turns is not None and len(views) < _MAX_VIEWS:
                result = _tensor(node["outputs"][0])
                if result is not None and result not in self._returned:
                    yield from self._follow(result, (*views, place), turned=turned != turns)
                    continue
            yield self._use(place, role, views, turned=turned)

    def turns(self, node: Json, role: str) -> bool | None:
        """Whether a node that takes a matrix gives its transpose (True), itself (False), or something else."""
        target = node["target"]
        if role != "self" or not (target in _SAME or target in _TRANSPOSING):
            return None
        if target in _SAME:
            return False
        if target.endswith("permute.default"):
            return True if constant(node, "dims") in ([1, 0], [-1, -2], [1, -2], [-1, 0]) else None
        if target.endswith("transpose.int"):
            axes = {constant(node, "dim0"), constant(node, "dim1")}
            return True if axes in ({0, 1}, {-1, -2}, {0, -1}, {1, -2}) else None
        return True

    def _use(self, place: int, role: str, views: tuple[int, ...], *, turned: bool) -> Use:
        node = self.nodes[place]
        target = node["target"]
        kind: LayerKind | None = None
        bias, groups = "bias", 1
        if target == LINEAR and role == "weight":
            kind = "linear_transposed" if turned else "linear"
        elif role and role == _PRODUCTS.get(target):
            kind = "linear" if turned else "linear_transposed"
            bias = "self" if target == ADDMM else ""
        elif target in (*_CONVOLUTIONS, _CONVOLUTION) and role == "weight" and not views:
            kind = _CONVOLUTIONS.get(target) or self._convolution_kind(node)
            groups = constant(node, "groups") or 1
        elif target in _EMBEDDINGS and role == "weight":
            kind = "embedding"
        elif target in _RECURRENT:
            kind = "recurrent"
        given = argument(node, bias) if kind is not None else None
        if not isinstance(groups, int):
            kind = None
        return Use(place, role, kind, views, _tensor(given) if given else None, groups if kind else 1)

    def _convolution_kind(self, node: Json) -> LayerKind | None:
        dimensions = len(constant(node, "stride") or ())
        return convolution(2 + dimensions, transposed=bool(constant(node, "transposed")))


def argument(node: Json, name: str) -> Json | None:
    """The argument of a node called `name`; None where it is left out."""
    return next((entry["arg"] for entry in node["inputs"] if entry["name"] == name), None)


def constant(node: Json, name: str) -> Any:
    """The value of an argument that is a number, a truth value or a list of numbers; None for any other."""
    given = argument(node, name) or {}
    return next((given[key] for key in ("as_int", "as_ints", "as_bool") if key in given), None)


def _factor(node: Json, name: str) -> Any:
    """What a scalar argument multiplies with; 1 where it is left out, None where it is no number."""
    given = argument(node, name)
    return 1 if given is None else next((given[key] for key in ("as_int", "as_float") if key in given), None)


def with_arguments(node: Json, changes: Mapping[str, Json | None]) -> list[Json]:
    """The inputs of a node with other values for some arguments; None takes one away."""
    kept = [entry for entry in node["inputs"] if changes.get(entry["name"], entry) is not None]
    return [{**entry, "arg": changes[entry["name"]]} if entry["name"] in changes else dict(entry) for entry in kept]


def tensor_argument(value: str) -> Json:
    """An argument that is the value called `value`."""
    return {"as_tensor": {"name": value}}


def _tensor(given: Json) -> str | None:
    held = given.get("as_tensor")
    return None if held is None else _text(held["name"])


def value_names(given: Any) -> Iterator[str]:
    """Every value that is named anywhere in an argument."""
    if isinstance(given, dict):
        name = given.get("name")
        if isinstance(name, str):
            yield name
        for part in given.values():
            yield from value_names(part)
    elif isinstance(given, list):
        for part in given:
            yield from value_names(part)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} where a name is due")
    return value
