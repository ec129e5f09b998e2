"""Python processes without the seconds that importing torch takes.

A server, a process of its own that has imported everything and started no thread, forks for each request, and tells
the exit status of each program as it ends. The program is a process like any other: it has its own memory, streams,
folder and environment, takes signals, and ends as the interpreter ends. What it cannot show is how it started: its
imports have happened, its hashes have the server's seed, it has one thread, and variables that only count at the
start (PYTHON*, OMP_*) do nothing, except for PYTHONIOENCODING. Tests that run side by side share one server.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
import warnings
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn

from tests.samples.once import packages_once
from tests.samples.repository import REPOSITORY, modules

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# Beside rmt_compress and what that imports at its top: what it imports where it is used.
LAZY = (
    *("torch", "torch._dynamo", "torch.distributed", "torch.export", "safetensors.torch", "scipy.linalg"),
    *("scipy.optimize", "sklearn.datasets", "sklearn.model_selection", "accelerate", "matplotlib.pyplot"),
)
THREADED = ("onnxruntime", "pyarrow")
"""These start a thread as they are imported, so whoever needs one imports it afterwards."""


class Process:
    """A program that the server has started.

    Attributes:
        pid: its number.
        returncode: its exit status, or minus the signal that has ended it; None as long as it runs.
        peak: the most memory that it has had at once, in kB (Linux), once it has ended.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("r")
        self.pid = int(self._lines.readline())
        self.returncode: int | None = None
        self.peak = 0

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, or minus the signal that has ended it.

        Raises:
            TimeoutError: it still runs after so many seconds.
        """
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise TimeoutError(f"process {self.pid} still runs after {timeout} seconds")
            self.returncode, self.peak = map(int, self._lines.readline().split())
            self._lines.close()
            self._connection.close()
        return self.returncode

    def poll(self) -> int | None:
        """Its exit status; None as long as it runs."""
        try:
            return self.wait(0)
        except TimeoutError:
            return None

    def send_signal(self, number: int) -> None:
        """A signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


class ForkServer:
    """The server, from the side of the tests.

    Args:
        imports: modules that it imports; by default all that programs use.
        shared: a path that is the same for all who are to share one; the first of them starts it, and it ends with
            the last.
        env: variables set for it, and for all that it starts from here.
    """

    def __init__(
        self,
        imports: Sequence[str] | None = None,
        shared: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._env = {**ONE_THREAD, **(env or {})}
        self._shared, self._server = shared, None
        with socket.socket(socket.AF_UNIX) as entrance:
            if shared is not None:
                try:
                    entrance.bind(str(shared))
                    entrance.listen()
                except OSError:
                    if (joined := _joined(shared)) is not None:
                        self._control = joined
                        return
                    self._shared = None  # it ends as this one begins, which is then for nobody else
            self._control, theirs = socket.socketpair()
            with theirs:
                descriptors = [theirs.fileno()] if self._shared is None else [theirs.fileno(), entrance.fileno()]
                self._server = subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        __name__,
                        json.dumps(descriptors),
                        *(all_modules() if imports is None else imports),
                    ],
                    pass_fds=descriptors,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    cwd=REPOSITORY,
                    env={**os.environ, **self._env},
                )

    def start(
        self,
        *arguments: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdout: IO[Any] | None = None,
        stderr: IO[Any] | None = None,
    ) -> Process:
        """`python ARGUMENTS`, where these are ``[-W error] (-m MODULE | -c PROGRAM | FILE) …``.

        Args:
            arguments: as above.
            cwd: by default the folder of this process.
            env: variables set beside those of this process.
            stdout: by default leads nowhere.
            stderr: by default leads nowhere.
        """
        ours, theirs = socket.socketpair()
        request = {
            "arguments": list(map(str, arguments)),
            "cwd": str(cwd or Path.cwd()),
            "env": {**os.environ, **self._env, **(env or {})},
        }
        with theirs, Path(os.devnull).open("r+b") as nothing:
            streams = [nothing, stdout or nothing, stderr or nothing]
            socket.send_fds(self._control, [b"."], [theirs.fileno(), *(stream.fileno() for stream in streams)])
        ours.sendall(json.dumps(request).encode() + b"\n")
        return Process(ours)

    def run(
        self, *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`start`, and what it left when it has ended."""
        with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
            status = self.start(*arguments, cwd=cwd, env=env, stdout=stdout, stderr=stderr).wait()
            for stream in (stdout, stderr):
                stream.seek(0)
            return subprocess.CompletedProcess(arguments, status, stdout.read(), stderr.read())

    def close(self) -> None:
        """End the server, or wait for those who share it to do so; programs that run go on."""
        self._control.close()
        if self._server is not None:
            self._server.wait()
            if self._shared is not None:
                self._shared.unlink(missing_ok=True)


def _joined(shared: Path) -> socket.socket | None:
    """A connection to the server that another process has started; None where none listens (any more)."""
    control = socket.socket(socket.AF_UNIX)
    try:
        control.connect(str(shared))
        if control.recv(1):
            return control
    except OSError:
        pass
    control.close()
    return None


def all_modules() -> list[str]:
    """All that programs use, but for what starts threads."""
    return [*LAZY, *modules()]


def serve(imports: Sequence[str], control: socket.socket, *entrances: socket.socket) -> Sequence[str]:
    """Fork for every request; comes back in the forked processes alone, with the arguments of one."""
    _import(imports)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, which then close the connection
    signal.signal(signal.SIGCHLD, lambda *_: None)  # and `ended` can be read
    ended, ends = socket.socketpair()
    for end in (ended, ends):
        end.setblocking(False)
    signal.set_wakeup_fd(ends.fileno(), warn_on_full_buffer=False)
    controls, running = [control], dict[int, socket.socket]()
    while controls:
        for ready in select.select([ended, *entrances, *controls], [], [])[0]:
            if ready is ended:
                ended.recv(1024)
                _tell_ended(running)
                continue
            if ready in entrances:
                controls.append(ready.accept()[0])
                controls[-1].sendall(b".")
                continue
            request, descriptors, *_ = socket.recv_fds(ready, 1, 4)
            if not request:
                controls.remove(ready)
                ready.close()
                continue
            connection, *streams = descriptors
            told = socket.socket(fileno=connection)
            with told.makefile("r") as lines:
                wanted = json.loads(lines.readline())
            if (process := os.fork()) == 0:
                signal.set_wakeup_fd(-1)
                for inherited in (ended, ends, told, *entrances, *controls, *running.values()):
                    inherited.close()
                return _prepare(wanted, streams)
            running[process] = told
            with suppress(OSError):  # whoever has asked for it may have gone
                told.sendall(b"%d\n" % process)
            for stream in streams:
                os.close(stream)
    sys.exit()


def _tell_ended(running: dict[int, socket.socket]) -> None:
    for process in [*running]:
        ended, status, used = os.wait4(process, os.WNOHANG)
        if ended:
            with running.pop(process) as told, suppress(OSError):
                told.sendall(b"%d %d\n" % (os.waitstatus_to_exitcode(status), used.ru_maxrss))


def _import(wanted: Sequence[str]) -> None:
    for name in THREADED:
        sys.modules[name] = None  # importing it fails
    for module in wanted:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name not in THREADED:
                raise
    for name in THREADED:
        del sys.modules[name]
    packages_once()
    if (data := sys.modules.get("rmt_compress.data")) is not None:
        data.load_data("digits", split="test")  # read once for all
    tasks = Path("/proc/self/task")
    threads = len(list(tasks.iterdir())) if tasks.exists() else 1
    assert threads == 1, f"{threads} threads, of which a fork would copy one"
    gc.freeze()  # else the first collection in every child would copy all pages
    _leave_for_others()


def _leave_for_others() -> None:
    """Nothing that was registered so far happens at the end of this process.

    torch takes its libraries apart, entry by entry, for as long as a small program runs; and folders of another
    process are not for this one to remove.
    """
    for registered in list(weakref.finalize._registry):
        registered.atexit = False


def _prepare(request: Mapping[str, Any], streams: Sequence[int]) -> Sequence[str]:
    """Make this process the one that is asked for, up to its arguments."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    if encoding := os.environ.get("PYTHONIOENCODING"):
        for stream, errors in ((sys.stdin, "strict"), (sys.stdout, "strict"), (sys.stderr, "backslashreplace")):
            stream.reconfigure(encoding=encoding, errors=errors)
    arguments: Sequence[str] = request["arguments"]
    return arguments


def become(arguments: Sequence[str]) -> None:
    """Run what `python ARGUMENTS` runs."""
    what, *rest = arguments
    if (what, *rest[:1]) == ("-W", "error"):
        warnings.simplefilter("error")
        what, *rest = rest[1:]
    if what == "-m":
        sys.path[0] = str(Path.cwd())
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif what == "-c":
        sys.path[0] = ""
        sys.argv = ["-c", *rest[1:]]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    else:
        sys.path[0] = str(Path(what).resolve().parent)
        sys.argv = [what, *rest]
        runpy.run_path(what, run_name="__main__")


def leave(status: int) -> NoReturn:
    """End as the interpreter does, but do not take torch apart, which would cost a third of a second."""
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except OSError:
        sys.exit(status)  # the interpreter itself says that nobody reads the streams any more
    os._exit(status)


class Forked:
    """`subprocess.Popen` of a Python program by a fork of this process, which holds what the program imports.

    For scripts that start others and are tested for what comes of it: ``subprocess.Popen = Forked`` in a process
    that `ForkServer` has forked. What scripts use of the other class is here.
    """

    def __init__(self, args: Sequence[str], *, stdout: Any = None, stderr: Any = None, **_: Any) -> None:
        self.args = args
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        _leave_for_others()
        for number, stream in ((1, stdout), (2, stderr)):
            if stream is not None:
                silent = stream == subprocess.DEVNULL
                os.dup2(os.open(os.devnull, os.O_WRONLY) if silent else stream.fileno(), number)
        try:
            become(list(map(str, args[1:])))
        except SystemExit as stopped:
            leave(int(stopped.code or 0))
        except BaseException:  # nothing may leave a fork, which would go on as its parent does
            traceback.print_exc()
            leave(1)
        leave(0)

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *_: object) -> None:
        self.poll()

    def communicate(self, *_: object, **__: object) -> tuple[None, None]:
        """Wait for its end."""
        self.poll()
        return None, None

    def poll(self) -> int:
        """Its exit status, when it has ended."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def send_signal(self, number: int) -> None:
        """A signal."""
        os.kill(self.pid, number)


if __name__ == "__main__":
    wanted = serve(sys.argv[2:], *(socket.socket(fileno=number) for number in json.loads(sys.argv[1])))
    try:
        become(wanted)
    except SystemExit as stopped:
        if not isinstance(stopped.code, int | None):
            raise
        leave(stopped.code or 0)
    leave(0)
