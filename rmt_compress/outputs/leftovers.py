"""What is written beside an output before it takes its name: hidden, and locked as long as its writer lives.

However the writer ends, the system takes the lock off. What nobody has locked is what a killed run has left, and
goes when the same target is written again.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

# Bytes; file systems take 255, and to the hidden file's name a suffix and a dozen letters are added.
_LONG_NAME = 200
_SHORT_NAME = 120

# Others rename in milliseconds; who holds a folder for longer holds it for something else.
_TRIES, _PAUSE = 400, 0.005

ASIDE = ".old"
"""What the name of a folder ends with that is set aside for another."""


def hidden(target: Path) -> str:
    """What the hidden files for `target` begin with; a long name shortened, since more follows."""
    name = target.name
    if len(os.fsencode(name)) > _LONG_NAME:
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
        name = os.fsencode(name)[:_SHORT_NAME].decode("utf-8", "ignore") + f"-{digest}"
    return f".{name}."


def remove_leftovers(target: Path) -> None:
    """Remove what killed runs of this user have left of `target`."""
    leftover = re.compile(rf"{re.escape(hidden(target))}[a-z0-9_]{{8}}{re.escape(target.suffix)}")
    for path in target.parent.iterdir():
        if leftover.fullmatch(path.name) is None:
            continue
        with suppress(OSError):  # another user's, or gone meanwhile
            handle = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
            try:
                if lock(handle):
                    path.unlink()
            finally:
                os.close(handle)


def remove_leftover_folders(target: Path) -> None:
    """Remove what killed runs of this user have left of a folder, and put back what they had set aside."""
    if sys.platform == "win32" or not target.parent.is_dir():
        return
    leftover = re.compile(rf"{re.escape(hidden(target))}[a-z0-9_]{{8}}({re.escape(ASIDE)})?")
    found = sorted(path for path in target.parent.iterdir() if leftover.fullmatch(path.name))
    for path in found:
        aside = path.with_name(path.name.removesuffix(ASIDE) + ASIDE)
        if path == aside and aside.with_name(aside.name.removesuffix(ASIDE)) in found:
            continue  # goes with the folder that it was set aside for
        with suppress(OSError):  # no folder, another user's, or gone meanwhile
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if not lock(handle):
                    continue
                if aside.is_dir() and not target.exists():
                    aside.rename(target)
                remove(aside)
                remove(path)
            finally:
                os.close(handle)


def remove(folder: Path) -> None:
    """Remove a folder, or the link to one."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Show other processes that somebody writes to a folder."""
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        lock(handle)
        yield
    finally:
        os.close(handle)


@contextmanager
def alone_in(folders: Iterable[Path]) -> Iterator[None]:
    """Wait until no other process is in such a block with one of these folders, if not for longer than a moment."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with ExitStack() as stack:
        for folder in sorted(folders):
            try:
                handle = os.open(folder, os.O_RDONLY)
            except OSError:  # it may be written to, and not be read
                continue
            stack.callback(os.close, handle)
            for _ in range(_TRIES):
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    time.sleep(_PAUSE)
                except OSError:  # there are no locks
                    break
                else:
                    break
        yield


def lock(handle: int) -> bool:
    """Lock an open file unless another process has; False where it has, and where there are no such locks."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # also on file systems without locks
        return False
    return True
