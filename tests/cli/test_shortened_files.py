"""A file that loses, while it is mapped into memory, what is about to be read of it."""

import signal
import sys

import pytest
import torch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a program go on")

# The file is looked at before each reading; it is cut behind the third look.
CUT = """
import os, sys
from rmt_compress.checkpoints.pytorch.torch_reader import TorchReader
look, looks = TorchReader.identity, []
def cut(reader):
    found = look(reader)
    looks.append(found)
    if len(looks) == 3:
        os.truncate(reader.path, 4096)
    return found
TorchReader.identity = cut
from rmt_compress.cli.app import main
main()
"""
THREAD = """
import os, sys, threading, time
import numpy as np
from rmt_compress.cli import stopping
values = np.memmap("values", np.uint8, "r")
with stopping.stopping():
    os.truncate("values", 0)
    sums = []
    summing = threading.Thread(target=lambda: sums.append(values[5000:].sum()))
    try:
        summing.start()
        time.sleep(60)
    except KeyboardInterrupt:
        while not sums:
            time.sleep(0.001)
        print(*sums, stopping.stopped_status(), stopping.stopped_because())
"""
ANOTHER = """
import os, signal
from rmt_compress.cli.stopping import stopping
with stopping():
    os.kill(os.getpid(), signal.SIGBUS)
    print("goes on")
"""


@pytest.mark.slow
def test_one_line_names_the_file_and_nothing_half_is_left(python, tmp_path):
    file = tmp_path / "model.pt"
    torch.save({f"fc{number}.weight": torch.randn(100, 140) for number in range(2)}, file)
    done = python.run("-c", CUT, "prune", file, "-o", tmp_path / "small.pt")
    assert (done.returncode, done.stdout) == (2, "")
    errors = [line for line in done.stderr.splitlines() if not line.startswith("note:")]
    assert len(errors) == 1
    assert errors[0].startswith(f"error: {file}: became shorter while it was read")
    assert list(tmp_path.iterdir()) == [file]


def test_a_thread_gets_zeros_and_the_main_one_stops(python, tmp_path):
    file = tmp_path / "values"
    file.write_bytes(b"\1" * 10000)
    done = python.run("-c", THREAD, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"0 2 {file}: became shorter")


def test_such_a_signal_from_elsewhere_ends_the_process(python):
    done = python.run("-c", ANOTHER)
    assert (done.returncode, done.stdout) == (-signal.SIGBUS, "")
