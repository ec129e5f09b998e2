"""A TorchScript program that the user trusts, as a module whose weights have the names they have in the file."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from rmt_compress.checkpoints.graph_network import GraphNetwork
from rmt_compress.errors import CheckpointError
from rmt_compress.wording import one_line

if TYPE_CHECKING:
    from rmt_compress.checkpoints.base import Checkpoint


class ScriptedNetwork(GraphNetwork):
    """A network that runs by the program of a TorchScript archive; see `GraphNetwork`.

    Making one runs code from the file. Its weights must be those the archive lists.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # torch gives this function no types.
                program = torch.jit.load(str(checkpoint.path), map_location="cpu")  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"{checkpoint.path}: its program does not load: {one_line(error)}") from error
        # In a list it is no submodule: its weights are the parameters of this module.
        self._program = [program.eval()]
        self._own: dict[str, torch.Tensor] = program.state_dict()
        if missing := [name for name in self._parameters if name not in self._own]:
            raise CheckpointError(f"{checkpoint.path}: its program has no weight called {missing[0]}")
        for name in self._parameters:
            # The program's memory: to change values in place is to change what is computed.
            self._parameters[name] = torch.nn.Parameter(self._own[name], requires_grad=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The program's (first) output for one batch of inputs."""
        with self._given_weights():
            output = self._program[0](inputs)
        while isinstance(output, tuple | list) and output:
            output = output[0]
        return output  # type: ignore[no-any-return] # torch says nothing of what a program returns

    @contextmanager
    def _given_weights(self) -> Iterator[None]:
        """The program with the values of weights that were exchanged for other tensors."""
        changed = {
            name: weight
            for name, weight in self.named_parameters()
            if weight.data_ptr() != self._own[name].data_ptr()
        }
        kept = {name: self._own[name].clone() for name in changed}
        for name, weight in changed.items():
            self._own[name].copy_(weight.detach())
        try:
            yield
        finally:
            for name, values in kept.items():
                self._own[name].copy_(values)

    def multiply_adds(self, inputs: torch.Tensor) -> int:
        """Multiply-adds of all products and convolutions in one pass with these inputs."""
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            self(inputs)
        return int(counter.get_total_flops()) // 2
