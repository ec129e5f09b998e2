"""What calibration knows of every layer: second moments of its inputs and of the gradients at its outputs.

To second order, with the Kronecker factorisation of Martens and Grosse (2015), a change ΔW of a layer y = Wx + b
moves the loss by ½‖G^½ ΔW C^½‖_F². They are data; `rmt_compress.networks` measures them on a network that runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class LayerMoments:
    """Moments of one layer, float64 on the CPU, not shrunk.

    "Inputs" is the side that the layer reads, whichever side of its matrix that is (`Kind.swaps`); n numbers, of a
    convolution inputs × kernel positions, of a transposed convolution inputs alone. "Outputs" is the other side, m
    numbers. Of a stack every tensor has the experts as its first axis.

    Attributes:
        inputs: C = E[x xᵀ], (n, n); where that would not fit memory its diagonal, (n,).
        mean: E[x], (n,).
        outputs: G = E[g gᵀ], (m, m), g the gradient of the loss of one sample with respect to y: of a layer that is
            applied at many places of a sample (tokens of one answer, positions of a convolution) the mean over
            samples of the sum over places, so that ½‖G^½ ΔW C^½‖_F² is what the loss of one sample moves by,
            whatever the layer. A 0-d tensor, of a stack (experts,), where only its mean diagonal tr G/m is known;
            None where nothing is.
        count: how many vectors x the means are over; of a stack the mean count of an expert.
    """

    inputs: torch.Tensor
    mean: torch.Tensor
    outputs: torch.Tensor | None
    count: int


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of the layers of one network.

    Attributes:
        layers: by the full name of the layer's tensor, as `Layer.tensor`; layers that read the same tensor share
            `LayerMoments.inputs` as one object.
        left_out: why other layers have none, by the same names.
        record: where they come from, for plans and manifests: plain JSON.
    """

    layers: dict[str, LayerMoments]
    left_out: dict[str, str] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
