"""Forked programs look like started ones to whoever waits for them."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.samples.fork_server import ForkServer

pytestmark = pytest.mark.slow

PROGRAMS = {
    "what it says": "print('out'); import sys; print('err', file=sys.stderr)",
    "a status": "import sys; sys.exit(3)",
    "a message": "import sys; sys.exit('too bad')",
    "an error": "raise ValueError(17)",
    "a signal": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "an interrupt": "raise KeyboardInterrupt",
    "arguments": "import sys; print(sys.argv, __name__, sys.path[0])",
    "work left": "import atexit, threading; atexit.register(print, 2); threading.Thread(target=print).start()",
    "a folder and a variable": "import os; print(os.getcwd(), os.environ['COLOUR'], os.environ['PYTHONPATH'])",
    "no input": "import sys; print(repr(sys.stdin.read()))",
    "a warning": "import warnings; warnings.warn('look out')",
    "a class of its own": "import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))))",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_if_started(python, tmp_path, monkeypatch, name):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    environment = {"COLOUR": "grün"}
    arguments = ["-W", "error", "-c", PROGRAMS[name], "one", "two"]
    forked = python.run(*arguments, cwd=tmp_path, env=environment)
    started = subprocess.run(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, **environment},
    )
    assert (forked.returncode, forked.stdout) == (started.returncode, started.stdout)
    # A traceback begins with the frames of the server.
    assert forked.stderr.splitlines()[-1:] == started.stderr.splitlines()[-1:]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_another_encoding(python, tmp_path, encoding):
    program = ("-c", "import sys; print('×', file=sys.stderr); print('é'); print('→')")
    with (tmp_path / "out").open("w+b") as stdout, (tmp_path / "err").open("w+b") as stderr:
        status = python.start(*program, env={"PYTHONIOENCODING": encoding}, stdout=stdout, stderr=stderr).wait()
        stdout.seek(0)
        stderr.seek(0)
        forked = (status, stdout.read(), stderr.readline())
    started = subprocess.run(
        [sys.executable, *program],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert forked == (started.returncode, started.stdout, started.stderr.splitlines(keepends=True)[0])
    assert started.returncode == 1


def test_a_file_and_a_module(python, tmp_path):
    (tmp_path / "beside.py").write_text("print('beside', __name__)")
    (tmp_path / "program.py").write_text("import beside, sys; print(__name__, sys.argv[1:])")
    expected = "beside beside\n__main__ ['x']\n"
    assert python.run(tmp_path / "program.py", "x").stdout == expected
    assert python.run("-m", "program", "x", cwd=tmp_path).stdout == expected
    assert python.run("-m", "rmt_compress", "--version").stdout.startswith("rmt-compress ")


def test_killed_it_is_dead_and_the_next_one_lives(python, tmp_path):
    process = python.start("-c", "import time; time.sleep(1000)")
    assert process.poll() is None
    with pytest.raises(TimeoutError):
        process.wait(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == process.poll() == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    process.send_signal(signal.SIGKILL)
    assert python.run("-c", "print(1)").stdout == "1\n"


def test_interrupted_even_where_the_tests_themselves_ignore_it(python, tmp_path):
    ready = tmp_path / "ready"
    # Many short sleeps: a signal that comes between Python's last look and a sleep would wait for the end of it.
    program = f"import pathlib, time; pathlib.Path({str(ready)!r}).touch()\nwhile True: time.sleep(0.01)"
    process = python.start("-c", program)
    while not ready.exists():
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    assert process.wait() == -signal.SIGINT


def test_memory_is_its_own_and_limited_on_demand(python):
    assert python.run("-c", "import torch; torch.mine = 1").returncode == 0
    assert python.run("-c", "import torch; print(hasattr(torch, 'mine'))").stdout == "False\n"
    limited = "import resource, torch; resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33)); torch.empty(2**33)"
    done = python.run("-c", limited)
    assert done.returncode == 1
    assert "can't allocate memory" in done.stderr


def test_a_reader_that_has_gone(python):
    reader, writer = os.pipe()
    os.close(reader)
    program = ("-c", "import sys; print('x'); sys.exit(5)")
    with os.fdopen(writer, "w") as stdout:
        started = subprocess.run([sys.executable, *program], stdout=stdout, stderr=subprocess.DEVNULL, check=False)
        assert python.start(*program, stdout=stdout).wait() == started.returncode != 5


def test_it_is_shared_until_the_last_has_closed_it(tmp_path):
    first, second = (ForkServer(("colorsys",), shared=tmp_path / "server") for _ in range(2))
    program = "import os, sys; print(os.getppid(), 'colorsys' in sys.modules)"
    said = first.run("-c", program).stdout
    assert said.endswith(" True\n")
    with ThreadPoolExecutor() as threads:
        ended = threads.submit(first.close)
        assert second.run("-c", program).stdout == said
        assert not ended.done()
        second.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_torch_is_there_and_has_one_thread(python):
    done = python.run("-c", "import os, sys; print('torch' in sys.modules, len(os.listdir('/proc/self/task')))")
    assert done.stdout == "True 1\n"
