"""Loading a file of `torch.save`: by torch's weights-only reader, without its classes, or, where trusted, run.

The weights-only reader builds tensors and plain containers and nothing else. Where other objects stand beside the
weights, the file is read again by `load_inert`, which leaves them be. Where the weights themselves are in such an
object, it is refused with the names it asks for, unless it is trusted: then its pickle is run, and with it any code
it holds.
"""

from __future__ import annotations

import io
import re
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from rmt_compress.checkpoints.pytorch.inert_files import load_inert
from rmt_compress.checkpoints.pytorch.inert_objects import InertPickleError
from rmt_compress.checkpoints.pytorch.inert_weights import check_size, needs_classes, readied
from rmt_compress.checkpoints.pytorch.pickle_names import names_asked_for
from rmt_compress.checkpoints.pytorch.pickle_work import check_work
from rmt_compress.checkpoints.recognition import signs_of, unreadable
from rmt_compress.errors import CheckpointError, UntrustedError
from rmt_compress.wording import listed, one_line

T = TypeVar("T")

# Magic number, protocol, system, the object, the storages' keys: the pickles of the legacy layout.
_LEGACY_PICKLES = 5

_ADVICE = "where it was made, save the weights alone: torch.save(model.state_dict(), …) or safetensors"
_DAMAGED = "truncated or damaged; download or save it again"

# What torch's weights-only reader says of an instruction that it does not know.
_UNKNOWN = "Unsupported operand"
# And of a function of torch's own that it takes no more, as torch 2.15 takes none that makes nested tensors.
_FORBIDDEN = re.compile(r"Unsupported global: GLOBAL (torch\._utils\.\w+)")


class TorchReader:
    """One file of `torch.save`, to be loaded as often as wanted.

    Args:
        path: the file.
        trust: whether a pickle that needs more than weights-only reading may be run.

    Attributes:
        mapped: whether its values are mapped into memory, not read.
        record_sizes: bytes of its tensor records, by how many there are of each; None in the legacy layout.
        opened: the file's identity before anything was loaded from it.
        inert: whether objects were left unloaded; their tensors have been held against their records already.
        ran_code: whether loading has run the pickle without restriction.

    Raises:
        CheckpointError: a damaged archive, or none of `torch.save`.
    """

    def __init__(self, path: Path, *, trust: bool = False) -> None:
        self.path = path
        self.mapped = signs_of(path).is_zip
        self.trust = trust
        self.record_sizes = check_archive(path) if self.mapped else None
        self.opened = self.identity()
        self.ran_code = False
        self.inert = False
        self._counted = False

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

    def load(self, weights: str | None = None) -> Any:
        """What was saved.

        Args:
            weights: see `open_checkpoint`.

        Raises:
            CheckpointError: damaged, or with weights that need more than weights-only reading, and not trusted.
        """
        if self.path.suffix == ".safetensors":
            # torch.load goes by this suffix.
            raise CheckpointError(f"{self.path}: is a torch.save file in spite of its name; rename it to .pt")
        try:
            if not self._counted:
                self._over_pickles(check_work)
                self._counted = True
            saved = self._load_inert() if self.inert else self._load(weights_only=True)
            check_size(saved)
        except OSError as error:
            raise unreadable(self.path, error) from error
        except InertPickleError as error:
            raise CheckpointError(f"{self.path}: its pickle {error}; {_ADVICE}") from error
        except Exception as error:
            # Whatever a damaged or hostile pickle makes the reader stumble over is the file's doing.
            if not (self._names_asked_for() or _UNKNOWN in str(error) or _FORBIDDEN.search(str(error))):
                raise self._refusal(error) from error
            if (plain := self._without_classes(weights)) is not None:
                return plain
            if not self.trust:
                raise self._refusal(error) from error
            return self._run()
        return saved

    def _without_classes(self, weights: str | None) -> Any | None:
        """What was saved, other objects as `Unloaded`; None where the weights cannot be had like that."""
        try:
            saved = self._load_inert()
        except InertPickleError:
            return None
        self.inert = not needs_classes(saved, weights, str(self.path))
        return saved if self.inert else None

    def _load_inert(self) -> Any:
        saved = load_inert(self.path)
        check_size(saved)
        return readied(saved)

    def _run(self) -> Any:
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
            try:
                return torch.load(str(self.path), map_location="cpu", weights_only=weights_only, mmap=self.mapped)
            except BaseException:
                _forget_sparse_tensors()
                raise

    def _refusal(self, error: Exception) -> CheckpointError:
        """The one line for a file that torch's weights-only reader refused."""
        names = self._names_asked_for() or _FORBIDDEN.findall(str(error))
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
                f"{self.path}: its pickle has an operation that torch.save never writes, or is damaged; if you "
                f"trust it, add --trust, or {_ADVICE}"
            )
        # torch's own message is pages long; what the reader stumbled over follows these words.
        reason = str(error).partition("WeightsUnpickler error:")[2] or str(error)
        line = reason.strip().partition("\n")[0][:200]
        return CheckpointError(f"{self.path}: {_DAMAGED} ({type(error).__name__}{f': {line}' if line else ''})")

    def _names_asked_for(self) -> list[str]:
        try:
            return self._over_pickles(names_asked_for)
        except OSError as error:
            raise unreadable(self.path, error) from error
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError):
            return []

    def _over_pickles(self, look: Callable[[BinaryIO, int], T]) -> T:
        """What `look` finds in the pickle of the archive, or in the several that the legacy layout begins with."""
        if self.mapped:
            with zipfile.ZipFile(self.path) as archive:
                record = next(name for name in archive.namelist() if _record(name) == "data.pkl")
                return look(io.BytesIO(archive.read(record)), 1)
        with self.path.open("rb") as file:
            return look(file, _LEGACY_PICKLES)


def _forget_sparse_tensors() -> None:
    """Empty the list of sparse tensors that torch has yet to look at.

    Those of a file that fails before stay there, and from torch 2.15 on the next file, sound as it may be, is
    refused for them.
    """
    import torch

    for place, name in (
        (torch._utils, "_sparse_tensors_to_validate"),
        (getattr(torch.serialization, "_serialization_tls", None), "sparse_tensors_to_validate"),
    ):
        waiting = getattr(place, name, None)
        if isinstance(waiting, list):
            waiting.clear()


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


def check_archive(path: Path) -> Counter[int]:
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
