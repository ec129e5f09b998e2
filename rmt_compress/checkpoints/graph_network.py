"""The graph of a checkpoint as a module whose weights can be exchanged under the names they have in the file."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import nn

from rmt_compress.layers.layer import FLOAT_DTYPES

if TYPE_CHECKING:
    from rmt_compress.checkpoints.base import Checkpoint


class GraphNetwork(nn.Module):
    """A network that runs by the graph of its checkpoint.

    Its parameters are the checkpoint's floating-point tensors, under their own names: whoever gives one another
    value (its ``data``), changes what the network computes. `open_checkpoint` of it is the checkpoint itself.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        for name, info in checkpoint.tensors.items():
            if info.dtype in FLOAT_DTYPES:
                # `register_parameter` refuses dots, which the names of tensors are full of.
                self._parameters[name] = nn.Parameter(checkpoint.read(name), requires_grad=False)
        self.eval()

    @abstractmethod
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The network's (first) output for one batch of inputs."""

    @abstractmethod
    def multiply_adds(self, inputs: torch.Tensor) -> int:
        """Multiply-adds of all products with weights and all convolutions in one pass with these inputs."""
