"""Running a network while somebody watches its weights being applied, whatever it is run by.

a module, a graph of torch.export    torch's functions, see `watching`; gradients come back
a TorchScript program                the operators it ends in; no gradients
an ONNX model                        see `running_onnx`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch.utils._python_dispatch import TorchDispatchMode

from rmt_compress.networks.calibration.applied import Weights
from rmt_compress.networks.calibration.runner import Disturber, Runner
from rmt_compress.networks.calibration.watching import Watch, Watcher, watched

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.layers.layer import Layer
    from rmt_compress.networks.calibration.repeated_batches import Batches


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
            from rmt_compress.networks.calibration.running_onnx import onnx_runner

            return onnx_runner(model, data.placed(data.first), layers)
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
        self.why_none: str | None = None
        self._data = data
        self._weights = weights
        self._mode = mode

    def run(self, inputs: Any, watcher: Watcher) -> Any:
        with self._mode(self._weights, watcher):
            return self._data.ask(inputs)

    def disturbed(self, layer: Layer, scale: float, seed: int) -> Callable[[Any], Any]:
        disturber = Disturber(layer.tensor, scale, seed)
        return lambda inputs: self.run(inputs, disturber)
