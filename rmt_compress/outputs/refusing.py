"""Outputs that would destroy something are refused, before any work is done."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from rmt_compress.errors import OutputError


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
