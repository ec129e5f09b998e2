"""`rmt-compress prune` killed at random moments: the output is what it was before, or whole."""

import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import save_file

import rmt_compress as rmt
from tests.faults import tracing

# Moments of death: so many anywhere in the run, so many while the output is being written.
ANYWHERE, WRITING = 2, 4
# Where programs can be traced, tests/faults kills those that write the other format at chosen calls.
SUFFIXES = (".pt",) if tracing.why_not() is None else (".safetensors", ".pt")


@pytest.fixture
def source(tmp_path):
    """Layers to cut, and 60 MB to copy, so that analysis and writing both take a good part of a second."""

    def normal(*shape):
        return torch.randn(shape)

    state = {f"fc{i}.weight": normal(500, 600) / 25 + normal(500, 5) @ normal(5, 600) / 25 for i in range(3)}
    state["table.weight"] = normal(15_000, 1000)
    save_file(state, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


class Run:
    """`prune` as a process of its own."""

    def __init__(self, python, source, target):
        self.target = target
        options = ("--include", "fc*", "--force", "--jobs", "1")
        self.start = time.monotonic()
        self.process = python.start("-m", "rmt_compress", "prune", source, "-o", target, *options)

    def wait_for(self, pattern):
        """Seconds from the start until a file of such a name stands in the output's folder."""
        while not any(self.target.parent.glob(pattern)) and self.process.poll() is None:
            time.sleep(0.001)
        return time.monotonic() - self.start

    def kill_after(self, seconds):
        """Whether it was still alive then."""
        time.sleep(seconds)
        self.process.send_signal(signal.SIGKILL)
        return self.process.wait() == -signal.SIGKILL


def content(path):
    with rmt.open_checkpoint(path) as checkpoint:
        return checkpoint.manifest, {name: checkpoint.read(name) for name in checkpoint.tensors}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_killed_at_a_random_moment_the_output_is_as_before_or_whole(python, tmp_path, source, suffix):
    def output(name):
        (tmp_path / name).mkdir()
        return tmp_path / name / f"small{suffix}"

    undisturbed = Run(python, source, output("undisturbed"))
    until_writing = undisturbed.wait_for(".*")
    writing = undisturbed.wait_for("[!.]*") - until_writing
    assert undisturbed.process.wait() == 0
    takes = time.monotonic() - undisturbed.start
    manifest, tensors = content(undisturbed.target)
    assert {"fc0.down.weight", "fc0.up.weight", "table.weight"} < tensors.keys()

    def ending_of(moment):
        chance = random.Random(moment)
        target = output(f"moment{moment}")
        existed = moment % 2 == 1
        if existed:
            target.write_bytes(b"old")
        run = Run(python, source, target)
        if moment < ANYWHERE:
            killed = run.kill_after(chance.uniform(0, takes))
        else:
            run.wait_for(".*")
            killed = run.kill_after(chance.uniform(0, 1.2 * writing) if moment < ANYWHERE + WRITING else 0)
        before = target.read_bytes() == b"old" if existed else not target.exists()
        if before:
            assert killed
        else:
            found_manifest, found = content(target)
            assert found_manifest == manifest
            assert found.keys() == tensors.keys()
            assert all(torch.equal(found[name], tensors[name]) for name in tensors)
        hidden = {path.name for path in target.parent.iterdir()} - {target.name}
        assert all(name.startswith(".") for name in hidden)
        return "half" if hidden else "before" if before else "whole"

    with ThreadPoolExecutor(2) as pool:
        endings = list(pool.map(ending_of, range(ANYWHERE + WRITING)))
    # Some moments are in the middle of writing; where the machine is busy otherwise, it may take more of them.
    for moment in range(ANYWHERE + WRITING, 60):
        if "half" not in endings:
            endings.append(ending_of(moment))
    assert "half" in endings, endings
