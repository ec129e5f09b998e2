"""A TorchScript program that the user trusts, as a module whose weights have the names they have in the file."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from rmt_compress.checkpoints.graph_inputs import Feeds, GraphInput, as_arguments
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
                program = torch.jit.load(str(checkpoint.path), map_location="cpu")
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"{checkpoint.path}: its program does not load: {one_line(error)}") from error
        # Frozen: after some runs the interpreter keeps for gradients what is made in inference mode, which fails.
        for parameter in program.parameters():
            parameter.requires_grad_(False)
        # In a list it is no submodule: its weights are the parameters of this module.
        self._program = [program.eval()]
        # The first argument is the module.
        self._take_arguments(list(program.forward.schema.arguments)[1:])
        self._own: dict[str, torch.Tensor] = program.state_dict()
        if missing := [name for name in self._parameters if name not in self._own]:
            raise CheckpointError(f"{checkpoint.path}: its program has no weight called {missing[0]}")
        for name in self._parameters:
            # The program's memory: to change values in place is to change what is computed.
            self._parameters[name] = torch.nn.Parameter(self._own[name], requires_grad=False)

    def _take_arguments(self, declared: Iterable[Any]) -> None:
        """What the program's ``forward`` takes: tensors to be given, and what stands for those that are not."""
        self._arguments: list[tuple[str, Any]] = []
        self._why_not_run: str | None = None
        taken = []
        for entry in declared:
            kind = str(entry.type)
            self._arguments.append((entry.name, entry.default_value if entry.has_default_value() else None))
            if kind in ("Tensor", "Optional[Tensor]"):
                taken.append(GraphInput(entry.name, optional=entry.has_default_value()))
            elif not entry.has_default_value():
                # Its weights can be looked at and cut all the same.
                self._why_not_run = f"its program takes {entry.name}, a {kind}; only tensors can be given"
        self.inputs = tuple(taken)

    def _outputs(self, feeds: Feeds) -> Any:
        if self._why_not_run is not None:
            raise ValueError(self._why_not_run)
        with self._given_weights():
            return self._program[0](*[feeds.get(name, value) for name, value in self._arguments])

    @property
    def vocabulary(self) -> int | None:
        """Rows of the first table: which input is looked up in it a program does not tell."""
        return next((layer.shape[0] for layer in self.checkpoint.layers() if layer.kind == "embedding"), None)

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

    def multiply_adds(self, inputs: Any) -> int:
        """Multiply-adds of all products and convolutions in one pass with these inputs."""
        given, named = as_arguments(inputs)
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            self(*given, **named)
        return int(counter.get_total_flops()) // 2
