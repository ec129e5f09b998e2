"""The processes that read: one that has imported and read all there is, and forks of it that begin from there."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from fuzz.mutating.cases import Case
from fuzz.readers import Reader
from fuzz.seeds import Seed
from rmt_compress.errors import RmtCompressError

BROKEN = 70
"""Exit status of a child in which the fuzzer itself goes wrong."""
# These start threads as they are imported, which no fork has: each child imports them itself.
_THREADED = ("onnxruntime", "pyarrow")


@cache
def import_readers() -> None:
    """The readers' floors, so that what a child imports is what a file has named.

    Libraries that start threads as they are imported are not: a child has none of these threads.
    """
    imported: dict[str, Any] = sys.modules
    for name in _THREADED:
        imported.setdefault(name, None)  # importing it fails
    with suppress(ModuleNotFoundError):
        for name in ("Png", "Tiff", "WebP", "Mpo"):
            importlib.import_module(f"PIL.{name}ImagePlugin")
    for folder in ("checkpoints", "data", "layers", "compression", "saving"):
        package = importlib.import_module(f"rmt_compress.{folder}")
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            with suppress(ModuleNotFoundError):
                importlib.import_module(found.name)


def take_libraries(reader: Reader) -> None:
    """Import what the parent must not, with all of the package that had to do without."""
    for name in reader.threaded:
        if sys.modules.get(name, reader) is None:
            del sys.modules[name]
        importlib.import_module(name)


def in_child(reader: Reader) -> list[Seed]:
    """The seeds, made in a process of its own."""
    ours, theirs = Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        with ending():
            ours.close()
            take_libraries(reader)
            theirs.send(list(reader.seeds()))
    theirs.close()
    seeds: list[Seed] = ours.recv()
    os.waitpid(child, 0)
    return seeds


@contextmanager
def ending() -> Iterator[None]:
    """What a child does, and nothing after it; what goes wrong here is a fault of the fuzzer's, and said."""
    status = 0
    try:
        yield
    # Nothing may leave a fork, which would go on as its parent does.
    except BaseException:
        traceback.print_exc()
        status = BROKEN
    finally:
        sys.stderr.flush()
        os._exit(status)


def warm(reader: Reader, seeds: list[Seed], root: Path) -> None:
    """Read the whole files, so that what is imported and remembered on first use is there."""
    for case, entry in seeds:
        write(case, root / "warm")
        with suppress(RmtCompressError):
            reader.read(root / "warm" / entry if entry else root / "warm")


def write(case: Case, folder: Path) -> None:
    """Put the files of a case into a folder, in place of those of another."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()
    for name, content in case.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
