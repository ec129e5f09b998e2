"""An ONNX model as a module, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import torch

from rmt_compress.checkpoints.graph_inputs import Feeds, GraphInput, as_arguments
from rmt_compress.checkpoints.graph_network import GraphNetwork
from rmt_compress.checkpoints.onnx.onnx_backward import Backward
from rmt_compress.checkpoints.onnx.onnx_editor import OnnxEditor
from rmt_compress.checkpoints.onnx.onnx_products import multiply_adds_per_entry
from rmt_compress.checkpoints.onnx.onnx_tapping import disturb, taps, vocabulary
from rmt_compress.errors import CheckpointError
from rmt_compress.layers.kinds import KINDS
from rmt_compress.wording import one_line, printable

if TYPE_CHECKING:
    from onnx import ModelProto

    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.checkpoints.onnx.onnx_graph import OnnxGraph
    from rmt_compress.checkpoints.onnx.onnx_layers import Weight
    from rmt_compress.checkpoints.onnx.onnx_tapping import Tap
    from rmt_compress.layers.layer import Layer

# onnxruntime's names of the types an input may have.
_TYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(int16)": torch.int16,
    "tensor(int8)": torch.int8,
    "tensor(uint8)": torch.uint8,
    "tensor(bool)": torch.bool,
}
_FOLDER = "session.model_external_initializers_file_folder_path"


class OnnxNetwork(GraphNetwork):
    """An ONNX model on the CPU.

    A parameter given another value (``data``) is put into the graph at the next call, for which onnxruntime has to
    prepare the graph again.
    """

    def __init__(self, checkpoint: Checkpoint, graph: OnnxGraph, weights: Mapping[str, Weight]) -> None:
        super().__init__(checkpoint)
        self._graph = graph
        self._weights = weights
        self._original = self._values()
        self._running = self._original
        self._session = self._start(None)
        self.inputs = tuple(self._input(entry) for entry in self._session.get_inputs())
        # Sequences and maps are no tensors.
        self._names = [entry.name for entry in self._session.get_outputs() if entry.type.startswith("tensor(")]
        if not self._names:
            raise CheckpointError(f"{graph.path}: no output of it is a tensor")

    def _outputs(self, feeds: Feeds) -> Any:
        now = self._values()
        if _differing(now, self._running):
            changed = _differing(now, self._original)
            self._session = self._start(self._edited(changed) if changed else None)
            self._running = now
        return _named(self._names, self._run(self._session, self._names, feeds))

    def multiply_adds(self, inputs: Any) -> int:
        """Multiply-adds of the products with weights and the convolutions of the main graph for these inputs.

        Their outputs are asked for once, since their sizes are known to nobody before.
        """
        factors = multiply_adds_per_entry(self._graph, self._weights)
        if not factors:
            return 0
        model = OnnxEditor(self._graph).finished()
        parts = self._parts(*as_arguments(inputs))
        given = {entry.name for entry in self.inputs}
        wanted = [name for name in factors if name not in given]
        session = self._start(_handing_out(model, wanted))
        feeds = next(iter(parts))
        sizes = {name: value.numel() for name, value in feeds.items()}
        sizes |= {name: out.numel() for name, out in zip(wanted, self._run(session, wanted, feeds), strict=True)}
        total = sum(factor * sizes[name] for name, factor in factors.items())
        return total if parts.batch is None else total * parts.count // parts.batch

    @property
    def first_layer(self) -> Layer | None:
        """See `GraphNetwork.first_layer`; by the order of the nodes, as that of the tensors says nothing."""
        used = {
            each.use.place: weight.layer
            for weight in self._weights.values()
            for each in weight.uses
            if KINDS[weight.layer.kind].splits
        }
        return used[min(used)] if used else None

    @property
    def vocabulary(self) -> int | None:
        """See `GraphNetwork.vocabulary`."""
        return vocabulary(self._graph, self._weights, [entry for entry in self.inputs if not entry.made])

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs that are tensors."""
        return tuple(self._names)

    def taps(self) -> tuple[Tap, ...]:
        """The places where weights are applied."""
        return tuple(taps(self._graph, self._weights))

    def backward(self, layers: Iterable[str]) -> Backward:
        """What leads from the values called `layers` to the outputs; see `Backward`, also for what it raises."""
        return Backward(self._graph, layers, self._names)

    def tapped(
        self, values: Sequence[str], disturbed: tuple[str, float, int] | None = None, *, alone: bool = False
    ) -> Callable[[Any], Iterator[tuple[list[torch.Tensor], Any]]]:
        """A function of inputs that gives some values of the graph, and the outputs.

        Args:
            values: their names.
            disturbed: name of a value that gets noise, how much of it, and a seed; see `onnx_tapping.disturb`.
            alone: whether nothing else is computed, and none of the outputs given.

        Returns:
            A function that runs inputs as the network is called with them, N samples, part by part, as many at once
            as the model takes; of a model of fixed batch size what fills no part is left out, unless that is all.
        """
        changed = _differing(self._values(), self._original)
        model = self._edited(changed) if changed else OnnxEditor(self._graph).finished()
        if disturbed is not None:
            disturb(model, *disturbed, self._type_of(disturbed[0]))
        given = {entry.name for entry in self.inputs}
        asked = [name for name in dict.fromkeys(values) if name not in given]
        if alone:
            del model.graph.output[:]
        outputs = [] if alone else self._names
        # onnxruntime runs no model that gives nothing.
        session = self._start(_handing_out(model, asked)) if asked or outputs else None

        def run(inputs: Any) -> Iterator[tuple[list[torch.Tensor], Any]]:
            for part in self._parts(*as_arguments(inputs)).whole():
                found = self._run(session, [*asked, *outputs], part)
                held = dict(zip(asked, found, strict=False)) | part
                yield [held[name] for name in values], _named(outputs, found[len(asked) :])

        return run

    def _type_of(self, value: str) -> int:
        """ONNX's number of the type of a value; only onnxruntime, which infers it, knows."""
        from onnx import helper

        session = self._start(_handing_out(OnnxEditor(self._graph).finished(), [value]))
        found = next(entry.type for entry in session.get_outputs() if entry.name == value)
        return helper.np_dtype_to_tensor_dtype(np.dtype(str(_TYPES[found]).removeprefix("torch.")))

    def _input(self, entry: Any) -> GraphInput:
        if entry.type not in _TYPES:
            raise CheckpointError(
                f"{self._graph.path}: its input {printable(entry.name)} is {printable(entry.type)}, and only "
                f"tensors of {', '.join(name[7:-1] for name in _TYPES)} can be given"
            )
        # An axis of any length has a name, or none; -1 is written by some.
        shape = tuple(length if isinstance(length, int) and length > 0 else None for length in entry.shape)
        known = self._graph.shape_is_known(entry.name)
        return GraphInput(entry.name, _TYPES[entry.type], shape if known else None)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> OnnxNetwork:
        """Refuse what would move the weights away: onnxruntime is given them on the CPU."""
        if fn(torch.empty(0)).device.type != "cpu":
            raise RuntimeError("an ONNX graph is run on the CPU only")
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's own
        return self

    def _values(self) -> dict[str, torch.Tensor]:
        # Held on to: the memory of a tensor that is gone may be the next one's.
        return {name: parameter.detach() for name, parameter in self.named_parameters()}

    def _edited(self, names: list[str]) -> ModelProto:
        """The model with the values that the parameters called `names` have now."""
        editor = OnnxEditor(self._graph)
        for name in names:
            parameter = self._parameters[name]
            assert parameter is not None
            editor.assign(self._weights[name].layer, parameter.detach())
        return editor.finished()

    def _start(self, model: ModelProto | None) -> Any:
        """A session of `model`, of the file as it is where that is None."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry(_FOLDER, str(self._graph.path.parent.resolve()))
        content = str(self._graph.path) if model is None else model.SerializeToString()
        try:
            return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise CheckpointError(
                f"{self._graph.path}: onnxruntime cannot run it: {printable(one_line(error), 500)}"
            ) from error

    def _run(self, session: Any, names: list[str], feeds: Feeds) -> list[torch.Tensor]:
        if not names:
            # To onnxruntime no names mean all.
            return []
        try:
            outputs = session.run(names, {name: value.detach().numpy() for name, value in feeds.items()})
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise ValueError(f"onnxruntime: {one_line(error)}") from error
        return [torch.from_numpy(output) for output in outputs]


def _named(names: list[str], outputs: list[torch.Tensor]) -> Any:
    """One output as it is, several by their names."""
    return outputs[0] if len(names) == 1 else dict(zip(names, outputs, strict=True))


def _handing_out(model: ModelProto, values: Sequence[str]) -> ModelProto:
    """`model`, which is changed, with some of its values among its outputs."""
    from onnx import ValueInfoProto

    known = {entry.name for entry in (*model.graph.input, *model.graph.output)}
    model.graph.output.extend(ValueInfoProto(name=name) for name in values if name not in known)
    return model


def _differing(some: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor]) -> list[str]:
    """The names whose tensors are not in the same memory."""
    return [name for name, tensor in some.items() if tensor.data_ptr() != others[name].data_ptr()]
