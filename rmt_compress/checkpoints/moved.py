"""A checkpoint whose tensors are read onto another device than they are on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmt_compress.checkpoints.base import View
from rmt_compress.decomposition.devices import decomposing_device, sent

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.layers.layer import Layer, TensorInfo


def moved(checkpoint: Checkpoint, device: str | torch.device | None) -> Checkpoint:
    """The checkpoint as it is read onto a device; itself for None, and of a file for the CPU.

    Raises:
        SettingsError: there is no such device, or it cannot decompose.
    """
    if device is None or (str(device) == "cpu" and checkpoint.path is not None):
        return checkpoint
    return Moved(checkpoint, decomposing_device(device))


def on_cpu(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint as it is read onto the CPU, wherever its tensors are or would be moved to."""
    return moved(checkpoint.inner if isinstance(checkpoint, Moved) else checkpoint, "cpu")


class Moved(View):
    """A checkpoint whose tensors are on a device once they are read; nothing of it is kept there.

    Args:
        inner: the checkpoint, which stays as it is.
        device: where its tensors are read to, see `decomposing_device`.
    """

    def __init__(self, inner: Checkpoint, device: torch.device) -> None:
        super().__init__(inner)
        self.device = device

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Those of the checkpoint."""
        return self.inner.tensors

    @property
    def ties(self) -> Mapping[str, tuple[str, ...]]:
        """Those of the checkpoint."""
        return self.inner.ties

    def layers(self) -> tuple[Layer, ...]:
        """Those of the checkpoint, as its own kind tells them."""
        return self.inner.layers()

    def read(self, name: str) -> torch.Tensor:
        """See `Checkpoint.read`; a tensor that is on the device already is handed out as it is."""
        return sent(self.inner.read(name), self.device)

    def place(self, name: str) -> str:
        """The device."""
        del name
        return str(self.device)
