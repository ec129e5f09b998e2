"""Output files: refused where they would destroy something, written beside the target and renamed into place.

The hidden file that is written is locked as long as its writer lives: however that ends, the system takes the lock
off. One that nobody has locked is what a killed run has left, and goes when the same target is written again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rmt_compress.errors import OutputError

# Bytes; file systems take 255, and to the hidden file's name a suffix and a dozen letters are added.
_LONG_NAME = 200
_SHORT_NAME = 120

_ASIDE = ".old"
_RENAME_EXCHANGE = 2


def check_output(target: Path, *, force: bool, inputs: tuple[Path, ...] = ()) -> None:
    """Refuse an output that would overwrite an input, or an existing file unless forced.

    To be called before any work is done.
    """
    _check_name(target)
    for source in inputs:
        if target.exists() and source.exists() and target.samefile(source):
            raise OutputError(f"{target}: the output is the input; give another name")
    if target.is_dir():
        raise OutputError(f"{target}: is a folder; give a file name")
    if target.exists() and not force:
        raise OutputError(f"{target}: exists already; choose another name or add --force")
    if not target.parent.is_dir():
        raise OutputError(f"{target}: the folder {target.parent} does not exist; make it first")
    if not os.access(target.parent, os.W_OK):
        raise OutputError(f"{target}: the folder {target.parent} is not writable")


def check_output_folder(target: Path, *, force: bool) -> None:
    """Refuse a folder of outputs that is a file, or that holds something already unless forced."""
    _check_name(target)
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target}: is a file; give the name of a folder")
    if target.is_dir() and not force and any(target.iterdir()):
        raise OutputError(f"{target}: the folder is not empty; choose another or add --force")


def check_new_folder(target: Path, *, force: bool, known_by: str, keep: tuple[Path, ...]) -> None:
    """Refuse a folder to be made in one piece where it would destroy something.

    Args:
        target: the folder.
        force: whether one that is there may be replaced; an empty one always may.
        known_by: a file without which a folder is never replaced, forced or not.
        keep: folders that must neither be the target nor lie in it, nor hold it.
    """
    _check_name(target)
    here = target.resolve()
    for folder in keep:
        other = folder.resolve()
        if here == other:
            raise OutputError(f"{target}: the output is the input; give another name")
        if here in other.parents or other in here.parents:
            raise OutputError(f"{target}: one of output and input lies in the other; give another name")
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target}: is a file; give the name of a folder")
    if target.is_dir() and any(target.iterdir()):
        if not force:
            raise OutputError(f"{target}: the folder is not empty; choose another or add --force")
        if target.is_symlink() or not (target / known_by).is_file():
            raise OutputError(
                f"{target}: holds no {known_by} and is not replaced, even with --force; delete it first"
            )
    if not target.parent.is_dir():
        raise OutputError(f"{target}: the folder {target.parent} does not exist; make it first")
    if not os.access(target.parent, os.W_OK):
        raise OutputError(f"{target}: the folder {target.parent} is not writable")


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` to write to; put in its place when the block ends well, removed when it does not.

    A folder that is there changes places with it in one step where the system can do that (Linux), and is removed
    then. Elsewhere it is set aside first, put back if the renaming fails, and removed in the end; where a kill came
    between the two, the next run puts it back.
    """
    try:
        _remove_leftover_folders(target)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=_hidden(target)))
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror}") from error
    aside = temporary.with_name(temporary.name + _ASIDE)
    with _locked_folder(temporary):
        try:
            yield temporary
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o777 & ~mask)
            if target.is_symlink() or not (target.exists() and _exchange(temporary, target)):
                _put_in_place(temporary, target, aside)
        except OSError as error:
            raise OutputError(f"{target}: cannot be written: {error.strerror or error}") from error
        finally:
            _remove(temporary)
            _remove(aside)


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
    """Let two folders change places in one step; False where the system cannot."""
    if sys.platform != "linux":
        return False
    import ctypes

    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # a C library older than 2018
        return False
    here = -100  # AT_FDCWD
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE)) == 0)


def _remove(folder: Path) -> None:
    """Remove a folder, or the link to one."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """Show other processes that somebody writes to a folder."""
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(handle)
        yield
    finally:
        os.close(handle)


def _remove_leftover_folders(target: Path) -> None:
    """Remove what killed runs of this user have left of a folder, and put back what they had set aside."""
    if sys.platform == "win32" or not target.parent.is_dir():
        return
    leftover = re.compile(rf"{re.escape(_hidden(target))}[a-z0-9_]{{8}}({re.escape(_ASIDE)})?")
    found = sorted(path for path in target.parent.iterdir() if leftover.fullmatch(path.name))
    for path in found:
        aside = path.with_name(path.name.removesuffix(_ASIDE) + _ASIDE)
        if path == aside and aside.with_name(aside.name.removesuffix(_ASIDE)) in found:
            continue  # goes with the folder that it was set aside for
        with suppress(OSError):  # no folder, another user's, or gone meanwhile
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if not _lock(handle):
                    continue
                if aside.is_dir() and not target.exists():
                    aside.rename(target)
                _remove(aside)
                _remove(path)
            finally:
                os.close(handle)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path beside `target` to write to; renamed onto it when the block ends well, removed when it does not."""
    try:
        remove_leftovers(target)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=_hidden(target), suffix=target.suffix)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror}") from error
    temporary = Path(name)
    locked = os.fdopen(handle)
    try:
        if not _lock(handle):
            locked.close()  # where there are no locks, an open file may be one that cannot be renamed
        yield temporary
        # mkstemp makes files for their owner alone; an output gets what the umask grants any new file.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        locked.close()
        with suppress(OSError):  # renamed, or on a disk that fails: the next run removes it
            temporary.unlink()


def _check_name(target: Path) -> None:
    """Refuse a name that the file system does not take.

    Raises:
        OutputError: saying how long it is.
    """
    try:
        target.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            length = len(os.fsencode(target.name))
            raise OutputError(
                f"{target}: the name is too long for this file system, {length} bytes; give a shorter one (-o)"
            ) from error


def _hidden(target: Path) -> str:
    """What the hidden files for `target` begin with; a long name shortened, since more follows."""
    name = target.name
    if len(os.fsencode(name)) > _LONG_NAME:
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
        name = os.fsencode(name)[:_SHORT_NAME].decode("utf-8", "ignore") + f"-{digest}"
    return f".{name}."


def remove_leftovers(target: Path) -> None:
    """Remove what killed runs of this user have left of `target`."""
    leftover = re.compile(rf"{re.escape(_hidden(target))}[a-z0-9_]{{8}}{re.escape(target.suffix)}")
    for path in target.parent.iterdir():
        if leftover.fullmatch(path.name) is None:
            continue
        with suppress(OSError):  # another user's, or gone meanwhile
            handle = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
            try:
                if _lock(handle):
                    path.unlink()
            finally:
                os.close(handle)


def _lock(handle: int) -> bool:
    """Lock an open file unless another process has; False where it has, and where there are no such locks."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # also on file systems without locks
        return False
    return True
