"""What runs a network on one batch while somebody watches, and a watcher that adds noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from rmt_compress.layers.layer import Layer
    from rmt_compress.networks.calibration.applied import Use
    from rmt_compress.networks.calibration.watching import Watcher


class Runner(Protocol):
    """How a network is run on one batch."""

    gradients: bool
    """Whether they come back."""
    why_none: str | None
    """Why they do not, where something can be said."""

    def run(self, inputs: Any, watcher: Watcher) -> Any:
        """The outputs; `watcher` is told of every use of a weight."""
        ...

    def disturbed(self, layer: Layer, scale: float, seed: int) -> Callable[[Any], Any]:
        """A function of inputs: the outputs with noise of deviation `scale` added to the outputs of `layer`."""
        ...


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
