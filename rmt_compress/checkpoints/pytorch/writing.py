"""How a state dict lies in a `torch.save` file that is being written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from rmt_compress.checkpoints.keys import MANIFEST_KEY
from rmt_compress.errors import OutputError
from rmt_compress.wording import printable

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints.manifest import Manifest


class TorchWriter:
    """A state dict held in memory until the end, as torch writes it in one go.

    Args:
        target: the file, for messages.
        file: what is written to.
        carried: what goes beside the state dict and the manifest.
    """

    def __init__(self, target: Path, file: BinaryIO, carried: Mapping[str, Any] | None = None) -> None:
        self._carried = dict(carried or {})
        self._target = target
        self._file = file
        self._state: dict[str, torch.Tensor] = {}

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Remember one tensor; a view gets memory of its own, else the whole it is a part of is saved."""
        import torch

        if tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_nested):
            tensor = tensor.resolve_conj().resolve_neg()
            if tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size():
                tensor = tensor.clone(memory_format=torch.contiguous_format)
        self._state[name] = tensor

    def finish(self, manifest: Manifest | None, metadata: Mapping[str, str], ties: Mapping[str, str]) -> None:
        """Write everything: a plain state dict, or one with the manifest and the metadata beside it."""
        import torch

        self._state.update((other, self._state[kept]) for other, kept in ties.items() if kept in self._state)
        content: dict[str, Any] = self._state
        if manifest is not None:
            content = {
                **self._carried,
                "state_dict": self._state,
                MANIFEST_KEY: manifest.to_json(),
                "metadata": dict(metadata),
            }
        try:
            torch.save(content, self._file)
        except RuntimeError as error:
            # Where the disk is full, torch's own writer complains before the file does.
            reason = error.__context__ if isinstance(error.__context__, OSError) else error
            raise OutputError(f"{self._target}: cannot be written: {printable(str(reason), 200)}") from error

    def close(self) -> None:
        """Let go of the tensors."""
        self._state.clear()
