"""Several processes measure the moments of one."""

import pytest
import torch

from rmt_compress.decomposition.moments_file import load_moments
from rmt_compress.errors import SettingsError
from rmt_compress.networks.calibration.calibrating import calibrate
from tests.calibration.test_memory_and_files import data, network

TWO_PROCESSES = """
import sys
import torch
import torch.distributed as dist
import torch.multiprocessing
from rmt_compress.decomposition.moments_file import save_moments
from rmt_compress.errors import DataError
from rmt_compress.networks.calibration.calibrating import calibrate

def measure(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model, batches = torch.load(f"{folder}/case.pt", weights_only=False)
    for memory in (None, 60_000):
        moments = calibrate(model, batches, memory=memory, shared=True)
        save_moments(moments, f"{folder}/{rank}-{memory}.safetensors")
    try:
        # The second process alone has this batch.
        calibrate(model, [batches[0], torch.zeros(2, 1)], shared=True)
    except DataError as error:
        print("refused")
    dist.destroy_process_group()

if __name__ == "__main__":
    torch.multiprocessing.start_processes(measure, (sys.argv[1],), nprocs=2, start_method="fork")
"""


@pytest.mark.slow
@pytest.mark.traced
def test_two_processes_measure_as_one(python, tmp_path):
    case = network(), list(data())
    torch.save(case, tmp_path / "case.pt")
    done = python.run("-c", TWO_PROCESSES, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("refused") == 2
    one = calibrate(*case)
    for memory in (None, 60_000):
        for rank in range(2):
            found = load_moments(tmp_path / f"{rank}-{memory}.safetensors")
            assert found.layers.keys() == one.layers.keys()
            assert (found.record["batches"], found.record["samples"]) == (
                one.record["batches"],
                one.record["samples"],
            )
            for name, expected in one.layers.items():
                layer = found.layers[name]
                assert layer.count == expected.count
                for part in ("inputs", "mean", "outputs"):
                    torch.testing.assert_close(
                        getattr(layer, part), getattr(expected, part), rtol=1e-12, atol=1e-13
                    )


def test_without_a_process_group_nothing_is_shared(tmp_path):
    with pytest.raises(SettingsError, match="there is no process group; start the program with torchrun"):
        calibrate(network(), data(), shared=True)
    with pytest.raises(SettingsError, match="leave it out, or shared"):
        calibrate(network(), data(), shared=True, partial=tmp_path / "kept")
