"""Files of `torch.save`: the zip layout, memory-mapped, and the legacy layout, read whole.

Pickles are run by torch's weights-only reader alone, which builds tensors and plain containers and nothing
else.
"""

from __future__ import annotations

import io
import threading
import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rmt_compress.checkpoints.base import MANIFEST_KEY, Checkpoint
from rmt_compress.checkpoints.pickle_names import names_asked_for
from rmt_compress.checkpoints.recognition import unreadable
from rmt_compress.checkpoints.state_dicts import (
    common_prefix,
    describe,
    find_state_dict,
    find_ties,
    is_expanded,
)
from rmt_compress.errors import CheckpointError, printable

if TYPE_CHECKING:
    import torch

# Pages of a mapped file stay resident once touched: after this many bytes the mapping is dropped and made
# anew.
_MAX_TOUCHED = 128 * 2**20

# Magic number, protocol, system, the object, the storages' keys: the pickles of the legacy layout.
_LEGACY_PICKLES = 5

_ADVICE = "where it was made, save the weights alone: torch.save(model.state_dict(), …) or safetensors"
_DAMAGED = "truncated or damaged; download or save it again"


class TorchFile(Checkpoint):
    """One file of `torch.save`: a state dict, or a training checkpoint that holds one.

    Tensors that share storage, offset, shape and stride are tied. `metadata` holds the text entries beside
    the state dict, those of a mapping called ``metadata`` among them.

    Args:
        path: the file.
        layout: ``torch-zip`` or ``torch-legacy``, as told by `recognize`.
        strip_prefixes: whether to take ``module.`` and ``_orig_mod.`` off names that all have them.

    Raises:
        CheckpointError: damaged, in need of more than weights-only reading, or without a state dict.
    """

    def __init__(
        self, path: Path, layout: Literal["torch-zip", "torch-legacy"], *, strip_prefixes: bool = True
    ) -> None:
        self.path: Path = path
        self.format = "PyTorch (zip)" if layout == "torch-zip" else "PyTorch (legacy)"
        self._mapped = layout == "torch-zip"
        self._lock = threading.Lock()
        self._touched = 0
        record_sizes = _check_archive(path) if self._mapped else None
        self._identity = self._stat()
        saved = self._load()
        found = find_state_dict(saved, str(path))
        if record_sizes is not None:
            _check_storages(found.tensors, record_sizes, path)
        self._trail = found.trail
        self.metadata = _texts(saved) if found.trail else {}
        compressed = MANIFEST_KEY in self.metadata
        # What this package wrote has its prefixes taken off, or means them.
        self._prefix = common_prefix(list(found.tensors)) if strip_prefixes and not compressed else ""
        shown = {name.removeprefix(self._prefix): tensor for name, tensor in found.tensors.items()}
        self._tensors = {name: describe(name, tensor) for name, tensor in shown.items()}
        self._ties = find_ties(shown)
        stripped = (f"Took {self._prefix!r} off every name.",) if self._prefix else ()
        self.notes = () if compressed else tuple(map(printable, (*found.notes, *stripped)))
        self._state: Mapping[str, torch.Tensor] | None = found.tensors

    def read(self, name: str) -> torch.Tensor:
        """A copy of the tensor called `name`, on the CPU; sparse and quantized ones as they are.

        Raises:
            CheckpointError: no such tensor, one without values, or the file changed since it was opened.
        """
        info = self._info(name)
        with self._lock:
            if self._stat() != self._identity:
                raise CheckpointError(f"{self.path}: changed while it was being read; start again")
            if self._state is None:
                self._state = self._reload()
            tensor = self._state[self._prefix + name].detach()
            if tensor.is_meta:
                raise CheckpointError(f"{self.path}: {name} was saved without values (meta device)")
            # A dense copy of an expanded view could be of any size.
            copy = tensor if is_expanded(tensor) else tensor.clone()
            self._touched += info.nbytes
            if self._mapped and self._touched > _MAX_TOUCHED:
                self._drop()
        return copy

    def close(self) -> None:
        """Give back the mapping, or the memory of the legacy layout."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        self._state = None
        self._touched = 0

    def _reload(self) -> Mapping[str, torch.Tensor]:
        state: Any = self._load()
        for key in self._trail:
            state = state[key]
        return state  # type: ignore[no-any-return]

    def _stat(self) -> tuple[int, int, int]:
        try:
            status = self.path.stat()
        except OSError as error:
            raise unreadable(self.path, error) from error
        return status.st_size, status.st_mtime_ns, status.st_ino

    def _load(self) -> Any:  # noqa: ANN401
        """What was saved, as torch's weights-only reader gives it."""
        import torch

        if self.path.suffix == ".safetensors":
            # torch.load goes by this suffix.
            raise CheckpointError(f"{self.path}: is a torch.save file in spite of its name; rename it to .pt")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return torch.load(str(self.path), map_location="cpu", weights_only=True, mmap=self._mapped)
        except OSError as error:
            raise unreadable(self.path, error) from error
        except Exception as error:
            # Whatever a damaged or hostile pickle makes the reader stumble over is the file's doing.
            raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> CheckpointError:
        """The one line for a file that torch's weights-only reader refused."""
        names = self._names_asked_for()
        if names:
            listed = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
            modules = any(name.startswith("torch.nn.modules.") for name in names)
            what = "holds a whole pickled model" if modules else "holds more than tensors"
            return CheckpointError(
                f"{self.path}: {what}: it asks for {listed}. It was not run, as a pickle can execute code; "
                f"{_ADVICE}"
            )
        if "Unsupported operand" in str(error):
            return CheckpointError(
                f"{self.path}: its pickle has an operation torch's weights-only reader does not know: saved "
                f"with a pickle_protocol other than 2, or damaged; {_ADVICE}"
            )
        # torch's own message is pages long; what the reader stumbled over follows these words.
        reason = str(error).partition("WeightsUnpickler error:")[2] or str(error)
        line = reason.strip().partition("\n")[0][:200]
        return CheckpointError(f"{self.path}: {_DAMAGED} ({type(error).__name__}{f': {line}' if line else ''})")

    def _names_asked_for(self) -> list[str]:
        try:
            if self._mapped:
                with zipfile.ZipFile(self.path) as archive:
                    record = next(name for name in archive.namelist() if _record(name) == "data.pkl")
                    return names_asked_for(io.BytesIO(archive.read(record)))
            with self.path.open("rb") as file:
                return names_asked_for(file, _LEGACY_PICKLES)
        except OSError as error:
            raise unreadable(self.path, error) from error
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError):
            return []


def _record(name: str) -> str:
    """Name of a record of the archive without the folder that all of them are in."""
    return name.partition("/")[2]


def _check_archive(path: Path) -> Counter[int]:
    """Sizes in bytes of the archive's tensor records, once it is known to be one of `torch.save`.

    Raises:
        CheckpointError: damaged, another kind of zip file, or one whose records are not stored as they are.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except OSError as error:
        raise unreadable(path, error) from error
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise CheckpointError(f"{path}: {_DAMAGED} ({error})") from error
    names = {entry.filename for entry in entries}
    records = {_record(name) for name in names}
    if "data.pkl" not in records:
        raise CheckpointError(f"{path}: {_other_archive(names)}; {_ADVICE}")
    if "constants.pkl" in records:
        raise CheckpointError(
            f"{path}: is a TorchScript archive, not supported yet; save its weights: "
            "torch.save(torch.jit.load(…).state_dict(), …)"
        )
    if len(names) < len(entries):
        raise CheckpointError(f"{path}: holds two records of one name, as torch.save never writes; not read")
    size = path.stat().st_size
    # torch.save stores without compression. What is compressed could unpack to any size.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(f"{path}: a compressed archive, as torch.save never writes; not unpacked; {_ADVICE}")
    if any(entry.header_offset + entry.file_size > size for entry in entries):
        raise CheckpointError(f"{path}: {_DAMAGED} (a record larger than the file's {size} bytes)")
    return Counter(entry.file_size for entry in entries if _record(entry.filename).startswith("data/"))


def _other_archive(names: set[str]) -> str:
    if any(name.endswith(".npy") for name in names):
        return "is a NumPy archive (.npz)"
    if any(name.endswith("model.weights.h5") for name in names):
        return "is a Keras model"
    if any(name.endswith("archive_format") for name in names):
        return "is a torch.export archive, not supported yet"
    return "is a zip archive, but none of torch.save (no data.pkl in it)"


def _check_storages(tensors: Mapping[str, torch.Tensor], record_sizes: Counter[int], path: Path) -> None:
    """Every storage must be as large as a record of the archive: no pickle may claim more than is stored."""
    import torch

    storages = {}
    for name, tensor in tensors.items():
        if tensor.layout == torch.strided and not (tensor.is_meta or tensor.is_nested or tensor.is_quantized):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = (storage.nbytes(), name)
    left = Counter(record_sizes)
    for nbytes, name in storages.values():
        if left[nbytes] == 0 and nbytes > 0:
            raise CheckpointError(
                f"{path}: {name} claims {nbytes} bytes, but the archive has no such record; save it again"
            )
        left[nbytes] -= 1


def _texts(saved: Mapping[Any, Any]) -> dict[str, str]:
    """Text entries of `saved` and of the mapping ``metadata`` in it; those of `saved` itself win."""
    nested = saved.get("metadata")
    entries = [*(nested.items() if isinstance(nested, Mapping) else ()), *saved.items()]
    return {key: text for key, text in entries if isinstance(key, str) and isinstance(text, str)}
