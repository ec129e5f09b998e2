"""A canary in the process: an audit hook (PEP 578) that notes what no reader may do.

It sees what Python does: imports, code that is run, processes, sockets, and files that are opened by
Python for writing, renamed or removed. Files that libraries open in C++ or Rust it does not see.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_NEVER = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.startfile", "pty.spawn"),
    *("subprocess.Popen", "webbrowser.open", "urllib.Request"),
    *("code.__new__", "function.__new__", "os.kill", "signal.pthread_kill"),
)
_WRITES = {
    **dict.fromkeys(("os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "os.chown", "os.utime"), 1),
    **dict.fromkeys(("os.rename", "os.link", "os.symlink"), 2),
    **dict.fromkeys(("shutil.rmtree",), 1),
}
# What these import of themselves when it is first used is no name of a file's.
_OWN = ("encodings", "torch", "rmt_compress")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Canary:
    """What has happened in this process that must not.

    Attributes:
        seen: one line each, in order.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._writable: tuple[str, ...] = ()
        self._forbidden: str | None = None
        self._imports = False
        self._opened_last = ""
        self._on = False
        self._installed = False

    @contextmanager
    def watching(
        self, *writable: Path, forbidden: Path | None = None, imports: bool = False
    ) -> Iterator[list[str]]:
        """Note everything that happens inside of the block.

        Args:
            writable: folders in which files may be made, changed and removed.
            forbidden: a file that lies outside and must not even be read.
            imports: whether modules that are there may be imported; the module ``canary_module`` never.

        A hook cannot be taken away again; outside of blocks it only returns.
        """
        if not self._installed:
            sys.addaudithook(self._hear)
            self._installed = True
        self._writable = tuple(os.path.realpath(folder) + os.sep for folder in writable)
        self._forbidden = None if forbidden is None else os.path.realpath(forbidden)
        self._imports = imports
        self.seen = []
        self._opened_last = ""
        self._on = True
        try:
            yield self.seen
        finally:
            self._on = False

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        # What is called here is heard as well.
        self._on = False
        try:
            if (said := self._judge(event, arguments)) is not None:
                self.seen.append(said)
        finally:
            self._on = True

    def _judge(self, event: str, arguments: tuple[Any, ...]) -> str | None:
        if event == "import":
            name = str(arguments[0])
            root, _, rest = name.partition(".")
            fine = (rest and root in _OWN) or (self._imports and root != "canary_module")
            return None if fine else f"import {name}"
        if event == "open":
            return self._opened(*arguments)
        if event in ("exec", "marshal.loads"):
            own = self._imports or any(f"{os.sep}{name}{os.sep}" in self._opened_last for name in _OWN)
            return None if own else self._run(event, arguments[0])
        if event in _WRITES:
            paths = [path for path in arguments[: _WRITES[event]] if not self._inside(path)]
            return f"{event} {paths[0]}" if paths else None
        if event == "ctypes.dlopen":
            # Libraries that are loaded already are asked for their number of threads.
            library = str(arguments[0])
            return None if library.startswith(sys.prefix) or self._imports else f"{event} {library}"
        if event in _NEVER or event.startswith("socket."):
            return f"{event} {str(arguments)[:80]}"
        return None

    def _opened(self, path: Any, mode: Any, flags: Any) -> str | None:
        if not isinstance(path, str | bytes):
            return None
        if not flags or not isinstance(flags, int) or not flags & _WRITING:
            self._opened_last = os.fsdecode(path)
        real = os.path.realpath(os.fsdecode(path)) if b"\0" not in os.fsencode(path) else ""
        if real == self._forbidden:
            return f"open {real}"
        writes = isinstance(flags, int) and flags & _WRITING
        return f"open {real} for writing" if writes and real != os.devnull and not self._inside(path) else None

    def _inside(self, path: Any) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        return (os.path.realpath(os.fsdecode(path)) + os.sep).startswith(self._writable)

    def _run(self, event: str, code: Any) -> str | None:
        where = getattr(code, "co_filename", "") if event == "exec" else ""
        # Code of a module that is there already, such as what dataclasses and named tuples are made by.
        return None if Path(where).is_file() else f"{event} of {str(code)[:60]!r}"


CANARY = Canary()
