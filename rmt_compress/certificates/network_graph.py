"""A network as torch.fx traces it: its steps in order, and how much each can stretch a difference of its inputs.

Everything that is not known to keep differences within bounds ends with one line that names it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rmt_compress.certificates.function_gains import argument, function_gain, listed_arguments
from rmt_compress.certificates.lipschitz import NONE, ONE, Gain, constant_of
from rmt_compress.certificates.units import (
    Operator,
    channel_scales,
    layer_gain,
    operator_of,
    same_layer,
    split_rank,
)
from rmt_compress.errors import CertificateError
from rmt_compress.layers.tracing import traced

if TYPE_CHECKING:
    import torch
    from torch import fx, nn


@dataclass(frozen=True)
class Unit:
    """A layer, with its batch norm where one follows.

    Attributes:
        name: of the layer.
        paths: of its modules.
        first: index of its first step.
        last: index of its last step.
        gain: of the cut layer.
        cut: whether the two networks differ in it.
        operator: the linear part of the cut layer; None of a batch norm alone.
        rank: of the cut layer where it stands as two; None else.
        flat: whether what it gives is (N, outputs).
    """

    name: str
    paths: tuple[str, ...]
    first: int
    last: int
    gain: Gain
    cut: bool
    operator: Operator | None
    rank: int | None
    flat: bool


class NetworkGraph:
    """Two networks of one structure, the second with layers cut.

    Args:
        original: a network in evaluation mode.
        cut: the same with other values, and with two layers ``down`` and ``up`` in the place of some.
        example: what it is called with, two samples or more.
        name: what errors call the network; None: its class.

    Attributes:
        steps: the nodes of the graph in order; an index names one.
        units: the layers in order.
        result: index of the step whose value is the answer, up to what all its entries share (log-softmax).
        classes: how many numbers the answer has, along its last axis.
        head: the last layer, where it is a Linear alone and its output the answer; None else.

    Raises:
        CertificateError: the network cannot be traced, the two differ in more than layers, or a step is not known
            to keep differences within bounds.
    """

    def __init__(self, original: nn.Module, cut: nn.Module, example: torch.Tensor, name: str | None = None) -> None:
        import torch

        self._name = name or type(original).__name__
        why = ", and no bound is known without its graph"
        self._traced = traced(original, CertificateError, why, name=name)
        self.steps: list[fx.Node] = list(self._traced.graph.nodes)
        self._index = {node: index for index, node in enumerate(self.steps)}
        if sum(node.op == "placeholder" for node in self.steps) != 1:
            raise CertificateError(f"{self._name}: takes several inputs; certificates are for networks of one")
        self.modules = (dict(original.named_modules()), dict(cut.named_modules()))
        self._check_rest(original, cut)
        with torch.inference_mode():
            self._values = self.run(example)
        self._samples = len(example)
        self.result = self._answer()
        self._inner: dict[int, Unit] = {}
        self.units: list[Unit] = []
        self._edges: list[list[tuple[int, Gain]]] = []
        for index in range(len(self.steps)):
            self._edges.append(self._edges_of(index) if index <= self.result else [])
        self.head = self._head()
        self.classes = int(self._values[self.result].shape[-1])
        # Shapes are known now; values would stay as long as the graph.
        self._values = []

    @property
    def cuts(self) -> list[Unit]:
        """The layers that differ, each behind all that it depends on."""
        return sorted((unit for unit in self.units if unit.cut), key=lambda unit: unit.first)

    def run(self, inputs: torch.Tensor, known: Sequence[Any] = (), cut: Sequence[Unit] = ()) -> list[Any]:
        """The value of every step.

        Args:
            inputs: what the network is called with.
            known: values of the first steps, which are taken as they are.
            cut: the layers that are cut; all others are those of the original network.
        """
        changed = {index for unit in cut for index in (unit.first, unit.last)}
        values: list[Any] = list(known)
        for index in range(len(known), len(self.steps)):
            values.append(self._value(index, inputs, int(index in changed), values))
        return values

    def behind(self, last: int, value: torch.Tensor, steps: Sequence[int]) -> torch.Tensor:
        """What steps of one input make of the value of step `last`."""
        known: dict[int, Any] = {last: value}
        for index in steps:
            known[index] = self._value(index, value, 0, known)
        found: torch.Tensor = known[steps[-1]] if steps else value
        return found

    def plain_steps(self, unit: Unit) -> list[int]:
        """The steps behind a layer that alone take its output, have no weights and no other inputs."""
        found: list[int] = []
        node = self.steps[unit.last]
        while len(node.users) == 1:
            node = next(iter(node.users))
            index = self._index[node]
            alone = len(node.all_input_nodes) == 1 and len(self._edges[index]) == 1
            if index > self.result or index in self._inner or not alone:
                break
            found.append(index)
        return found

    def gains(self, to: int) -> list[Gain]:
        """Lipschitz constants from the value of every step to that of step `to`."""
        found = [NONE] * len(self.steps)
        found[to] = ONE
        for index in range(to, -1, -1):
            for before, gain in self._edges[index]:
                found[before] = found[before].plus(gain.after(found[index]))
        return found

    def reads(self, unit: Unit) -> int:
        """Index of the step whose value a layer takes."""
        return self._index[self.steps[unit.first].all_input_nodes[0]]

    def linear_before(self, unit: Unit, passes: Callable[[str, nn.Module | None], bool]) -> Unit | None:
        """The Linear layer whose output a layer reads, with nothing but certain steps between; None for another.

        Args:
            unit: the layer.
            passes: of the name of a class or function, and of the module, whether the step may stand between.
        """
        index = self.reads(unit)
        while index not in self._inner:
            node = self.steps[index]
            module = self.modules[1][str(node.target)] if node.op == "call_module" else None
            alone = len(node.users) == 1 and len(node.all_input_nodes) == 1
            if not alone or not passes(_called(node, self.modules[0]), module):
                return None
            index = self._index[node.all_input_nodes[0]]
        before = self._inner[index]
        alone = len(self.steps[index].users) == 1 and before.last == index
        linear = before.operator is not None and before.operator.convolution is None
        return before if alone and linear and before.flat else None

    def cut_value(self, unit: Unit, values: Sequence[Any]) -> torch.Tensor:
        """What the cut layer makes of its input, which is among `values`."""
        value = values[self.reads(unit)]
        for path in unit.paths:
            value = self.modules[1][path](value)
        found: torch.Tensor = value
        return found

    def _value(self, index: int, inputs: torch.Tensor, side: int, values: Any) -> Any:
        from torch import fx

        node = self.steps[index]
        if node.op == "placeholder":
            return inputs
        if node.op == "get_attr":
            return self._attribute(str(node.target))

        def given(other: fx.Node) -> Any:
            return values[self._index[other]]

        arguments = fx.map_arg(node.args, given)
        named = fx.map_arg(node.kwargs, given)
        if node.op == "output":
            return arguments[0]
        if _in_place(node, self.modules[0]):
            # Values are looked at again.
            arguments, named = fx.node.map_aggregate((arguments, named), _copied)
        if node.op == "call_module":
            return self.modules[side][str(node.target)](*arguments, **named)
        if node.op == "call_method":
            return getattr(arguments[0], str(node.target))(*arguments[1:], **named)
        function: Any = node.target
        return function(*arguments, **named)

    def _attribute(self, target: str) -> Any:
        value: Any = self._traced
        for part in target.split("."):
            value = getattr(value, part)
        return value

    def _check_rest(self, original: nn.Module, cut: nn.Module) -> None:
        """Refuse networks that differ elsewhere than in modules that are called."""
        import torch

        called = [str(node.target) for node in self.steps if node.op == "call_module"]
        if lost := [path for path in called if path not in self.modules[1]]:
            raise CertificateError(f"{self._name}: the cut network has no {lost[0]}: it is another network")
        ours, theirs = original.state_dict(), cut.state_dict()
        inside = tuple(f"{path}." for path in called)
        for name, tensor in ours.items():
            if isinstance(tensor, torch.Tensor) and not name.startswith(inside):
                other = theirs.get(name)
                if not isinstance(other, torch.Tensor) or not torch.equal(other, tensor):
                    raise CertificateError(
                        f"{self._name}: {name} differs in the cut network, and belongs to no layer that is called"
                    )

    def _answer(self) -> int:
        """The step whose differences between classes are those of the output."""
        import torch

        output = self.steps[-1].args[0]
        if not hasattr(output, "op") or not isinstance(self._values[-1], torch.Tensor):
            raise CertificateError(f"{self._name}: returns no single tensor; certificates are for classifiers")
        node: Any = output
        name = _called(node, self.modules[0])
        axis = argument(node, 1, "dim", None)
        if node.op == "call_module" and name == "LogSoftmax":
            axis = self.modules[0][str(node.target)].dim
        if name in ("log_softmax", "LogSoftmax") and axis in (1, -1):
            node = node.all_input_nodes[0]
        return self._index[node]

    def _edges_of(self, index: int) -> list[tuple[int, Gain]]:
        """(step, Lipschitz constant from its value to that of step `index`) for every input of a step."""
        import torch

        node, value = self.steps[index], self._values[index]
        # Sizes depend on no weight.
        if node.op in ("placeholder", "get_attr") or not isinstance(value, torch.Tensor):
            if node.op in ("placeholder", "get_attr") or not _holds_tensors(value):
                return []
            raise self._unknown(node, "it returns several tensors")
        sources = [
            (self._index[other], self._values[self._index[other]])
            for other in node.all_input_nodes
            if isinstance(self._values[self._index[other]], torch.Tensor) and other.op != "get_attr"
        ]
        if len(value) != self._samples or any(len(found) != self._samples for _, found in sources):
            raise self._unknown(node, "it does not keep samples apart")
        if node.op == "call_module":
            return self._module_edges(index, sources)
        source = self._values[self._index[node.all_input_nodes[0]]] if node.all_input_nodes else value
        gain = function_gain(node, _called(node, self.modules[0]), value, source)
        if gain is None:
            raise self._unknown(node, "no Lipschitz constant of it is known")
        given = listed_arguments(node)
        times = [sum(other is self.steps[place] for other in given) for place, _ in sources]
        return [
            (place, Gain(gain.two * count, gain.largest * count))
            for (place, _), count in zip(sources, times, strict=True)
        ]

    def _module_edges(self, index: int, sources: Sequence[tuple[int, torch.Tensor]]) -> list[tuple[int, Gain]]:
        node = self.steps[index]
        if len(sources) != 1:
            raise self._unknown(node, "it has several inputs")
        ((before, entering),) = sources
        path = str(node.target)
        whole, cut = (modules[path] for modules in self.modules)
        linear = operator_of(cut)
        scales = None if linear is not None else channel_scales(cut)
        if linear is not None or scales is not None:
            owner = self._inner.get(before)
            joined = scales is not None and owner is not None and owner.last == before and self._is_fused(index)
            if joined and owner is not None:
                # The layer before stands with its batch norm from here on.
                self.units.remove(owner)
                first, paths, linear = owner.first, (*owner.paths, path), owner.operator
                before, gain = owner.first, self._joint_gain(owner, scales)
            else:
                first, paths = index, (path,)
                largest = 0.0 if scales is None else float(scales.abs().max())
                gain = Gain(largest, largest) if linear is None else layer_gain(linear, entering.shape)
            own = [[modules[each] for each in paths] for modules in self.modules]
            rank = split_rank(own[1][0])
            flat = self._values[index].dim() == 2
            unit = Unit(paths[0], paths, first, index, gain, not same_layer(*own), linear, rank, flat)
            self.units.append(unit)
            self._inner[first] = self._inner[index] = unit
            if joined:
                entry = self._edges[first][0][0]
                self._edges[first] = [(entry, gain)]
                return [(first, ONE)]
            return [(before, gain)]
        if not same_layer([whole], [cut]):
            raise self._unknown(node, "it differs in the cut network, and is neither a Linear nor a convolution")
        known = constant_of(whole, entering.shape)
        if known is None or whole.training:
            raise self._unknown(node, "no Lipschitz constant of it is known")
        return [(before, known)]

    def _is_fused(self, index: int) -> bool:
        """Whether a batch norm alone takes what a layer gives, channels on the same axis."""
        before = self.steps[index].all_input_nodes[0]
        owner = self._inner[self._index[before]]
        value = self._values[self._index[before]]
        linear = owner.operator
        if linear is None or len(owner.paths) > 1:
            return False
        return len(before.users) == 1 and (linear.convolution is not None or value.dim() == 2)

    def _joint_gain(self, owner: Unit, scales: torch.Tensor | None) -> Gain:
        entering = self._values[self._index[self.steps[owner.first].all_input_nodes[0]]]
        assert owner.operator is not None
        return layer_gain(owner.operator, entering.shape, scales)

    def _head(self) -> Unit | None:
        unit = self._inner.get(self.result)
        if unit is None or unit.first != unit.last or unit.operator is None:
            return None
        return unit if unit.flat and unit.operator.convolution is None else None

    def _unknown(self, node: fx.Node, why: str) -> CertificateError:
        if node.op == "call_module":
            called = f"{node.target} ({type(self.modules[0][str(node.target)]).__name__})"
        else:
            called = f"{_called(node, self.modules[0])}() in its forward"
        return CertificateError(f"{self._name}: {called}: {why}, so nothing behind a cut can be certified")


def _called(node: fx.Node, modules: Mapping[str, nn.Module]) -> str:
    if node.op == "call_module":
        return type(modules[str(node.target)]).__name__
    if node.op == "call_function":
        return str(getattr(node.target, "__name__", node.target))
    return str(node.target)


def _in_place(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return bool(getattr(modules[str(node.target)], "inplace", False))
    name = _called(node, modules)
    in_operator = node.target in (operator.iadd, operator.isub, operator.imul, operator.itruediv)
    # The functional forms take it as their last argument.
    return in_operator or name.endswith("_") or any(each is True for each in (*node.args, *node.kwargs.values()))


def _holds_tensors(value: Any) -> bool:
    import torch

    parts = value if isinstance(value, tuple | list) else (value,)
    return any(isinstance(each, torch.Tensor) for each in parts)


def _copied(value: Any) -> Any:
    import torch

    return value.clone() if isinstance(value, torch.Tensor) else value
