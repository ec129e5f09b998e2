"""The weights of a blank network, read when its blocks are run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn

from rmt_compress.checkpoints.views import DenseView
from rmt_compress.errors import CheckpointError
from rmt_compress.networks.file_names import SAME_NAMES, FileNames
from rmt_compress.networks.joined_moments import shares
from rmt_compress.networks.repair.chain import inside
from rmt_compress.networks.streamed.blank_network import slots
from rmt_compress.saving.library_conversions import conversions
from rmt_compress.saving.library_loading import fits_by_name
from rmt_compress.wording import listed, problems_listed, times

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.layers.layer import Layer
    from rmt_compress.networks.streamed.blank_network import Slot
    from rmt_compress.saving.library_conversions import Made


class StoredWeights:
    """The weights of a blank network, read from its files where they are needed and given up behind.

    Args:
        model: the blank network.
        checkpoint: its weights.
        layers: of the network.

    Attributes:
        names: what the tensors of the file are called in the network.

    Raises:
        CheckpointError: they are not those of the network, or nobody tells how the library that built it makes
            them of the file's.
    """

    def __init__(self, model: nn.Module, checkpoint: Checkpoint, layers: Iterable[Layer]) -> None:
        self._model = model
        self._files = DenseView(checkpoint)
        self._made: Mapping[str, Made] = {}
        self.names = self._named(checkpoint, layers)
        self._names: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self._names.setdefault(id(parameter), []).append(name)
        self._paths = {module: path for path, module in model.named_modules()}
        self._blanks = {slot: slot[0]._parameters[slot[1]] for slot in slots(model)}
        self._check(checkpoint)
        buffers = {name for name, _ in model.named_buffers()} & {*model.state_dict()}
        for name in self._files.tensors:
            if (own := self.names.in_network(name)) in buffers:
                model.get_buffer(own).copy_(self._files.read(name))

    def _named(self, checkpoint: Checkpoint, layers: Iterable[Layer]) -> FileNames:
        if not hasattr(self._model, "from_pretrained") or fits_by_name(checkpoint, self._model):
            return SAME_NAMES
        converted = conversions(checkpoint, self._model)
        buffers = {name for name, _ in self._model.named_buffers()}
        if converted is None or buffers & converted.made.keys():
            raise CheckpointError(
                f"{checkpoint.path}: nobody tells which rows and columns of its tensors the weights of "
                f"{type(self._model).__name__} are, so that it is not run block after block; give more memory"
            )
        self._made = converted.made
        renamed = {old: new for old, new in converted.names.items() if old != new}
        joined = frozenset(piece.name for made in self._made.values() for piece in made.pieces)
        return FileNames(renamed, joined, shares(converted, layers))

    def _check(self, checkpoint: Checkpoint) -> None:
        tensors = self._files.tensors
        problems = []
        for parameter in {id(blank): blank for blank in self._blanks.values()}.values():
            names = self._names[id(parameter)]
            if any(name in self._made for name in names):
                continue
            stored = self._stored(names)
            assert parameter is not None
            if stored is None:
                problems.append(f"the file lacks {names[0]}")
            elif tensors[stored].shape != tuple(parameter.shape):
                given, wanted = times(tensors[stored].shape), times(parameter.shape)
                problems.append(f"{stored} is {given} in the file, {wanted} in the network")
        own = {*self._model.state_dict(), *(name for name, _ in self._model.named_buffers())}
        placed = own | self.names.placeless
        if strange := [name for name in tensors if self.names.in_network(name) not in placed]:
            problems.append(f"the network has no {listed(strange, 3)}")
        if problems:
            raise CheckpointError(
                f"{checkpoint.path}: its weights are not those of {type(self._model).__name__}: "
                f"{problems_listed(problems, 6)}"
            )

    def _stored(self, names: list[str]) -> str | None:
        stored = map(self.names.in_file, names)
        return next((name for name in stored if name in self._files.tensors), None)

    def bytes(self, slots_: list[Slot]) -> int:
        """What the weights in these places take in memory, a shared one once."""
        held = {id(blank): blank for slot in slots_ if (blank := self._blanks[slot]) is not None}
        return sum(blank.numel() * blank.element_size() for blank in held.values())

    def places(self, block: str) -> list[Slot]:
        """The places of the parameters in a block."""
        return [slot for slot in self._blanks if inside(self._paths[slot[0]], block)]

    def beside(self, blocks: tuple[str, ...]) -> list[Slot]:
        """The places of the parameters that are in none of these blocks."""
        there = {slot for block in blocks for slot in self.places(block)}
        return [slot for slot in self._blanks if slot not in there]

    def read(self, slots_: list[Slot]) -> None:
        """Put the weights of the files into these places."""
        values: dict[int, nn.Parameter] = {}
        for module, name in slots_:
            blank = self._blanks[module, name]
            assert blank is not None
            if id(blank) not in values:
                values[id(blank)] = nn.Parameter(self._value(blank), requires_grad=False)
            module._parameters[name] = values[id(blank)]

    def _value(self, blank: nn.Parameter) -> torch.Tensor:
        names = self._names[id(blank)]
        made = next((self._made[name] for name in names if name in self._made), None)
        if made is not None:
            return made.put_together(blank.shape, blank.dtype, self._files.read)
        stored = self._stored(names)
        assert stored is not None
        return self._files.read(stored).to(blank.dtype)

    @contextmanager
    def in_memory(self, block: str) -> Iterator[None]:
        """The weights of a block are in memory."""
        held = self.places(block)
        self.read(held)
        try:
            yield
        finally:
            for module, name in held:
                module._parameters[name] = self._blanks[module, name]
