"""What an interrupted calibration leaves in a folder, so that another one goes on with it, bit for bit."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rmt_compress.decomposition.moments import Moments
from rmt_compress.decomposition.moments_file import load_moments, read_tensors, save_moments, write_tensors
from rmt_compress.errors import DataError, OutputError
from rmt_compress.networks.calibration.watchers import states
from rmt_compress.outputs import replacing
from rmt_compress.outputs.leftovers import remove_leftovers

if TYPE_CHECKING:
    from rmt_compress.networks.calibration.watchers import LayerSums

SECONDS = 60.0
"""How often the sums of a block that is being measured are written."""
_DESCRIPTION = "calibration.json"
_SUMS = "sums.safetensors"
_KEY = "rmt_compress_sums"
_ENTRIES = 4096


class Partial:
    """A folder of partial results; none of a user's, a temporary one for moments that do not all fit memory.

    Args:
        folder: where; None for a temporary folder.
        digest: of all that decides the result.

    Attributes:
        folder: where they are.
    """

    def __init__(self, folder: Path | None, digest: str) -> None:
        self.named = folder is not None
        self._digest = digest
        self._written = time.monotonic()
        self.alone: set[str] = set()
        try:
            if folder is None:
                self.folder = Path(tempfile.mkdtemp(prefix="rmt-compress-"))
            else:
                self.folder = folder
                folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: no folder for partial results can be made: {error.strerror}") from error
        self._take_up()

    def inside(self, name: str) -> Partial:
        """Those of a part of the same calibration, in a folder of their own in this one."""
        return Partial(self.folder / name, self._digest)

    def _take_up(self) -> None:
        description = self.folder / _DESCRIPTION
        if not description.exists():
            remove_leftovers(description)  # of a run that was killed as soon as it had made the folder
            if any(self.folder.iterdir()):
                raise OutputError(f"{self.folder}: holds no partial calibration; choose an empty or a new folder")
            self._describe()
            return
        try:
            known = json.loads(description.read_text(encoding="utf-8"))
            digest, self.alone = known["digest"], set(map(str, known["alone"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{description}: damaged; delete the folder and begin again") from error
        if digest != self._digest:
            raise DataError(
                f"{self.folder}: partial results of another network, other inputs or settings; delete the folder, "
                "or choose another"
            )

    def _describe(self) -> None:
        with replacing(self.folder / _DESCRIPTION) as temporary:
            text = json.dumps({"digest": self._digest, "alone": sorted(self.alone)})
            temporary.write_text(text, encoding="utf-8")

    def begin_again(self, alone: set[str]) -> None:
        """Forget what has been measured; the layers called `alone` share nothing."""
        for path in self.folder.glob("*.safetensors"):
            path.unlink()
        self.alone = alone
        self._describe()

    def block(self, number: int) -> Moments | None:
        """The moments of a block that is finished."""
        path = self._block(number)
        return load_moments(path) if path.exists() else None

    def finish(self, number: int, moments: Moments) -> Moments:
        """Keep the moments of a block; what comes back does not take memory of its own."""
        save_moments(moments, self._block(number))
        (self.folder / _SUMS).unlink(missing_ok=True)
        return load_moments(self._block(number))

    def resume(self, block: int, sums: Mapping[str, LayerSums]) -> dict[str, Any] | None:
        """Put what has been summed up of a block into `sums`; how far that was, as `keep` was told, or None."""
        path = self.folder / _SUMS
        if not path.exists():
            return None
        tensors, metadata = read_tensors(path)
        try:
            known = json.loads(metadata[_KEY])
            if known["block"] != block:
                return None
            for key, tensor in states(sums).items():
                tensor.copy_(tensors[key])
            return dict(known["reached"])
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise DataError(f"{path}: damaged; delete it") from error

    def keep(self, block: int, sums: Mapping[str, LayerSums], reached: Mapping[str, Any]) -> None:
        """Write what has been summed up, unless that was done a short time ago."""
        if not self.named or time.monotonic() < self._written + SECONDS:
            return
        tensors = {key: tensor.cpu() for key, tensor in states(sums).items()}
        metadata = {_KEY: json.dumps({"block": block, "reached": dict(reached)})}
        write_tensors(tensors, metadata, self.folder / _SUMS)
        self._written = time.monotonic()

    def remove(self) -> None:
        """Remove the folder; moments that have been read from it stay readable where the system allows.

        By its description a next run knows the folder, so that goes last: a kill may come between.
        """
        with suppress(OSError):
            for path in self.folder.iterdir():
                if path.name != _DESCRIPTION:
                    path.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _block(self, number: int) -> Path:
        return self.folder / f"block-{number}.safetensors"


def digest_of(state: Mapping[str, Any], inputs: Any, settings: Iterable[object]) -> str:
    """What tells calibrations apart: the network, its first inputs, the settings; of every tensor some entries."""
    digest = hashlib.sha256(repr(tuple(settings)).encode())
    for name, value in state.items():
        digest.update(repr(name).encode())
        _enter(digest, value)
    _enter(digest, inputs)
    return digest.hexdigest()


def _enter(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(f"{tuple(value.shape)} {value.dtype}".encode())
        entries = value.detach().reshape(-1)
        entries = entries[:: max(1, len(entries) // _ENTRIES)]
        if entries.is_floating_point():
            entries = entries.double()
        digest.update(repr(entries.cpu().tolist()).encode())
    elif isinstance(value, Mapping):
        for key, held in value.items():
            digest.update(repr(key).encode())
            _enter(digest, held)
    elif isinstance(value, tuple | list):
        for held in value:
            _enter(digest, held)
