"""A run that is asked to stop says so in one line, from its first import to its last breath."""

import signal
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")

# What pybind11 makes of Ctrl-C within an import.
IN_OTHER_WORDS = """
import os, signal, sys
from rmt_compress.cli import show
def opened(*_, **__):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        while True: pass
    except KeyboardInterrupt:
        raise ImportError("initialization failed") from None
show.opened = opened
from rmt_compress.__main__ import run
sys.argv = ["rmt-compress", *sys.argv[1:], "show", "model.safetensors"]
run()
"""
IMPORTING = """
import os, signal, sys
import rmt_compress.__main__
class Stopping:
    def find_spec(self, name, *_):
        if name == "rmt_compress.cli.app":
            os.kill(os.getpid(), signal.SIGTERM)
sys.meta_path.insert(0, Stopping())
sys.modules.pop("rmt_compress.cli.app", None)
rmt_compress.__main__.run()
"""
AT_THE_END = """
import atexit, os, signal, sys
from rmt_compress.__main__ import run
atexit.register(lambda: os.kill(os.getpid(), signal.SIGTERM))
sys.argv = ["rmt-compress", "--version"]
run()
"""


def test_an_error_that_comes_of_a_signal_is_called_a_stop(python, tmp_path):
    done = python.run("-c", IN_OTHER_WORDS, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: stopped by SIGTERM: ")
    done = python.run("-c", IN_OTHER_WORDS, "--debug", cwd=tmp_path)
    assert "ImportError: initialization failed" in done.stderr


def test_while_the_program_is_imported(python, tmp_path):
    done = python.run("-c", IMPORTING, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: stopped by SIGTERM: ")


def test_at_the_very_end(python, tmp_path):
    done = python.run("-c", AT_THE_END, cwd=tmp_path)
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stdout.startswith("rmt-compress ")
    assert done.stderr == "error: stopped by SIGTERM at the end, when all was done\n"
