"""An ONNX model as a module, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import torch

from rmt_compress.checkpoints.graph_network import GraphNetwork
from rmt_compress.checkpoints.onnx.onnx_editor import OnnxEditor
from rmt_compress.checkpoints.onnx.onnx_products import multiply_adds_per_entry
from rmt_compress.checkpoints.onnx.onnx_tapping import disturb, taps
from rmt_compress.errors import CheckpointError
from rmt_compress.wording import one_line, printable

if TYPE_CHECKING:
    from onnx import ModelProto

    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.checkpoints.onnx.onnx_graph import OnnxGraph
    from rmt_compress.checkpoints.onnx.onnx_layers import Weight
    from rmt_compress.checkpoints.onnx.onnx_tapping import Tap

# onnxruntime's names of the types an input may have.
_INPUT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
_FOLDER = "session.model_external_initializers_file_folder_path"


class OnnxNetwork(GraphNetwork):
    """An ONNX model with one input, on the CPU; its first output counts.

    A parameter given another value (``data``) is put into the graph at the next call, for which onnxruntime has to
    prepare the graph again. A model whose batch size is fixed gets larger and smaller batches piece by piece; one
    that takes vectors gets images as such.
    """

    def __init__(self, checkpoint: Checkpoint, graph: OnnxGraph, weights: Mapping[str, Weight]) -> None:
        super().__init__(checkpoint)
        self._graph = graph
        self._weights = weights
        self._original = self._values()
        self._running = self._original
        self._session = self._start(None)
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in _INPUT_TYPES:
            taken = ", ".join(f"{entry.name} {entry.type}" for entry in inputs)
            raise CheckpointError(
                f"{graph.path}: takes {len(inputs)} inputs ({printable(taken)}), and only a network of one "
                "input of floating-point numbers can be asked about a data set"
            )
        self._input = inputs[0].name
        self._type = _INPUT_TYPES[inputs[0].type]
        shape = inputs[0].shape
        self._batch = shape[0] if shape and isinstance(shape[0], int) and shape[0] > 0 else None
        self._takes_vectors = len(shape) == 2

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The model's first output for one batch of inputs."""
        now = self._values()
        if _differing(now, self._running):
            changed = _differing(now, self._original)
            self._session = self._start(self._edited(changed) if changed else None)
            self._running = now
        parts = [
            self._run(self._session, [self._session.get_outputs()[0].name], part) for part in self._parts(inputs)
        ]
        return torch.cat([torch.from_numpy(outputs[0]) for outputs in parts])[: len(inputs)]

    def multiply_adds(self, inputs: torch.Tensor) -> int:
        """Multiply-adds of the products with weights and the convolutions of the main graph for these inputs.

        Their outputs are asked for once, since their sizes are known to nobody before.
        """
        from onnx import ValueInfoProto

        factors = multiply_adds_per_entry(self._graph, self._weights)
        if not factors:
            return 0
        model = OnnxEditor(self._graph).finished()
        given = {entry.name for entry in (*model.graph.input, *model.graph.output)}
        model.graph.output.extend(ValueInfoProto(name=name) for name in factors if name not in given)
        session = self._start(model)
        total = 0
        for part in self._parts(inputs):
            wanted = [name for name in factors if name != self._input]
            sizes = dict(zip(wanted, (output.size for output in self._run(session, wanted, part)), strict=True))
            sizes[self._input] = part.size
            total += sum(factor * sizes[name] for name, factor in factors.items()) * len(inputs) // len(part)
            if self._batch is not None:
                break
        return total

    def taps(self) -> tuple[Tap, ...]:
        """The places where weights are applied."""
        return tuple(taps(self._graph, self._weights))

    def tapped(
        self, values: Sequence[str], disturbed: tuple[str, float, int] | None = None
    ) -> Callable[[torch.Tensor], Iterator[tuple[list[torch.Tensor], torch.Tensor]]]:
        """A function of inputs that gives some values of the graph, and the first output.

        Args:
            values: their names.
            disturbed: name of a value that gets noise, how much of it, and a seed; see `onnx_tapping.disturb`.

        Returns:
            A function that runs inputs (N, …) part by part, as many at once as the model takes; of a model of fixed
            batch size what fills no part is left out, unless that is all.
        """
        from onnx import ValueInfoProto, helper

        changed = _differing(self._values(), self._original)
        model = self._edited(changed) if changed else OnnxEditor(self._graph).finished()
        first = model.graph.output[0].name
        if disturbed is not None:
            disturb(model, *disturbed, helper.np_dtype_to_tensor_dtype(np.dtype(self._type)))
        given = {entry.name for entry in (*model.graph.input, *model.graph.output)}
        asked = [name for name in dict.fromkeys(values) if name != self._input]
        model.graph.output.extend(ValueInfoProto(name=name) for name in asked if name not in given)
        session = self._start(model)

        def run(inputs: torch.Tensor) -> Iterator[tuple[list[torch.Tensor], torch.Tensor]]:
            whole = inputs
            if self._batch is not None and len(inputs) > self._batch:
                whole = inputs[: len(inputs) // self._batch * self._batch]
            for part in self._parts(whole):
                outputs = [torch.from_numpy(output) for output in self._run(session, [*asked, first], part)]
                held = dict(zip(asked, outputs, strict=False)) | {self._input: torch.from_numpy(part)}
                yield [held[name] for name in values], outputs[-1]

        return run

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

    def _parts(self, inputs: torch.Tensor) -> Iterator[np.ndarray[Any, Any]]:
        """The inputs as the model takes them; the last of several parts filled up with its own last sample."""
        values = inputs.detach().numpy().astype(self._type, copy=False)
        if self._takes_vectors:
            values = values.reshape(len(values), -1)
        if self._batch is None:
            yield values
            return
        for start in range(0, len(values), self._batch):
            part = values[start : start + self._batch]
            missing = self._batch - len(part)
            yield np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part

    def _run(self, session: Any, names: list[str], part: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        if not names:
            # To onnxruntime no names mean all.
            return []
        try:
            outputs: list[np.ndarray[Any, Any]] = session.run(names, {self._input: part})
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise ValueError(f"onnxruntime: {one_line(error)}") from error
        return outputs


def _differing(some: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor]) -> list[str]:
    """The names whose tensors are not in the same memory."""
    return [name for name, tensor in some.items() if tensor.data_ptr() != others[name].data_ptr()]
