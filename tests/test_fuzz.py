"""A short run of the fuzzer with a fixed seed over every reader, and the fuzzer's own senses."""

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from fuzz.canary import Canary
from fuzz.mutating import archives, headers, messages, pickles, trees
from fuzz.mutating.cases import by_kind
from fuzz.readers import READERS

EXECUTIONS = 15


@pytest.mark.slow
def test_every_reader_takes_or_refuses_what_it_is_given(python):
    run = python.run("-m", "fuzz", "all", "--executions", str(EXECUTIONS), "--seed", "3", "--no-lines")
    assert run.returncode == 0, run.stdout + run.stderr
    lines = run.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == list(READERS)
    assert all(f": {EXECUTIONS} inputs" in line and "0 kinds of failures" in line for line in lines)


@pytest.mark.slow
def test_what_a_reader_must_not_do_is_noticed(python):
    """Readers that crash, hang, take memory, write elsewhere and import: each is a failure of its own kind."""
    program = (
        "import os, pathlib, sys\n"
        "from fuzz import trial\n"
        "from fuzz.readers import Reader\n"
        "trial.SECONDS = 1\n"
        "def read(path):\n"
        "    if path.parent.name == 'warm': return\n"
        "    kind = int(path.read_bytes())\n"
        "    if kind == 0: raise KeyError(1)\n"
        "    if kind == 1:\n"
        "        while True: pass\n"
        "    if kind == 2: bytearray(500 << 20)[::4096] = b'x' * (500 << 8)\n"
        "    if kind == 3: (path.parent.parent / 'elsewhere').write_text('x')\n"
        "    if kind == 4: import this\n"
        "    if kind == 5: os.kill(os.getpid(), 11)\n"
        "seeds = lambda: iter([({'a': b'%d' % kind}, 'a') for kind in range(7)])\n"
        "found = trial.fuzz(Reader('own', seeds, read, ()), executions=7, seed=0, measure=False)\n"
        "assert found.accepted == 1 and sum(found.failed.values()) == 6, found.failed\n"
        "print('\\n'.join(found.failures))\n"
    )
    run = python.run("-c", program)
    assert run.returncode == 0, run.stderr
    for kind in (
        "KeyError",
        "more than 1 seconds",
        "too much memory",
        "elsewhere",
        "import this",
        "signal 11",
    ):
        assert kind in run.stdout


def test_changes_keep_the_structure_around_them():
    """Most changed headers are JSON still, archives archives, messages messages, pickles pickles."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    file = len(header).to_bytes(8, "little") + header + bytes(8)
    archive = archives.written(
        [archives.record("a/data.pkl", b"\x80\x02}q\x00."), archives.record("a/data/0", bytes(8))]
    )
    message = messages.write([(1, 0, 8), (7, 2, messages.write([(2, 2, b"g")]))])
    for start, fits in (
        (file, headers.fits),
        (archive, lambda data: data.startswith(b"PK")),
        (message, lambda data: messages.read(data) is not None),
    ):
        changed = [by_kind("model.onnx", start, Random(number)) for number in range(90)]
        assert len(set(changed)) > 40
        assert sum(map(fits, changed)) > 45
    assert messages.write(messages.read(message)) == message
    operations, rest = pickles.split(b"\x80\x02}q\x00.\x80\x02N.values")
    assert [name for name, *_ in operations] == ["PROTO", "EMPTY_DICT", "BINPUT", "STOP", "PROTO", "NONE", "STOP"]
    assert rest == b"values"
    tree = {"a": [1, {"b": "c"}]}
    assert len({trees.mutate(json.dumps(tree).encode(), Random(number)) for number in range(100)}) > 50
    assert tree == {"a": [1, {"b": "c"}]}


def test_the_canary_hears_what_it_is_there_for(tmp_path):
    """In a process of its own: a hook stays for good."""
    program = (
        "import os, pathlib, socket, subprocess, sys\n"
        "from fuzz.canary import CANARY\n"
        "here = pathlib.Path(sys.argv[1])\n"
        "with CANARY.watching(here / 'own', forbidden=here / 'secret') as seen:\n"
        "    (here / 'own' / 'fine').write_text('x')\n"
        "    assert not seen, seen\n"
        "    for act in (\n"
        "        lambda: (here / 'other').write_text('x'), lambda: (here / 'secret').read_text(),\n"
        "        lambda: socket.socket(), lambda: os.system('true'), lambda: __import__('this_is_no_module'),\n"
        "        lambda: exec('1'), lambda: (here / 'own' / 'fine').rename(here / 'moved'),\n"
        "        lambda: os.fork() or os._exit(0),\n"
        "    ):\n"
        "        before = len(seen)\n"
        "        try: act()\n"
        "        except ImportError: pass\n"
        "        assert len(seen) > before, (seen, before)\n"
        "os.system('true')\n"
        "print(len(seen))\n"
    )
    (tmp_path / "own").mkdir()
    (tmp_path / "secret").write_text("x")
    repository = Path(__file__).resolve().parent.parent
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 8
    assert Canary().seen == []
