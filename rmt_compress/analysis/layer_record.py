"""What is known of every layer of a checkpoint, analysed or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from rmt_compress.analysis.diagnosis import KEYS
from rmt_compress.layers.counting import is_buffer
from rmt_compress.layers.kinds import LayerKind
from rmt_compress.layers.layer import Layer


@dataclass(frozen=True)
class LayerRecord:
    """What the three kinds of `LayerAnalysis` have in common; `status` says whether there are numbers."""

    layer: Layer
    status: ClassVar[Literal["analyzed", "skipped"]] = "skipped"

    @property
    def name(self) -> str:
        """Of the layer."""
        return self.layer.name

    @property
    def tensor(self) -> str:
        """Full name of its tensor."""
        return self.layer.tensor

    @property
    def kind(self) -> LayerKind:
        """What the layer computes."""
        return self.layer.kind

    @property
    def parameters(self) -> int:
        """Entries of the weight."""
        return self.layer.parameters

    @property
    def is_buffer(self) -> bool:
        """Whether it is no parameter, see `counting`."""
        return is_buffer(self.layer.stored, self.layer.dtype)

    @property
    def parameters_after(self) -> int:
        """Weights left when the layer is cut to its spikes and split, where it fits and can be split into less."""
        return self.layer.parameters

    def to_json(self) -> dict[str, Any]:
        """The layer's object in `analyze --json`; what it does not have is null."""
        layer = self.layer
        return {
            "name": layer.name,
            "tensor": layer.tensor,
            "aliases": list(layer.aliases),
            "kind": layer.kind,
            "shape": list(layer.shape),
            "matrix": list(layer.matrix) if layer.matrix else None,
            "dtype": layer.dtype,
            "status": self.status,
            **dict.fromkeys(("reason", "sigma2", "sigma2_error", "lambda_plus", "edge", "gof", "gof_null")),
            **dict.fromkeys(("gof_p_value", "fits", "spikes", "bulk", "bulk_energy", "spectral_norm")),
            "factors": [layer.tensor, layer.pair.second] if layer.pair else None,
            **dict.fromkeys(("verdict", *KEYS, "spectrum", "signals", "noise", "noise_models", "experts")),
            "parameters": layer.parameters,
            "parameters_after": self.parameters_after,
        }
