"""Finished parts of long work, kept in a file as they are done, so that an interrupted run goes on behind them.

A journal begins with a line that says what its entries are of: the files by size and time of change, the settings
and the version of this package. Where one of these is another now, the journal is void and begun anew. Each entry
is

    SHA-256 of what follows but the line breaks, number of bytes, a JSON object, a line break, the bytes, a line
    break

and goes out behind the others. What a killed run has left of an entry fails its SHA-256: it is cut
off, and whatever stands behind it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from rmt_compress.checkpoints.provenance import tool_version
from rmt_compress.checkpoints.recognition import unreadable
from rmt_compress.errors import OutputError, SettingsError
from rmt_compress.wording import counted, listed

if TYPE_CHECKING:
    from rmt_compress.checkpoints.base import Checkpoint

_MAGIC = "rmt_compress_journal"
_LONGEST_LINE = 2**27
_BLOCK = 2**22

Say = Callable[[str], None]
"""Takes a sentence for the user."""


@dataclass(frozen=True)
class Entry:
    """One finished part: a JSON object, and where in the file its bytes are."""

    facts: Mapping[str, Any]
    begin: int
    length: int

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.begin + self.length + 1


class Journal:
    """A file of finished parts; see the module.

    Args:
        path: the file, made where there is none.
        of: what the entries are of, by what a user calls it: plain JSON. The version of this package is added.
        say: told in one sentence why the entries that were there are void, or how many there are.

    Attributes:
        entries: those that were there, and those that have been added.

    Raises:
        OutputError: the file is something else, cannot be written, or another run writes it.
    """

    def __init__(self, path: Path, of: Mapping[str, Any], say: Say) -> None:
        self.path = path
        self._say = say
        of = json.loads(json.dumps({"version of rmt-compress": tool_version(), **of}))
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
        try:
            if _taken(self._handle):
                raise OutputError(f"{path}: another run is writing it; wait for that, or name another file")
            self.entries = self._take_up(of)
        except BaseException:
            # Whoever made a journal closes it; nobody has made this one.
            os.close(self._handle)
            raise

    def _take_up(self, of: Mapping[str, Any]) -> list[Entry]:
        """The entries that hold; what does not is cut off."""
        try:
            with self.path.open("rb") as file:
                first = file.readline(_LONGEST_LINE)
                known = self._known(first)
                changed = [] if known is None else [key for key in {**known, **of} if known.get(key) != of.get(key)]
                if changed:
                    self._say(f"{self.path} is begun anew: the {listed(changed)} changed since")
                elif known is not None:
                    entries = list(_sound(file))
                    self._cut(entries[-1].end if entries else len(first))
                    if entries:
                        self._say(f"{self.path}: {counted(len(entries), 'finished layer')} taken from it")
                    return entries
        except OSError as error:
            raise unreadable(self.path, error) from error
        self._cut(0)
        self._append(json.dumps({_MAGIC: of}).encode() + b"\n")
        return []

    def _known(self, first: bytes) -> dict[str, Any] | None:
        """What the entries are of by the first line; None where that was not written to its end."""
        begun = json.dumps({_MAGIC: {}})[:-2].encode()
        if not first.endswith(b"\n") and (begun.startswith(first) or first.startswith(begun)):
            return None
        try:
            known: dict[str, Any] = dict(json.loads(first)[_MAGIC])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise OutputError(
                f"{self.path}: holds something else than the layers of an interrupted run; name another file"
            ) from None
        return known

    def add(self, facts: Mapping[str, Any], parts: Sequence[memoryview | bytes] = ()) -> None:
        """Keep a finished part: a JSON object, and bytes.

        Raises:
            OutputError: it cannot be written.
        """
        length = sum(memoryview(part).nbytes for part in parts)
        text = json.dumps(facts, default=lambda number: number.item())
        described = f"{length} {text}".encode()
        digest = hashlib.sha256(described)
        for part in parts:
            digest.update(part)
        line = digest.hexdigest().encode() + b" " + described + b"\n"
        begin = os.fstat(self._handle).st_size + len(line)
        pieces = (line, *parts, b"\n")
        # In one write, unless a copy of what is large would be made for that.
        for piece in pieces if length > _BLOCK else (b"".join(pieces),):
            self._append(piece)
        self.entries.append(Entry(json.loads(text), begin, length))

    def bytes_of(self, entry: Entry) -> bytearray:
        """The bytes of an entry."""
        values = bytearray(entry.length)
        try:
            with self.path.open("rb") as file:
                file.seek(entry.begin)
                if file.readinto(values) == entry.length:
                    return values
        except OSError as error:
            raise unreadable(self.path, error) from error
        raise OutputError(f"{self.path}: was cut while it was in use; start again")

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """What goes wrong inside, where entries become what they were, is a fault of theirs.

        Raises:
            OutputError: an entry is whole, and none that this package has written.
        """
        try:
            yield
        except (
            *(ArithmeticError, AttributeError, LookupError, RuntimeError, StopIteration, TypeError, ValueError),
        ) as error:
            raise OutputError(
                f"{self.path}: holds entries that no run has written ({type(error).__name__}); delete it, or name "
                "another file"
            ) from error

    def remove(self) -> None:
        """Delete the file; it is to be closed all the same."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let others have the file."""
        os.close(self._handle)

    def _append(self, data: memoryview | bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._handle, left) :]
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error

    def _cut(self, size: int) -> None:
        try:
            os.truncate(self.path, size)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _sound(file: BinaryIO) -> Iterator[Entry]:
    """The entries from the file's position on, up to the first that is not whole."""
    while line := file.readline(_LONGEST_LINE):
        try:
            digest, length, text = line.removesuffix(b"\n").split(b" ", 2)
            begin, left = file.tell(), int(length)
        except ValueError:
            return
        found = hashlib.sha256(length + b" " + text)
        while left > 0 and (block := file.read(min(left, _BLOCK))):
            found.update(block)
            left -= len(block)
        if left or file.read(1) != b"\n" or found.hexdigest().encode() != digest:
            return
        try:
            facts = json.loads(text)
        except (ValueError, RecursionError):
            return
        if not isinstance(facts, dict):
            return
        yield Entry(facts, begin, int(length))


def _taken(handle: int) -> bool:
    """Lock an open file, unless another process has: True then. Where there are no locks nobody is known to."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def identity_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """What tells a checkpoint from another one, or from itself once it has changed, without reading its values.

    Raises:
        SettingsError: it is in no file.
        CheckpointError: a file is gone.
    """
    if not checkpoint.files:
        raise SettingsError(["resume: what lives in memory alone cannot be told apart; give the path of a file"])
    files = []
    for path in checkpoint.files:
        try:
            status = path.stat()
        except OSError as error:
            raise unreadable(path, error) from error
        files.append([path.name, status.st_size, status.st_mtime_ns])
    outline = [(name, info.shape, info.dtype) for name, info in checkpoint.tensors.items()]
    chosen = repr((outline, checkpoint.home.trail, checkpoint.notes))
    return {"files": files, "tensors": hashlib.sha256(chosen.encode()).hexdigest()}
