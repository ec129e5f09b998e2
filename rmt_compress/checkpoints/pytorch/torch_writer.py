"""How a state dict lies in a `torch.save` file that is being written."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from rmt_compress.checkpoints.contents import Contents, Encoded
from rmt_compress.checkpoints.keys import MANIFEST_KEY
from rmt_compress.checkpoints.pytorch.carrying import loads_as_plain
from rmt_compress.checkpoints.pytorch.own_record import write_record
from rmt_compress.errors import OutputError
from rmt_compress.wording import printable

if TYPE_CHECKING:
    import torch

# What an archive takes beside the values: its pickle's fixed part, and a record's entries and padding.
_ARCHIVE_BYTES = 8192
_RECORD_BYTES = 512


class TorchWriter:
    """A state dict held in memory until the end, as torch writes it in one go; see `StateDictWriter`."""

    def __init__(self, target: Path, contents: Contents) -> None:
        for name, entry in contents.home.extra.items():
            if not loads_as_plain(entry):
                raise OutputError(
                    f"{target}: {printable(name)}, state of a module's own ({type(entry).__name__}), could not be "
                    "loaded again without running code; let its get_extra_state return plain values or tensors, "
                    "and save the source again"
                )
        self._target = target
        self._contents = contents
        self._state: dict[str, torch.Tensor] = {}
        self.room = _ARCHIVE_BYTES + sum(
            info.nbytes + _RECORD_BYTES + 2 * len(info.name.encode()) for info in contents.outline.values()
        )

    def start(self, file: BinaryIO) -> None:
        """Remember the file."""
        self._file = file

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Remember one tensor; a view gets memory of its own, else the whole it is a part of is saved."""
        import torch

        if tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_nested):
            tensor = tensor.resolve_conj().resolve_neg()
            if tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size():
                tensor = tensor.clone(memory_format=torch.contiguous_format)
        self._state[name] = tensor

    def finish(self, encoded: Encoded) -> None:
        """Write everything: a plain state dict, or one with the manifest and the metadata in it or beside it."""
        import torch

        contents, home = self._contents, self._contents.home
        ties = contents.ties.items()
        self._state.update((other, self._state[kept]) for other, kept in ties if kept in self._state)
        prefix = home.prefix if contents.at_home else ""
        state: Any = OrderedDict((prefix + name, entry) for name, entry in {**self._state, **home.extra}.items())
        state._metadata = {
            f"{prefix}{path}".removesuffix("."): dict(noted) for path, noted in home.versions.items()
        }
        content: Mapping[str, Any] = state
        manifest = contents.manifest_text(encoded)
        if manifest is not None and contents.at_home:
            state._metadata[MANIFEST_KEY] = write_record(manifest, contents.metadata, prefix)
            content = _placed(state, home.trail, contents.carried)
        elif manifest is not None:
            content = {
                **contents.carried,
                "state_dict": state,
                MANIFEST_KEY: manifest,
                "metadata": dict(contents.metadata),
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


def _placed(state: Mapping[str, Any], trail: Sequence[str], carried: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is carried, with the state dict in it where the keys lead."""
    if not trail:
        return state
    inner = carried.get(trail[0])
    rest = _placed(state, trail[1:], inner if isinstance(inner, Mapping) else {})
    return {**carried, trail[0]: rest}
