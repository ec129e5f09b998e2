"""What a file of a state dict is to hold, and what the writer of a format does with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol

from rmt_compress.checkpoints.beside import Home
from rmt_compress.layers.layer import TensorInfo

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints.manifest import Manifest


class Encoded(NamedTuple):
    """Which tensors are stored in several parts, under the names these lists have in a manifest."""

    sparse: tuple[str, ...] = ()
    pivots: tuple[str, ...] = ()
    patterned: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contents:
    """Everything but the values.

    Attributes:
        outline: the tensors that will come, by name; of a shared one its first name only.
        ties: other name -> the name a shared tensor is stored under.
        metadata: text entries.
        carried: what else, by top-level key; see `Format.has_room`.
        manifest: stored with the tensors; None for a plain file.
        sparse: whether tensors may come as bitmask and values.
        packed: names of those that may come without their rows of the identity.
        patterned: names of those that may come as the kept entries of their groups.
        home: where the tensors stood, and what belongs to them without being a tensor.
    """

    outline: Mapping[str, TensorInfo]
    ties: Mapping[str, str]
    metadata: Mapping[str, str]
    carried: Mapping[str, Any]
    manifest: Manifest | None
    sparse: bool
    packed: frozenset[str] = frozenset()
    patterned: frozenset[str] = frozenset()
    home: Home = field(default_factory=Home)

    @property
    def at_home(self) -> bool:
        """Whether the tensors go where they stood under the names they had: what reads the original reads them."""
        return self.manifest is not None and self.manifest.layout == "dense"

    def manifest_text(self, encoded: Encoded) -> str | None:
        """The manifest, with the names of the tensors that are stored otherwise; None for a plain file."""
        if self.manifest is None:
            return None
        return self.manifest.model_copy(update=encoded._asdict()).to_json()


class StateDictWriter(Protocol):
    """How a format lays out tensors that come one by one; made with the target, for messages, and its contents.

    Where the format cannot hold something or the file cannot be written, an `OutputError` is raised. `room` is how
    many bytes the file, and what is written on the way to it, take at most.
    """

    room: int

    def start(self, file: BinaryIO) -> None:
        """Begin an empty file."""

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Write one tensor, or remember it."""

    def finish(self, encoded: Encoded) -> None:
        """Write what is left; `encoded` are the tensors that came in parts."""

    def close(self) -> None:
        """Give back memory and temporary files."""
