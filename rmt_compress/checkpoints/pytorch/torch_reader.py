"""Loading a file of `torch.save`: by torch's weights-only reader, or, where the user trusts it, unrestricted.

The weights-only reader builds tensors and plain containers and nothing else. Whatever needs more is refused with
the names it asks for, unless the file is trusted: then its pickle is run, and with it any code it holds.
"""

from __future__ import annotations

import io
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rmt_compress.checkpoints.pytorch.pickle_names import names_asked_for
from rmt_compress.checkpoints.recognition import signs_of, unreadable
from rmt_compress.errors import CheckpointError, UntrustedError
from rmt_compress.wording import listed, one_line

# Magic number, protocol, system, the object, the storages' keys: the pickles of the legacy layout.
_LEGACY_PICKLES = 5

_ADVICE = "where it was made, save the weights alone: torch.save(model.state_dict(), …) or safetensors"
_DAMAGED = "truncated or damaged; download or save it again"

# What torch's weights-only reader says of an instruction that it does not know.
_UNKNOWN = "Unsupported operand"


class TorchReader:
    """One file of `torch.save`, to be loaded as often as wanted.

    Args:
        path: the file.
        trust: whether a pickle that needs more than weights-only reading may be run.

    Attributes:
        mapped: whether its values are mapped into memory, not read.
        record_sizes: bytes of its tensor records, by how many there are of each; None in the legacy layout.
        opened: the file's identity before anything was loaded from it.
        ran_code: whether loading has run the pickle without restriction.

    Raises:
        CheckpointError: a damaged archive, or none of `torch.save`.
    """

    def __init__(self, path: Path, *, trust: bool = False) -> None:
        self.path = path
        self.mapped = signs_of(path).is_zip
        self.trust = trust
        self.record_sizes = _check_archive(path) if self.mapped else None
        self.opened = self.identity()
        self.ran_code = False

    def identity(self) -> tuple[int, int, int]:
        """What changes when the file is written anew.

        Raises:
            CheckpointError: it is gone.
        """
        try:
            status = self.path.stat()
        except OSError as error:
            raise unreadable(self.path, error) from error
        return status.st_size, status.st_mtime_ns, status.st_ino

    def load(self) -> Any:
        """What was saved.

        Raises:
            CheckpointError: damaged, or in need of more than weights-only reading and not trusted.
        """
        if self.path.suffix == ".safetensors":
            # torch.load goes by this suffix.
            raise CheckpointError(f"{self.path}: is a torch.save file in spite of its name; rename it to .pt")
        try:
            return self._load(weights_only=True)
        except OSError as error:
            raise unreadable(self.path, error) from error
        except Exception as error:
            # Whatever a damaged or hostile pickle makes the reader stumble over is the file's doing.
            if not self.trust or not (self._names_asked_for() or _UNKNOWN in str(error)):
                raise self._refusal(error) from error
        self.ran_code = True
        with _current_folder_importable():
            try:
                return self._load(weights_only=False)
            except Exception as error:
                # What the file's own code raises can be anything.
                raise CheckpointError(
                    f"{self.path}: cannot be loaded, trusted as it is: {one_line(error)[:300]}; run this where the "
                    "classes it names can be imported"
                ) from error

    def _load(self, *, weights_only: bool) -> Any:
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(str(self.path), map_location="cpu", weights_only=weights_only, mmap=self.mapped)

    def _refusal(self, error: Exception) -> CheckpointError:
        """The one line for a file that torch's weights-only reader refused."""
        names = self._names_asked_for()
        if names:
            modules = any(name.startswith("torch.nn.modules.") for name in names)
            what = "holds a whole pickled model" if modules else "holds more than tensors"
            return UntrustedError(
                f"{self.path}: {what}: it asks for {listed(names, 6)}. It was not run, as a pickle can execute "
                "code; "
                f"if you trust it, add --trust (open_checkpoint(…, trust=True)), or {_ADVICE}"
            )
        if _UNKNOWN in str(error):
            return CheckpointError(
                f"{self.path}: its pickle has an operation torch's weights-only reader does not know: saved "
                f"with a pickle_protocol other than 2, or damaged; if you trust it, add --trust, or {_ADVICE}"
            )
        # torch's own message is pages long; what the reader stumbled over follows these words.
        reason = str(error).partition("WeightsUnpickler error:")[2] or str(error)
        line = reason.strip().partition("\n")[0][:200]
        return CheckpointError(f"{self.path}: {_DAMAGED} ({type(error).__name__}{f': {line}' if line else ''})")

    def _names_asked_for(self) -> list[str]:
        try:
            if self.mapped:
                with zipfile.ZipFile(self.path) as archive:
                    record = next(name for name in archive.namelist() if _record(name) == "data.pkl")
                    return names_asked_for(io.BytesIO(archive.read(record)))
            with self.path.open("rb") as file:
                return names_asked_for(file, _LEGACY_PICKLES)
        except OSError as error:
            raise unreadable(self.path, error) from error
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError):
            return []


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """The current folder as the last place modules are looked for, as ``python -m`` has it first."""
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.append(here)
    try:
        yield
    finally:
        if added:
            sys.path.remove(here)


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
    return "is a zip archive, but none of torch.save (no data.pkl in it)"
