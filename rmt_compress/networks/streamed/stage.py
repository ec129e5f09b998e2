"""One block of a network on its own: from what the block before has returned to what it returns, and back."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from rmt_compress.networks.calibration.passes import Passes
from rmt_compress.networks.calibration.scalars import Scalar
from rmt_compress.networks.calibration.watchers import Scout
from rmt_compress.networks.calibration.watching import Watch
from rmt_compress.networks.calling import tensors_in
from rmt_compress.networks.streamed.kept_states import KeptGradient

if TYPE_CHECKING:
    from collections.abc import Callable

    from rmt_compress.layers.layer import Layer
    from rmt_compress.networks.calibration.applied import Use, Weights
    from rmt_compress.networks.calibration.repeated_batches import Batches
    from rmt_compress.networks.calibration.watchers import Adder
    from rmt_compress.networks.calibration.watching import Watcher
    from rmt_compress.networks.repair.relay import Relay
    from rmt_compress.networks.streamed.kept_states import KeptStates


class Stage:
    """The inputs and the runner (see `calibration.running.Runner`) of one block, whose weights are in memory.

    Args:
        relay: the network and its blocks.
        at: which block.
        memory: number of the block that all behind it may read; None where there is none.
        data: the inputs of the network.
        states: what blocks have returned.
        weights: of the block, and of what lies between blocks.

    Attributes:
        again: names of weights before this block, behind the memory, that it feels as other blocks do.
    """

    gradients = True
    why_none: str | None = None

    def __init__(
        self, relay: Relay, at: int, memory: int | None, data: Batches, states: KeptStates, weights: Weights
    ) -> None:
        self.at = at
        self.last = at + 1 == len(relay.blocks)
        self.count = data.count
        self._relay, self._data, self._states, self._weights = relay, data, states, weights
        self._read = [] if at == 0 else [at - 1]
        self._reads_memory = memory is not None and at > memory
        if memory is not None and at > memory + 1:
            self._read.append(memory)
        self.place = 0
        self.again: set[str] = set()
        self._given: list[list[torch.Tensor]] = []

    def once_over(self) -> Iterator[Any]:
        """The inputs of the network, batch after batch; the one that was handed out last is the one that is run."""
        for place, inputs in enumerate(self._data.once_over()):
            self.place, self._given = place, []
            yield inputs

    def forward(self) -> Iterator[int]:
        """Keep what the block returns, batch after batch, unless it is kept already; the numbers of the batches."""
        for place, inputs in enumerate(self._data.once_over()):
            if not self._states.has(self.at, place):
                with torch.no_grad():
                    output = self._relay.output(self.at, inputs, self._before(place))
                self._states.keep(self.at, place, output)
            yield place

    def run(self, inputs: Any, watcher: Watcher) -> Any:
        """What the block returns, of the last one the network, with `watcher` told of weights from its begin on."""
        before = self._before(self.place)
        self._given = []
        if torch.is_grad_enabled():
            self._given = [list(tensors_in(before[at])) for at in self._read]
            for tensor in itertools.chain.from_iterable(self._given):
                tensor.requires_grad_(tensor.is_floating_point())
        own = _FromHere(watcher, self.again, begun=self.at == 0)
        with Watch(self._weights, own):
            return self._relay.output(self.at, inputs, before, own.begin)

    def disturbed(self, layer: Layer, scale: float, seed: int) -> Callable[[Any], Any]:
        """Is for networks without gradients."""
        raise NotImplementedError

    def scalar(self, output: Any) -> Scalar | None:
        """What has the gradients at the inputs of the block that those at its output lead to."""
        kept = self._states.gradient(self.at, self.place)
        if kept is None:
            return None
        tensors = list(tensors_in(output))
        parts = [
            (tensors[number] * gradient).sum()
            for number, gradient in kept.tensors.items()
            if tensors[number].requires_grad
        ]
        return Scalar(sum(parts[1:], parts[0]), kept.samples, kept.kind) if parts else None

    def keep_gradient(self, scalar: Scalar | None) -> None:
        """Keep the gradients that have come back to what the block reads.

        At the memory they are added up from the last block on, until the one behind it is reached.
        """
        found = [] if scalar is None else [_gradient(given, scalar) for given in self._given]
        behind = self._states.behind(self.at + 1, self.place) if self._reads_memory else None
        if behind is not None and len(self._read) == 1:
            found = [behind if not found else found[0].plus(behind)]
        elif behind is not None or len(found) == 2:
            whole = found[1].plus(behind) if found else behind
            assert whole is not None
            self._states.keep_behind(self.at, self.place, whole)
        if found:
            self._states.keep_gradient(self.at - 1, self.place, found[0])

    def _before(self, place: int) -> list[Any]:
        return [
            self._states.output(at, place) if at in self._read else self._states.outline(at, place)
            for at in range(self.at)
        ]


def _gradient(given: list[torch.Tensor], scalar: Scalar) -> KeptGradient:
    found = {number: tensor.grad for number, tensor in enumerate(given) if tensor.grad is not None}
    return KeptGradient(found, scalar.samples, scalar.kind)


class _FromHere:
    """Tells a watcher of what is applied from the begin of a block on; what runs before it belongs to others.

    Args:
        watcher: who is told.
        again: gets the names of what runs before, and is felt by this block.
        begun: whether the block has begun.
    """

    def __init__(self, watcher: Watcher, again: set[str], *, begun: bool) -> None:
        self._watcher = watcher
        self._again = again
        self._begun = begun

    def begin(self) -> None:
        self._begun = True

    def applied(self, use: Use, output: torch.Tensor) -> torch.Tensor:
        """See `Watcher`."""
        if self._begun:
            return self._watcher.applied(use, output)
        if output.requires_grad:
            self._again.add(use.layer.tensor)
        return output

    def used_otherwise(self, name: str) -> None:
        """See `Watcher`."""
        if self._begun:
            self._watcher.used_otherwise(name)


class StagePasses(Passes):
    """`Passes` over one block."""

    def _scalar(self, outputs: Any, inputs: Any, place: int) -> Scalar | None:
        stage = self.stage
        return super()._scalar(outputs, inputs, place) if stage.last else stage.scalar(outputs)

    def _gradients(self, adder: Adder, inputs: Any, place: int) -> Scalar | None:
        scalar = super()._gradients(adder, inputs, place)
        self.stage.keep_gradient(scalar)
        return scalar

    @property
    def stage(self) -> Stage:
        """The block."""
        assert isinstance(self.runner, Stage)
        return self.runner


class Weigher(Scout):
    """A `Scout` that also learns what is held for the way back.

    Args:
        known: tensors that are not counted.

    Attributes:
        bytes: of what is held.
    """

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.bytes = 0
        self._held = {tensor.untyped_storage().data_ptr() for tensor in known}
        self._alive: list[torch.Tensor] = []

    def applied(self, use: Use, output: torch.Tensor) -> torch.Tensor:
        """Note the use, and that its vectors wait for gradients."""
        self.hold(use.tensor.detach())
        return super().applied(use, output)

    def hold(self, tensor: torch.Tensor) -> torch.Tensor:
        """Count a tensor, its memory once."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._held:
            self._held.add(storage.data_ptr())
            # As long as it lives nothing else has its address.
            self._alive.append(tensor)
            self.bytes += storage.nbytes()
        return tensor

    def done(self) -> None:
        """The run is over."""
        self._alive.clear()
