"""The graph of a torch.export archive, run operator by operator, without `torch.export.load`."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from rmt_compress.checkpoints.exported.program_graph import ATEN, Json
from rmt_compress.checkpoints.exported.program_weights import DTYPES
from rmt_compress.checkpoints.graph_inputs import Feeds, GraphInput, as_arguments
from rmt_compress.checkpoints.graph_network import GraphNetwork
from rmt_compress.errors import CheckpointError
from rmt_compress.layers.kinds import KINDS

if TYPE_CHECKING:
    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.checkpoints.exported.program_graph import Graph
    from rmt_compress.layers.kinds import LayerKind

# Operators of aten that open files, or give a tensor other memory than its own: no network needs them.
_REFUSED = frozenset({"from_file", "set_", "set", "resize_", "resize_as_", "resize", "_resize_output_", "data"})
# Holds values against the type and device they were exported on, and the network runs in others as well.
_CHECK = f"{ATEN}_assert_tensor_metadata.default"
_ARITHMETIC = ("add", "sub", "mul", "floordiv", "truediv", "mod", "pow", "neg", "getitem")
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "not_")
_MEMORY_FORMATS = {
    **{1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format}
}
_STRIDED = 7
# Arguments that are values as they stand.
_PLAIN = (
    "as_int",
    "as_ints",
    "as_float",
    "as_floats",
    "as_bool",
    "as_bools",
    "as_string",
    "as_strings",
    "as_int_lists",
)


class ExportedNetwork(GraphNetwork):
    """A network that runs by the graph of a torch.export archive; see `GraphNetwork`.

    Operators outside torch's own library are refused. `constants` are tensors that are no part of the state;
    `damaged` makes the error for an archive whose graph is unsound.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        graph: Graph,
        program: Json,
        constants: Mapping[str, torch.Tensor],
        damaged: Callable[[str], CheckpointError],
    ) -> None:
        super().__init__(checkpoint)
        self._graph = graph
        self._damaged = damaged
        self._fixed: dict[str, torch.Tensor] = {}
        self._inputs: list[GraphInput] = []
        try:
            for spec in graph.specs:
                self._enter(spec, constants)
            self._steps = [
                (place, self._operator(node["target"]), node)
                for place, node in enumerate(graph.nodes)
                if node["target"] != _CHECK
            ]
            self._returned = _returned(program)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, StopIteration) as error:
            raise damaged(f"its graph: {type(error).__name__} {error}") from error
        self.inputs = tuple(self._inputs)
        self._kinds = {
            use.node: use.kind
            for layer in checkpoint.layers()
            if layer.in_graph
            for name in (layer.tensor, *layer.aliases)
            for use in graph.uses(name)
        }

    def _outputs(self, feeds: Feeds) -> Any:
        return self._run(feeds, None)

    def multiply_adds(self, inputs: Any) -> int:
        """Multiply-adds of all products with weights and all convolutions in one pass with these inputs."""
        parts = self._parts(*as_arguments(inputs))
        counts: list[int] = []
        with torch.inference_mode():
            self._run(next(iter(parts)), counts)
        return sum(counts) if parts.batch is None else sum(counts) * parts.count // parts.batch

    @property
    def vocabulary(self) -> int | None:
        """See `GraphNetwork.vocabulary`."""
        for entry in self.inputs:
            if entry.made or entry.dtype is None or entry.dtype.is_floating_point:
                continue
            if (table := self._graph.table_of(entry.name)) is not None:
                return self.checkpoint.tensors[table].shape[0]
        return None

    def _run(self, feeds: Feeds, counts: list[int] | None) -> Any:
        try:
            return self._run_through(feeds, counts)
        except KeyError as error:
            raise self._damaged(f"its graph: nothing gives {error}") from error

    def _run_through(self, feeds: Feeds, counts: list[int] | None) -> Any:
        values: dict[str, Any] = dict(feeds)
        device = next(iter(feeds.values())).device
        for name, value in self._graph.placeholders.items():
            values[value] = self._parameters[name] if name in self._parameters else self._fixed[value]
        for value, tensor in self._fixed.items():
            values[value] = tensor.to(device)
        for place, run, node in self._steps:
            given = {entry["name"]: self._value(entry["arg"], values, device) for entry in node["inputs"]}
            result = run(given)
            _bind(node["outputs"], result, values)
            if counts is not None:
                counts.append(_multiply_adds(self._kinds.get(place), given, result))
        if len(self._returned) == 1:
            return values[next(iter(self._returned.values()))]
        return {name: values[value] for name, value in self._returned.items()}

    def _enter(self, spec: Json, constants: Mapping[str, torch.Tensor]) -> None:
        ((kind, entry),) = spec.items()
        if kind == "user_input":
            ((held, value),) = entry["arg"].items()
            # A number or a word that was fixed on exporting is in the nodes that use it.
            if held == "as_tensor":
                self._inputs.append(self._input(value["name"]))
        elif kind in ("parameter", "buffer", "tensor_constant"):
            name, value = entry[f"{kind}_name"], entry["arg"]["name"]
            if name not in self._parameters:
                tensors = self.checkpoint.tensors
                self._fixed[value] = self.checkpoint.read(name) if name in tensors else constants[name]
        elif kind != "constant_input":
            raise CheckpointError(f"{self.checkpoint.path}: takes a {kind}, which is not run")

    def _input(self, name: str) -> GraphInput:
        meta = self._graph.values[name]
        shape = tuple(length.get("as_int") for length in meta["sizes"])
        return GraphInput(name, getattr(torch, DTYPES[meta["dtype"]]), shape)

    def _operator(self, target: str) -> Callable[[dict[str, Any]], Any]:
        name, _, overload = target.removeprefix(ATEN).partition(".")
        if target.startswith(ATEN) and name not in _REFUSED and name.isidentifier():
            packet = getattr(torch.ops.aten, name, None)
            found = getattr(packet, overload, None) if overload.isidentifier() else None
            if isinstance(found, torch._ops.OpOverload):
                return lambda given: found(**given)
        name = target.removeprefix("_operator.")
        if target.startswith("_operator.") and name in (*_ARITHMETIC, *_COMPARISONS):
            compute = getattr(operator, name)
            return lambda given: compute(*given.values())
        raise CheckpointError(
            f"{self.checkpoint.path}: uses {target}, which is not run from a file; analyze and prune do without"
        )

    def _value(self, given: Json, values: Mapping[str, Any], device: torch.device) -> Any:
        """What an argument stands for."""
        ((kind, held),) = given.items()
        if kind in _PLAIN:
            return held
        if kind == "as_none":
            return None
        if kind in ("as_tensor", "as_optional_tensor"):
            return self._value(held, values, device) if "name" not in held else values[held["name"]]
        if kind == "as_tensors":
            return [values[entry["name"]] for entry in held]
        if kind == "as_optional_tensors":
            return [self._value(entry, values, device) for entry in held]
        if kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
            ((how, number),) = held.items()
            return values[number] if how == "as_name" else number
        if kind in ("as_sym_ints", "as_sym_floats", "as_sym_bools"):
            singular = kind.removesuffix("s")
            return [self._value({singular: entry}, values, device) for entry in held]
        if kind == "as_scalar_type":
            return getattr(torch, DTYPES[held])
        if kind == "as_memory_format":
            return _MEMORY_FORMATS[held]
        if kind == "as_device":
            return device
        if kind == "as_layout" and held == _STRIDED:
            return torch.strided
        raise CheckpointError(f"{self.checkpoint.path}: an argument of its graph ({kind}) is not run from a file")


def _returned(program: Json) -> dict[str, str]:
    """Names of the outputs that are tensors -> the values of the graph that they are, in their order."""
    module = program["graph_module"]
    given = [entry["user_output"]["arg"] for entry in module["signature"]["output_specs"] if "user_output" in entry]
    names = _keys(module) or []
    if len(names) != len(given):
        names = [f"output_{number}" for number in range(len(given))]
    found = {
        name: str(arg["as_tensor"]["name"]) for name, arg in zip(names, given, strict=True) if "as_tensor" in arg
    }
    if not found:
        raise ValueError("none of its outputs is a tensor")
    return found


def _keys(module: Json) -> list[str] | None:
    """The keys of the mapping that a program returns; None where it returns something else."""
    whole = next((entry["signature"] for entry in module.get("module_call_graph", ()) if not entry["fqn"]), None)
    if not whole:
        return None
    try:
        spec = json.loads(whole["out_spec"])[1]
        keys = json.loads(spec["context"])
    except (KeyError, TypeError, ValueError, IndexError, RecursionError):
        return None
    flat = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    return keys if flat and all(not child["children_spec"] for child in spec["children_spec"]) else None


def _bind(outputs: list[Json], result: Any, values: dict[str, Any]) -> None:
    """Give the results of a node their names; one that checks something has none."""
    if not outputs:
        return
    for given, value in zip(outputs, (result,) if len(outputs) == 1 else result, strict=True):
        ((kind, held),) = given.items()
        if kind == "as_tensor":
            values[held["name"]] = value
        elif kind == "as_tensors":
            values.update((entry["name"], part) for entry, part in zip(held, value, strict=True))
        elif kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
            values[held["as_name"]] = value


def _multiply_adds(kind: LayerKind | None, given: Mapping[str, Any], result: Any) -> int:
    """Multiply-adds of one product or convolution; none for tables and recurrent layers."""
    row = KINDS[kind or "unknown"]
    if not row.splits:
        return 0
    weight = next(given[name] for name in ("weight", "mat2", "other") if name in given)
    if not row.convolution:
        inputs = weight.shape[1 if "weight" in given else 0]
        return int(result.numel() * inputs)
    places = given["input"] if row.swaps else result
    return int(places.numel() * (weight.numel() // weight.shape[0]))
