"""Running a network while somebody watches its weights being applied, whatever it is run by.

a module, a graph of torch.export    torch's functions, see `watching`; gradients come back
a TorchScript program                the operators it ends in; no gradients
an ONNX model                        values that its graph is asked to hand out; no gradients
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rmt_compress.errors import DataError
from rmt_compress.networks.calibration.applied import Use, Weights
from rmt_compress.networks.calibration.patches import Geometry
from rmt_compress.networks.calibration.repeated_batches import described
from rmt_compress.networks.calibration.watching import Watch, Watcher, watched
from rmt_compress.wording import one_line

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.checkpoints.onnx.onnx_network import OnnxNetwork
    from rmt_compress.checkpoints.onnx.onnx_tapping import Tap
    from rmt_compress.layers.layer import Layer
    from rmt_compress.networks.calibration.repeated_batches import Batches


class Runner(Protocol):
    """How a network is run on one batch."""

    gradients: bool
    """Whether they come back."""

    def run(self, inputs: Any, watcher: Watcher) -> Any:
        """The outputs; `watcher` is told of every use of a weight."""
        ...

    def disturbed(self, layer: Layer, scale: float, seed: int) -> Callable[[Any], Any]:
        """A function of inputs: the outputs with noise of deviation `scale` added to the outputs of `layer`."""
        ...


def runner_of(model: nn.Module, data: Batches, weights: Weights, layers: Mapping[str, Layer]) -> Runner:
    """The runner that suits a network.

    Args:
        model: the network.
        data: asks it.
        weights: of the layers to be seen.
        layers: these, by name.
    """
    from rmt_compress.checkpoints.graph_network import GraphNetwork

    if isinstance(model, GraphNetwork):
        # By their names: onnxruntime is imported by the one, a program run by the other.
        if type(model).__name__ == "OnnxNetwork":
            return _Onnx(model, layers)  # type: ignore[arg-type]
        if type(model).__name__ == "ScriptedNetwork":
            return _Watched(data, weights, Operators, gradients=False)
    return _Watched(data, weights, Watch, gradients=True)


class Operators(TorchDispatchMode):
    """As `Watch`, a floor lower: what a program of TorchScript runs are operators."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here: torch would import its compiler, for a second, to leave this class out."""
        return False

    def __init__(self, weights: Weights, watcher: Watcher) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self._weights = weights
        self._watcher = watcher

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run `func`, and tell of the weight it applies."""
        return watched(func, args, kwargs or {}, self._weights, self._watcher)


class _Watched:
    def __init__(
        self, data: Batches, weights: Weights, mode: Callable[[Weights, Watcher], Any], *, gradients: bool
    ) -> None:
        self.gradients = gradients
        self._data = data
        self._weights = weights
        self._mode = mode

    def run(self, inputs: Any, watcher: Watcher) -> Any:
        with self._mode(self._weights, watcher):
            return self._data.ask(inputs)

    def disturbed(self, layer: Layer, scale: float, seed: int) -> Callable[[Any], Any]:
        disturber = Disturber(layer.tensor, scale, seed)
        return lambda inputs: self.run(inputs, disturber)


class Disturber:
    """Adds noise to the outputs of one layer; of none of no name."""

    def __init__(self, name: str = "", scale: float = 0.0, seed: int = 0) -> None:
        self._name = name
        self._scale = scale
        self._generator = torch.Generator().manual_seed(seed)

    def applied(self, use: Use, output: torch.Tensor) -> torch.Tensor:
        """The output, with noise where it is that layer's."""
        if use.layer.tensor != self._name:
            return output
        noise = torch.randn(output.shape, generator=self._generator).to(output.device, output.dtype)
        return output + self._scale * noise

    def used_otherwise(self, name: str) -> None:
        """Of no matter here."""


class _Onnx:
    gradients = False

    def __init__(self, model: OnnxNetwork, layers: Mapping[str, Layer]) -> None:
        self._model = model
        self._taps = [tap for tap in model.taps() if tap.layer.tensor in layers]
        self._values = [name for tap in self._taps for name in (tap.inputs, tap.output)]
        self._tapped = model.tapped(self._values)

    def run(self, inputs: Any, watcher: Watcher) -> Any:
        outputs = []
        for values, output in self._asked(self._tapped, inputs):
            # One tensor for one value, so that layers that read the same are seen to.
            held = dict(zip(self._values, values, strict=True))
            for tap in self._taps:
                watcher.applied(_use(tap, held[tap.inputs], held[tap.output]), held[tap.output])
            outputs.append(output)
        return _joined(outputs)

    def disturbed(self, layer: Layer, scale: float, seed: int) -> Callable[[Any], Any]:
        # Of a weight that is used twice the first use speaks for both.
        value = next(tap.output for tap in self._taps if tap.layer.tensor == layer.tensor)
        tapped = self._model.tapped([], (value, scale, seed))
        return lambda inputs: _joined([output for _, output in self._asked(tapped, inputs)])

    def _asked(self, tapped: Callable[[Any], Iterator[Any]], inputs: Any) -> Iterator[Any]:
        try:
            yield from tapped(inputs)
        except ValueError as error:
            raise DataError(
                f"{self._model.checkpoint.path}: cannot be run on calibration inputs {described(inputs)}: "
                f"{one_line(error)[:300]}; give inputs as the network is called with them"
            ) from error


def _joined(outputs: list[Any]) -> Any:
    if len(outputs) == 1:
        return outputs[0]
    if isinstance(outputs[0], Mapping):
        return {name: torch.cat([part[name] for part in outputs]) for name in outputs[0] if outputs[0][name].ndim}
    return torch.cat(outputs)


def _use(tap: Tap, inputs: torch.Tensor, output: torch.Tensor) -> Use:
    if not tap.stride:
        return Use(tap.layer, inputs, columns=tap.columns)
    before = tap.padding(tuple(inputs.shape[2:]), tuple(output.shape[2:]))
    return Use(tap.layer, inputs, geometry=Geometry(tuple(tap.layer.shape[2:]), tap.stride, before, tap.dilation))
