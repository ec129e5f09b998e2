"""A checkpoint whose tensors are read onto other devices than they are on."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from rmt_compress.checkpoints.base import View
from rmt_compress.decomposition.devices import decomposing_devices, sent

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.layers.layer import Layer, TensorInfo


def moved(checkpoint: Checkpoint, device: str | torch.device | None) -> Checkpoint:
    """The checkpoint as it is read onto a device; itself for None, and of a file for the CPU.

    Args:
        checkpoint: the checkpoint.
        device: the name of one; of several, with commas between them, each gets its share of the bytes.

    Raises:
        SettingsError: there is no such device, or it cannot decompose.
    """
    if device is None or (str(device) == "cpu" and checkpoint.path is not None):
        return checkpoint
    return Moved(checkpoint, *decomposing_devices(device))


def on_cpu(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint as it is read onto the CPU, wherever its tensors are or would be moved to."""
    return moved(checkpoint.inner if isinstance(checkpoint, Moved) else checkpoint, "cpu")


class Moved(View):
    """A checkpoint whose tensors are on a device once they are read; nothing of it is kept there.

    Args:
        inner: the checkpoint, which stays as it is.
        devices: where its tensors are read to, see `decomposing_device`: the largest first to the one that has
            the least so far.
    """

    def __init__(self, inner: Checkpoint, *devices: torch.device) -> None:
        super().__init__(inner)
        self.devices = devices

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
        return sent(self.inner.read(name), self._dealt[name])

    def place(self, name: str) -> str:
        """The device of this tensor."""
        return str(self._dealt[name])

    @cached_property
    def _dealt(self) -> dict[str, torch.device]:
        load = dict.fromkeys(self.devices, 0)
        found = {}
        for name, info in sorted(self.tensors.items(), key=lambda item: -item[1].nbytes):
            found[name] = min(load, key=lambda device: load[device])
            load[found[name]] += info.nbytes
        return found
