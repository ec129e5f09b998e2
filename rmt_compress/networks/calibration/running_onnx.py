"""Running an ONNX model while somebody watches its weights being applied.

With gradients where torch can follow the graph from its layers to its outputs, see `onnx_backward`, and comes to
what onnxruntime comes to; else values that the graph is asked to hand out, without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from rmt_compress.checkpoints.onnx.onnx_backward import NoGradientError
from rmt_compress.checkpoints.onnx.onnx_network import OnnxNetwork
from rmt_compress.errors import DataError
from rmt_compress.networks.calibration.applied import Use
from rmt_compress.networks.calibration.patches import Geometry
from rmt_compress.networks.calibration.repeated_batches import described
from rmt_compress.networks.calibration.runner import Disturber
from rmt_compress.wording import one_line, printable

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.checkpoints.onnx.onnx_tapping import Tap
    from rmt_compress.layers.layer import Layer
    from rmt_compress.networks.calibration.repeated_batches import Call
    from rmt_compress.networks.calibration.runner import Runner
    from rmt_compress.networks.calibration.watching import Watcher

_HALVES = (torch.float16, torch.bfloat16)
# How far the outputs of torch may be from onnxruntime's, of the largest of them; of graphs that compute in half
# precision, which torch does in float32, the second.
_AGREES, _HALF_AGREES = 1e-3, 2e-2


def onnx_runner(model: nn.Module, inputs: Any, layers: Mapping[str, Layer]) -> Runner:
    """The runner that suits an ONNX model.

    Args:
        model: an `OnnxNetwork`.
        inputs: the first it will be run on.
        layers: to be seen, by name.
    """
    assert isinstance(model, OnnxNetwork)
    try:
        return _Differentiated(model, inputs, layers)
    except NoGradientError as error:
        return _HandedOut(model, layers, printable(str(error), 200))


def with_gradients(model: nn.Module, inputs: torch.Tensor) -> Call | None:
    """How an ONNX model is asked so that gradients come back to its inputs; None where none do.

    Args:
        model: an `OnnxNetwork`.
        inputs: such as it will be asked.
    """
    assert isinstance(model, OnnxNetwork)
    names = [entry.name for entry in model.inputs if entry.dtype is not None and entry.dtype.is_floating_point]
    try:
        runner = _Differentiated(model, inputs, {}, names)
    except NoGradientError:
        return None
    return lambda _, inputs: runner.run(inputs, Disturber())


class _HandedOut:
    gradients = False

    def __init__(self, model: OnnxNetwork, layers: Mapping[str, Layer], why_none: str) -> None:
        self.why_none: str | None = why_none
        self._model = model
        self._taps = [tap for tap in model.taps() if tap.layer.tensor in layers]
        self._values = [name for tap in self._taps for name in (tap.inputs, tap.output)]
        self._tapped = model.tapped(self._values)

    def run(self, inputs: Any, watcher: Watcher) -> Any:
        outputs = []
        for values, output in _asked(self._model, self._tapped, inputs):
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
        return lambda inputs: _joined([output for _, output in _asked(self._model, tapped, inputs)])


class _Differentiated:
    gradients = True
    why_none: str | None = None

    def __init__(
        self, model: OnnxNetwork, inputs: Any, layers: Mapping[str, Layer], values: Sequence[str] = ()
    ) -> None:
        """`values` are names of inputs that gradients come back to beside the outputs of layers."""
        self._model = model
        taps = [tap for tap in model.taps() if tap.layer.tensor in layers]
        self._backward = model.backward([*values, *(tap.output for tap in taps)])
        self._taps = {tap.output: tap for tap in taps if tap.output in self._backward.layers}
        # Of what leads to no output that moves there is no gradient, but there are inputs.
        self._aside = [tap for tap in taps if tap.output not in self._taps]
        self._named_outputs = model.output_names
        wanted = [
            *self._backward.taken,
            *(name for tap in self._aside for name in (tap.inputs, tap.output)),
            *(name for name in self._named_outputs if name not in self._backward.outputs),
        ]
        self._values = [name for name in dict.fromkeys(wanted) if name not in self._backward.layers]
        self._tapped = model.tapped(self._values, alone=True)
        constants = model.tapped(self._backward.constants, alone=True)
        found, _ = next(_asked(model, constants, inputs))
        self._constants = _widened(dict(zip(self._backward.constants, found, strict=True)))
        self._check(inputs)

    def run(self, inputs: Any, watcher: Watcher) -> Any:
        try:
            return self._followed(inputs, watcher)
        except NoGradientError as error:
            # The first inputs went through.
            raise DataError(
                f"{self._model.checkpoint.path}: torch cannot follow it on {described(inputs)}: "
                f"{printable(str(error), 300)}; give calibration inputs of one shape"
            ) from error

    def _followed(self, inputs: Any, watcher: Watcher) -> Any:
        return _joined([self._outputs(values, watcher) for values, _ in _asked(self._model, self._tapped, inputs)])

    def disturbed(self, layer: Layer, scale: float, seed: int) -> Callable[[Any], Any]:
        disturber = Disturber(layer.tensor, scale, seed)
        return lambda inputs: self.run(inputs, disturber)

    def _outputs(self, values: list[torch.Tensor], watcher: Watcher) -> Any:
        held = self._constants | _widened(dict(zip(self._values, values, strict=True)))
        for tap in self._aside:
            watcher.applied(_use(tap, held[tap.inputs], held[tap.output]), held[tap.output])

        def applied(name: str, known: Mapping[str, torch.Tensor], output: torch.Tensor) -> torch.Tensor:
            tap = self._taps.get(name)
            return output if tap is None else watcher.applied(_use(tap, known[tap.inputs], output), output)

        found = held | self._backward.run(held, applied)
        outputs = {name: found[name] for name in self._named_outputs}
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))

    def _check(self, inputs: Any) -> None:
        """Raise NoGradientError where torch comes to something else than onnxruntime."""
        with torch.no_grad():
            expected = [output for _, output in _asked(self._model, self._model.tapped([]), inputs)]
            found = self._followed(inputs, Disturber())
        joined = _joined(expected)
        for name in self._backward.outputs:
            here, there = (each[name] if isinstance(each, Mapping) else each for each in (found, joined))
            tolerance = _HALF_AGREES if there.dtype in _HALVES else _AGREES
            if here.shape != there.shape or not bool(
                (here - there).abs().max() <= tolerance * there.abs().max().clamp(min=1e-30)
            ):
                raise NoGradientError(f"torch comes to another {name} than onnxruntime")


def _asked(model: OnnxNetwork, tapped: Callable[[Any], Iterator[Any]], inputs: Any) -> Iterator[Any]:
    try:
        yield from tapped(inputs)
    except ValueError as error:
        raise DataError(
            f"{model.checkpoint.path}: cannot be run on calibration inputs {described(inputs)}: "
            f"{one_line(error)[:300]}; give inputs as the network is called with them"
        ) from error


def _widened(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Values of half precision in float32, in which they are computed with."""
    return {name: value.float() if value.dtype in _HALVES else value for name, value in values.items()}


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
