"""Output files, written beside the target and renamed into place.

Files that belong together are written first, all of them, and then renamed one right after another.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from rmt_compress.errors import OutputError
from rmt_compress.outputs.leftovers import (
    ASIDE,
    alone_in,
    hidden,
    lock,
    locked_folder,
    remove,
    remove_leftover_folders,
    remove_leftovers,
)
from rmt_compress.undisturbed import undisturbed

_RENAME_EXCHANGE = 2


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` to write to; put in its place when the block ends well, removed when it does not.

    A folder that is there changes places with it in one step where the system can do that (Linux), and is removed
    then. Elsewhere it is set aside first, put back if the renaming fails, and removed in the end; where a kill came
    between the two, the next run puts it back.
    """
    with _tidying() as stack:
        temporary = _hidden_folder(target, stack)
        aside = temporary.with_name(temporary.name + ASIDE)
        stack.callback(_forget, aside, target)
        try:
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            with undisturbed():
                if target.is_symlink() or not (target.exists() and _exchange(temporary, target)):
                    _put_in_place(temporary, target, aside)
        except OSError as error:
            raise OutputError(f"{target}: cannot be written: {error.strerror or error}") from error


@contextmanager
def _tidying() -> Iterator[ExitStack]:
    """What to do in the end: all of it, whatever has gone wrong, and without a signal between."""
    stack = ExitStack()
    try:
        yield stack
    finally:
        with undisturbed():
            stack.close()


def _hidden_folder(target: Path, stack: ExitStack) -> Path:
    """Make a locked folder beside `target`, to be removed in the end.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        remove_leftover_folders(target)
        with undisturbed():
            folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=hidden(target)))
            stack.callback(remove, folder)
            stack.enter_context(locked_folder(folder))
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror}") from error
    return folder


def _forget(aside: Path, target: Path) -> None:
    """Remove a folder that was set aside, unless it is all there is: then the next run puts it back."""
    if target.exists():
        remove(aside)


def _put_in_place(temporary: Path, target: Path, aside: Path) -> None:
    """Rename a folder onto another, which is set `aside`."""
    if target.exists():
        target.rename(aside)
    try:
        temporary.rename(target)
    except OSError:
        if aside.exists():
            aside.rename(target)
        raise


def _exchange(one: Path, other: Path) -> bool:
    """Let two files or folders change places in one step; False where the system cannot."""
    if sys.platform != "linux":
        return False
    import ctypes

    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # a C library older than 2018
        return False
    here = -100  # AT_FDCWD
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE)) == 0)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path beside `target` to write to; renamed onto it when the block ends well, removed when it does not.

    Within `together` it is renamed with the others.
    """
    if (group := _GROUP.get()) is not None:
        with group.written(target) as temporary:
            yield temporary
        return
    with _tidying() as stack:
        try:
            remove_leftovers(target)
            with undisturbed():
                handle, name = tempfile.mkstemp(dir=target.parent, prefix=hidden(target), suffix=target.suffix)
                temporary = Path(name)
                stack.callback(_unlink, temporary)
                locked = stack.enter_context(os.fdopen(handle))
        except OSError as error:
            raise OutputError(f"{target}: cannot be written: {error.strerror}") from error
        try:
            if not lock(handle):
                locked.close()  # where there are no locks, an open file may be one that cannot be renamed
            yield temporary
            # mkstemp makes files for their owner alone; an output gets what the umask grants any new file.
            temporary.chmod(0o666 & ~_umask())
            _sync(temporary)
            temporary.replace(target)
        except OSError as error:
            raise OutputError(f"{target}: cannot be written: {error.strerror or error}") from error


@contextmanager
def together() -> Iterator[None]:
    """Rename what `replacing` writes in this block only when the block has ended well: all of it, or nothing.

    Signals that ask to stop wait until all have their names, and where one cannot have it, the others give theirs
    back (Linux). SIGKILL, or a power cut, between two of the renamings leaves some files new and some as they were,
    each of them whole. A block within another belongs to it.
    """
    if _GROUP.get() is not None:
        yield
        return
    with _tidying() as stack:
        group = _Group(stack)
        token = _GROUP.set(group)
        try:
            yield
        finally:
            _GROUP.reset(token)
        group.put_in_place()


def afterwards(step: Callable[[], None]) -> None:
    """Have a quick step done when all files of the block of `together` have their names.

    No other run renames such files in the same folders meanwhile (where the system has locks), and no signal comes.
    """
    group = _GROUP.get()
    assert group is not None, "there is no block of together"
    group.afterwards.append(step)


def make_folder(folder: Path) -> None:
    """Make a folder for outputs if it is not there; within `together` it goes again where nothing comes into it.

    Raises:
        OutputError: it cannot be made.
    """
    new = not folder.is_dir()
    with undisturbed():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: cannot make this folder: {error.strerror}") from error
        if new and (group := _GROUP.get()) is not None:
            group.made(folder)


class _Group:
    """Files that are written into a hidden folder beside their places, however many they are.

    Args:
        stack: what is to be removed in the end.

    Attributes:
        afterwards: what is done when all have their names, before any other run renames in their folders.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._folders: dict[Path, Path] = {}
        self._ready: list[tuple[Path, Path]] = []
        self.afterwards: list[Callable[[], None]] = []

    def made(self, folder: Path) -> None:
        """A folder was made for some of them."""
        self._stack.callback(_remove_if_empty, folder)

    @contextmanager
    def written(self, target: Path) -> Iterator[Path]:
        """See `replacing`; the path has the name that `target` has, beside the others of its folder."""
        try:
            remove_leftovers(target)
            if target.parent not in self._folders:
                self._folders[target.parent] = _hidden_folder(target, self._stack)
            temporary = self._folders[target.parent] / target.name
            temporary.touch()
            yield temporary
            temporary.chmod(0o666 & ~_umask())
            _sync(temporary)
        except OSError as error:
            raise OutputError(f"{target}: cannot be written: {error.strerror or error}") from error
        self._ready.append((temporary, target))

    def put_in_place(self) -> None:
        """Rename all of them.

        Raises:
            OutputError: one cannot be renamed.
        """
        undo: list[tuple[Path, Path, bool]] = []
        with undisturbed(), alone_in(self._folders):
            for temporary, target in self._ready:
                try:
                    existed = target.is_symlink() or target.is_file()
                    changed = existed and _exchange(temporary, target)
                    if not changed:
                        temporary.replace(target)
                    if changed or not existed:
                        undo.append((temporary, target, changed))
                except OSError as error:
                    for placed, place, exchanged in reversed(undo):
                        with suppress(OSError):
                            if exchanged:
                                _exchange(placed, place)
                            else:
                                place.rename(placed)
                    raise OutputError(f"{target}: cannot be written: {error.strerror or error}") from error
            for step in self.afterwards:
                step()


_GROUP: ContextVar[_Group | None] = ContextVar("_GROUP", default=None)
"""The block of `together` that is open."""


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _unlink(path: Path) -> None:
    """Remove a file, unless it was renamed; one that stays on a disk that fails goes with the next run."""
    with suppress(OSError):
        path.unlink()


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _sync(path: Path) -> None:
    """Wait until a file's content is on the disk."""
    with path.open("rb") as written:
        os.fsync(written.fileno())
