"""`--device` of commands that decompose weights, as a user types it; `cpu:0` is to them no longer `cpu`."""

import pytest
import torch
from safetensors.torch import load_file, save_file

import rmt_compress as rmt
from tests.samples.command_line import one_error_line
from tests.samples.matrices import low_rank_plus_noise
from tests.samples.repository import DIGITS

OTHER = "cpu:0"


@pytest.mark.parametrize("command", (("analyze",), ("prune", "-o", "out.pt"), ("prune", "--keep", "0.5")))
def test_commands_refuse_a_device_that_is_not_there(run, command, tmp_path):
    name, *options = command
    line = one_error_line(run(name, DIGITS, *options, "--device", "toaster"))
    assert "on device 'toaster'" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", ((), ("--keep", "0.5"), ("--sparsity", "0.5"), ("--layout", "dense")))
def test_files_pruned_on_a_device_are_as_on_the_cpu(run, tmp_path, options):
    save_file(
        {"fc.weight": low_rank_plus_noise(300, 400, 5), "fc.bias": torch.ones(300)}, tmp_path / "a.safetensors"
    )
    for name, device in (("here", "cpu"), ("there", OTHER)):
        done = run("prune", "a.safetensors", "-o", f"{name}.safetensors", *options, "--device", device)
        assert done.returncode == 0, done.stderr
    here, there = (load_file(tmp_path / f"{name}.safetensors") for name in ("here", "there"))
    assert list(here) == list(there)
    here, there = (rmt.load_dense(tmp_path / f"{name}.safetensors") for name in ("here", "there"))
    torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-5)
