"""Running a network from one of its blocks to the next, as if the blocks before had run.

The blocks form a chain: what the next one reads depends on the outputs of this one and of none before, but for one
that many may read (see `chain`). So the network is called as always, the blocks before return a blank, the last of
them what it has returned once, and the call ends where the next block begins. All between the blocks (masks,
positions, norms, activations) is the network's own code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from rmt_compress.errors import DataError
from rmt_compress.networks.calling import main_output, tensors_in

if TYPE_CHECKING:
    from torch import nn

Ask = Callable[[Any], Any]
"""Calls the network with one batch of inputs."""


class Passage(NamedTuple):
    """What has come out of a block.

    Attributes:
        reached: what the next block reads, of the last one what it returns: the tensor that counts.
        output: all that the block has returned, detached, as it can be given back to `Relay.run`.
    """

    reached: torch.Tensor
    output: Any


class _Reached(BaseException):
    """Ends a call of the network; no `Exception`, so that nothing in it takes this for a failure of its own."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


class Relay:
    """A network and the chain of its blocks.

    Args:
        model: the network.
        blocks: paths of its blocks, as they are called; the network itself is ``""``.
        ask: calls it.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[str], ask: Ask) -> None:
        self.blocks = tuple(blocks)
        self.model = model
        self._modules = [model.get_submodule(path) for path in blocks]
        self._ask = ask

    def run(self, at: int, inputs: Any, before: Sequence[Any]) -> Passage:
        """From block `at` to where the next begins, with gradients where they are asked for.

        Args:
            at: which block.
            inputs: of the network.
            before: what the blocks before return, one each: the last's output, outlines of the others'.

        Raises:
            DataError: the next block is not reached, or there is no tensor in what it reads.
        """
        held: list[Any] = []
        last = at + 1 == len(self._modules)

        def watched(*arguments: Any, **named: Any) -> Any:
            output = own(*arguments, **named)
            # What follows may change it in place.
            held.append(_each(output, lambda tensor: tensor.detach().clone()))
            if last:
                raise _Reached(output)
            return output

        own = self._modules[at].forward
        end = self._call(inputs, before, {at: watched} if last else {at: watched, at + 1: _stop})
        reached = main_output(end) if last else main_input(*end)
        if reached is None:
            raise DataError(
                f"{self.blocks[at] or 'the network'}: block-wise repair finds no tensor in what comes out of it"
            )
        return Passage(reached, held[0])

    def output(self, at: int, inputs: Any, before: Sequence[Any], begun: Callable[[], None] | None = None) -> Any:
        """All that block `at` returns, of the last block what the network does, with the gradients that lead there.

        Args:
            at: which block.
            inputs: of the network.
            before: as in `run`; of a memory its output too.
            begun: told that the block before has returned, so that what runs from now on counts.

        Raises:
            DataError: the block is not called.
        """

        def ended(*arguments: Any, **named: Any) -> Any:
            raise _Reached(own(*arguments, **named))

        def handing(*_: Any, **__: Any) -> Any:
            if begun is not None:
                begun()
            return _each(before[-1], torch.Tensor.clone)

        own = self._modules[at].forward
        forwards = {} if at + 1 == len(self._modules) else {at: ended}
        return self._call(inputs, before, forwards | ({at - 1: handing} if before else {}))

    def straight(self, inputs: Any) -> torch.Tensor:
        """What the last block returns when all run, the tensor that counts."""
        last = Relay(self.model, self.blocks[-1:], self._ask)
        with torch.no_grad():
            return last.run(0, inputs, ()).reached.clone()

    def arrives(self, at: int, inputs: Any, before: Sequence[Any]) -> list[torch.Tensor]:
        """All floating-point tensors that block `at` is given, or, behind the last, that the network returns.

        `before` are as in `run`.
        """
        found = self._call(inputs, before, {at: _stop} if at < len(self._modules) else {})
        return [tensor for tensor in tensors_in(found) if tensor.is_floating_point()]

    def _call(self, inputs: Any, before: Sequence[Any], own: Mapping[int, Callable[..., Any]]) -> Any:
        """What a call ends with; the blocks `before` give back what they returned, others have `own` forwards."""
        forwards = {at: _returns(output) for at, output in enumerate(before)} | dict(own)
        with _replaced_forwards({self._modules[at]: forward for at, forward in forwards.items()}):
            try:
                answer = self._ask(inputs)
            except _Reached as end:
                return end.value
        if own and max(own) >= len(before):
            raise DataError(
                f"{self.blocks[max(own)] or 'the network'} is not called on every calibration input; going block "
                "by block needs inputs that take the same way through the network"
            )
        return answer


class Outline(NamedTuple):
    """What a block has returned, without the numbers: its structure, shapes, types and devices."""

    output: Any


def outline(output: Any) -> Outline:
    """The outline of an output; of one it is the same again."""
    if isinstance(output, Outline):
        return output
    return Outline(_each(output, lambda tensor: tensor.new_zeros(()).expand(tensor.shape)))


def main_input(arguments: tuple[Any, ...], named: Mapping[str, Any]) -> torch.Tensor | None:
    """The tensor that a module computes with: the first of floating-point numbers."""
    first = [named["hidden_states"]] if "hidden_states" in named else []
    given = tensors_in([*arguments, *first, *named.values()])
    return next((tensor for tensor in given if tensor.is_floating_point()), None)


def _stop(*arguments: Any, **named: Any) -> Any:
    raise _Reached((arguments, named))


def _returns(output: Any) -> Callable[..., Any]:
    """A forward that gives back what a block has returned; of an outline NaN, which nothing that counts reads."""

    def blank(tensor: torch.Tensor) -> torch.Tensor:
        return torch.full(
            tensor.shape, torch.nan if tensor.is_floating_point() else 0, dtype=tensor.dtype, device=tensor.device
        )

    def forward(*_: Any, **__: Any) -> Any:
        if isinstance(output, Outline):
            return _each(output.output, blank)
        # What follows may change it in place.
        return _each(output, torch.Tensor.clone)

    return forward


@contextmanager
def _replaced_forwards(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Modules with another `forward`; behind it they are as they were."""
    own = {module: vars(module).get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            vars(module)["forward"] = forward
        yield
    finally:
        for module, before in own.items():
            if before is None:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = before


def _each(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """`value` with every tensor in it changed; tuples, lists, mappings and what is derived from them stay such."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_each(part, change) for part in value))
    if isinstance(value, tuple | list):
        return type(value)(_each(part, change) for part in value)
    if isinstance(value, Mapping):
        parts = {key: _each(part, change) for key, part in value.items()}
        # The outputs of transformers are dataclasses that are dictionaries too.
        return parts if type(value) is dict else type(value)(**parts)
    return value
