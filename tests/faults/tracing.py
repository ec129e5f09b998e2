"""One run of the program under strace, which notes its system calls, or lets one of them fail or kill."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.samples.fork_server import ForkServer, Process

# The program stops itself; strace takes hold of it, and then it goes on.
_PROGRAM = (
    "import os, runpy, signal, sys\n"
    "sys.argv = ['rmt-compress', *sys.argv[1:]]\n"
    "exec(os.environ.get('PATCHED', ''))\n"
    "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # under nohup it is ignored, and stays so
    "if os.environ.get('TRACED'): os.kill(os.getpid(), signal.SIGSTOP)\n"
    "runpy.run_module('rmt_compress', run_name='__main__')\n"
)
_CALL = re.compile(
    r"(?P<task>\d+) +(?P<name>\w+)\((?:(?P<number>\d+|AT_FDCWD)(?:<(?P<place>[^>]*)>)?)?(?P<rest>.*)"
)
_PATIENCE = 120
NOTED = "%file,%desc"
"""What is noted: calls that take a name or an open file."""
CHANGING = frozenset(
    (
        *("write", "pwrite64", "writev", "sendfile", "copy_file_range", "ftruncate", "fsync", "fdatasync"),
        *("rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "rmdir", "chmod", "fchmod", "link"),
    )
)
"""Those that change something on the disk."""


class Call(NamedTuple):
    """A system call of the program's first thread.

    Attributes:
        name: such as ``write``.
        count: the how manieth of this name it is, from 1.
        place: of the open file that it takes, where it takes one.
        text: the call as strace prints it.
    """

    name: str
    count: int
    place: str
    text: str


@dataclass
class Ended:
    """What came of a run.

    Attributes:
        status: its exit status, or minus the signal that ended it.
        stdout: what it printed.
        stderr: what it said.
        seconds: that it took, those of other work on the machine included.
        peak: the most memory that it has had at once, in kB.
    """

    status: int
    stdout: str
    stderr: str
    seconds: float
    peak: int


@cache
def why_not() -> str | None:
    """Why nothing can be traced here; None where it can."""
    if shutil.which("strace") is None:
        return "strace is not installed (Debian: apt-get install strace)"
    done = subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    return f"strace cannot trace here: {done.stderr.strip()[:200]}" if done.returncode else None


def run(
    server: ForkServer,
    arguments: Sequence[str | Path],
    *,
    cwd: Path,
    inject: str | None = None,
    noted: Path | None = None,
    env: Mapping[str, str] | None = None,
    stopped: Callable[[], None] | None = None,
) -> Ended:
    """`rmt-compress ARGUMENTS`.

    Args:
        server: forks the process.
        arguments: of the program.
        cwd: where it runs.
        inject: strace's expression of a fault, such as ``write:error=ENOSPC:when=3``.
        noted: where its system calls are listed.
        env: variables beside those of this process.
        stopped: called when the injected signal STOP has stopped the process, which then goes on.
    """
    traced = inject is not None or noted is not None
    begun = time.monotonic()
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        process = server.start(
            *("-c", _PROGRAM, *arguments),
            cwd=cwd,
            env={**(env or {}), "TRACED": "1" if traced else ""},
            stdout=stdout,
            stderr=stderr,
        )
        tracer = _attached(process, inject, noted) if traced else None
        if stopped is not None:
            _until(lambda: _rests(process.pid) or process.poll() is not None)
            stopped()
            process.send_signal(signal.SIGCONT)
        status = _waited(process, goes_on=stopped is not None)
        seconds = time.monotonic() - begun
        if tracer is not None:
            tracer.wait(10)
        for stream in (stdout, stderr):
            stream.seek(0)
        return Ended(status, stdout.read(), stderr.read(), seconds, process.peak)


def _attached(process: Process, inject: str | None, noted: Path | None) -> subprocess.Popen[bytes]:
    _until(lambda: _state(process.pid) in "Tt")
    what = inject.partition(":")[0] if inject else NOTED
    command = ["strace", "-f", "-qq", "-s", "0", "-e", f"trace={what}", "-e", "signal=none"]
    command += ["-y"] if inject is None else ["-e", f"inject={inject}"]
    tracer = subprocess.Popen(
        [*command, "-o", str(noted or "/dev/null"), "-p", str(process.pid)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _until(lambda: _field(process.pid, "TracerPid:") not in ("", "0"))
    process.send_signal(signal.SIGCONT)
    return tracer


def _until(reached: Callable[[], bool]) -> None:
    begun = time.monotonic()
    while not reached():
        assert time.monotonic() < begun + 30, "the program cannot be traced"
        time.sleep(0.002)


def _rests(process: int) -> bool:
    """Whether a process stands still for longer than strace takes to look at a call."""
    seen = set()
    for _ in range(4):
        seen.add((_state(process), _field(process, "voluntary_ctxt_switches:")))
        time.sleep(0.01)
    return len(seen) == 1 and seen.pop()[0] in "Tt"


def _waited(process: Process, *, goes_on: bool) -> int:
    """The exit status; a process that was stopped is told to go on, again where that came too early."""
    for _ in range(_PATIENCE):
        try:
            return process.wait(1)
        except TimeoutError:
            if goes_on:
                process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGKILL)
    process.wait()
    raise TimeoutError(f"a run takes more than {_PATIENCE} seconds")


def _field(process: int, name: str) -> str:
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return ""
    return text.partition(name)[2].partition("\n")[0].strip()


def _state(process: int) -> str:
    return _field(process, "State:")[:1] or "?"


def calls(noted: Path) -> list[Call]:
    """The system calls of the first thread that a run has noted, in their order."""
    found: list[Call] = []
    counts: Counter[str] = Counter()
    first = None
    for line in noted.read_text(errors="replace").splitlines():
        if (parts := _CALL.match(line)) is None:
            continue
        first = first or parts["task"]
        if parts["task"] == first:
            counts[parts["name"]] += 1
            found.append(Call(parts["name"], counts[parts["name"]], parts["place"] or "", line))
    return found
