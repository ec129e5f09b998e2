"""Folders of torch.distributed.checkpoint, written by torch itself, by one process or by two."""

import io
import json
import math
import pickle
import sys
import warnings

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex
from typer.testing import CliRunner

from rmt_compress.analysis import AnalysisSettings, analyze
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.cli.app import app
from rmt_compress.errors import CheckpointError
from rmt_compress.planning.settings import PlanSettings
from rmt_compress.pruning.road import prune
from rmt_compress.saving.reloading import load
from tests.samples.contents import assert_holds
from tests.samples.seeds import repeatable

SETTINGS = {"analysis": AnalysisSettings(min_size=8), "plan": PlanSettings(rule="ratio:0.25", gof=1.0)}

TWO_PROCESSES = """
import sys
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

def save(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}.store", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    state = torch.load(folder + ".pt")
    places = {"0.weight": Shard(0), "0.bias": Shard(0), "2.weight": Shard(1)}
    parts = {name: distribute_tensor(whole, mesh, [places.get(name, Replicate())]) for name, whole in state.items()}
    moments = {name: {"exp_avg": part * 0.1, "step": torch.tensor(3.0)} for name, part in parts.items()}
    optimizer = {"state": moments, "param_groups": [{"lr": 0.1, "params": list(parts)}]}
    dcp.save({"model": parts, "optim": optimizer, "epoch": 3}, checkpoint_id=folder)
    dist.destroy_process_group()

if __name__ == "__main__":
    torch.multiprocessing.start_processes(save, (sys.argv[1],), nprocs=2, start_method="fork")
"""


@repeatable
def network():
    # An odd width: the processes get parts of different sizes.
    return nn.Sequential(nn.Linear(32, 49), nn.ReLU(), nn.Linear(49, 10))


def saved(state, folder):
    with warnings.catch_warnings():
        # It says that there is only one process.
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=folder, no_dist=True)
    return folder


@pytest.fixture
def folder(tmp_path):
    """A folder written by one process."""
    return saved({"model": network().state_dict(), "epoch": 3}, tmp_path / "step_100")


@pytest.mark.slow
@pytest.mark.traced
def test_two_processes(python, tmp_path):
    folder, state = tmp_path / "both", network().state_dict()
    torch.save(state, tmp_path / "both.pt")
    done = python.run("-c", TWO_PROCESSES, folder)
    assert done.returncode == 0, done.stderr
    assert len(list(folder.glob("*.distcp"))) == 2
    assert_holds(folder, state)
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.format == "PyTorch distributed, 2 files"
        assert dict(checkpoint.beside) == {"optim": "optimizer state", "epoch": "saved object"}
    fits = {layer.name: layer.fit.sigma2 for layer in analyze(folder, min_size=8).analyzed}
    assert fits == {layer.name: layer.fit.sigma2 for layer in analyze(state, min_size=8).analyzed}
    prune(folder, tmp_path / "small.safetensors", **SETTINGS)
    prune(tmp_path / "both.pt", tmp_path / "other.safetensors", **SETTINGS)
    x = torch.randn(3, 32)
    assert torch.equal(*(load(tmp_path / f"{name}.safetensors", network())(x) for name in ("small", "other")))


def test_one_process(folder, tmp_path):
    state = network().state_dict()
    assert_holds(folder, state)
    # A trainer's own file beside the parts is not what is meant.
    torch.save({"step": torch.tensor(3)}, folder / "meta.pt")
    assert_holds(folder, state)
    assert_holds(saved(state, tmp_path / "flat"), state)


def test_every_element_type_and_shape(tmp_path):
    state = {
        "bf16": torch.randn(4, 3).bfloat16(),
        "float8": torch.randn(4, 3).to(torch.float8_e4m3fn),
        "uint16": torch.tensor([1, 2], dtype=torch.uint16),
        "flags": torch.tensor([True, False]),
        "number": torch.tensor(3),
        "none": torch.empty(0, 3),
        "turned": torch.randn(4, 3).t(),
    }
    with open_checkpoint(saved(state, tmp_path / "types")) as checkpoint:
        assert list(checkpoint.tensors) == list(state)
        for name, tensor in state.items():
            assert checkpoint.read(name).dtype == tensor.dtype
            assert torch.equal(checkpoint.read(name).float(), tensor.float()), name


def test_a_set_can_be_named_and_wrappers_are_taken_off(tmp_path):
    state = {f"module.{name}": tensor for name, tensor in network().state_dict().items()}
    folder = saved({"model": state, "ema": {"w": torch.ones(3, 3)}}, tmp_path / "sets")
    with open_checkpoint(folder) as checkpoint:
        assert list(checkpoint.tensors) == list(network().state_dict())
        assert "Took 'module.' off every name." in checkpoint.notes
    with open_checkpoint(folder, weights="ema") as checkpoint:
        assert list(checkpoint.tensors) == ["w"]


def test_the_command_line(folder, tmp_path):
    run = CliRunner().invoke(app, ["show", str(folder), "--json"])
    assert run.exit_code == 0, run.output
    target = tmp_path / "small.safetensors"
    options = ["--min-size", "8", "--rule", "ratio:0.25", "--gof", "1", "-o", str(target), "--json"]
    run = CliRunner().invoke(app, ["prune", str(folder), *options])
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["layers"]
    result = prune(folder, tmp_path / "small.pt", carry_over=True, **SETTINGS)
    assert "epoch was left out: it stays in the distributed checkpoint" in result.notes


def test_a_part_and_a_folder_above_are_led_to_the_folder(folder, refusal):
    part = next(folder.glob("*.distcp"))
    for file in (part, folder / ".metadata"):
        with pytest.raises(CheckpointError, match=rf"name its folder, {folder}"):
            open_checkpoint(file)
    assert "step_100 below it does; name that folder" in refusal(folder.parent)


def damaged_metadata(folder, change):
    path = folder / ".metadata"
    described = pickle.loads(path.read_bytes())
    change(described)
    path.write_bytes(pickle.dumps(described))


def places(described):
    return next(place for index, place in described.storage_data.items() if index.fqn == "model.0.weight")


def far(described):
    places(described).offset += 10**6


def long(described):
    places(described).length += 10**9


def negative(described):
    places(described).offset = -5


def elsewhere(described):
    places(described).relative_path = "../../secret"


def another(described):
    other = next(place for index, place in described.storage_data.items() if index.fqn == "model.2.weight")
    places(described).offset, places(described).length = other.offset, other.length


def nowhere(described):
    described.storage_data.pop(MetadataIndex("model.0.weight", (0, 0)))


def twice(described):
    entry = described.state_dict_metadata["model.0.weight"]
    entry.chunks = [entry.chunks[0], ChunkStorageMetadata(torch.Size((0, 0)), torch.Size((49, 32)))]


def beyond(described):
    described.state_dict_metadata["model.0.weight"].chunks[0].offsets = torch.Size((1, 0))


def gap(described):
    described.state_dict_metadata["model.0.weight"].size = torch.Size((50, 32))


def huge(described):
    described.state_dict_metadata["model.0.weight"].size = torch.Size((2**40, 2**40))


def no_places(described):
    described.storage_data = None


def odd(described):
    described.state_dict_metadata = {"model.0.weight": 3}


def compressed(described):
    places(described).transform_descriptors = ["stream.zstd"]


CHANGES = (far, long, negative, elsewhere, another, nowhere, twice, beyond, gap, huge, no_places, odd, compressed)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_metadata_that_does_not_fit_is_one_line(change, folder):
    damaged_metadata(folder, change)
    with pytest.raises(CheckpointError, match="step_100") as caught, open_checkpoint(folder) as checkpoint:
        checkpoint.read("0.weight")
    assert str(caught.value).isprintable()


def test_missing_and_truncated_files_are_one_line(folder):
    (part,) = folder.glob("*.distcp")
    content, described = part.read_bytes(), (folder / ".metadata").read_bytes()
    for size in range(0, len(described), 97):
        (folder / ".metadata").write_bytes(described[:size])
        with pytest.raises(CheckpointError, match=r"\.metadata"):
            open_checkpoint(folder)
    (folder / ".metadata").write_bytes(described)
    part.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"\.distcp: truncated or damaged"):
        open_checkpoint(folder)
    part.write_bytes(bytes(len(content)))
    with pytest.raises(CheckpointError, match=r"\.distcp: truncated or damaged"):
        open_checkpoint(folder).read("0.weight")
    part.unlink()
    (folder / "__1_0.distcp").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"the file {part.name} is missing"):
        open_checkpoint(folder)
    (folder / ".metadata").unlink()
    with pytest.raises(CheckpointError, match=r"no \.metadata, which is written last"):
        open_checkpoint(folder)


@pytest.mark.slow
@pytest.mark.traced
def test_flipped_bytes_give_no_other_error(folder):
    (part,) = folder.glob("*.distcp")
    for path in (part, folder / ".metadata"):
        whole = path.read_bytes()
        for place in range(0, len(whole), max(1, len(whole) // 150)):
            content = bytearray(whole)
            content[place] ^= 0x41
            path.write_bytes(content)
            try:
                with open_checkpoint(folder) as checkpoint:
                    for name in checkpoint.tensors:
                        checkpoint.read(name)
            except CheckpointError as error:
                assert str(error).isprintable()  # noqa: PT017 # most flips are refused, some are in the values
        path.write_bytes(whole)


class _Leaves:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return open, (str(self.canary), "w")


@pytest.mark.parametrize("where", ["metadata", "inside", "part"])
def test_hostile_pickles_run_nothing(where, folder, tmp_path):
    canary = tmp_path / "canary"
    if where == "metadata":
        (folder / ".metadata").write_bytes(pickle.dumps(_Leaves(canary)))
    elif where == "inside":
        damaged_metadata(folder, lambda described: setattr(described, "planner_data", _Leaves(canary)))
    else:
        buffer = io.BytesIO()
        torch.save(_Leaves(canary), buffer)
        (part,) = folder.glob("*.distcp")

        def replace(described):
            places(described).offset, places(described).length = 0, len(buffer.getvalue())

        part.write_bytes(buffer.getvalue() + bytes(10**5))
        damaged_metadata(folder, replace)
    with pytest.raises(CheckpointError), open_checkpoint(folder) as checkpoint:
        checkpoint.read("0.weight")
    assert not canary.exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux's")
def test_memory_is_bounded_by_the_largest_tensor(python, tmp_path):
    """Six tensors of 40 MB: two of them at a time, the whole and its part, and what the program takes itself."""
    state = {f"layers.{number}.weight": torch.full((2500, 4000), float(number)) for number in range(6)}
    folder = saved({"model": state}, tmp_path / "large")
    program = (
        "import re, sys, pathlib, torch\n"
        "from rmt_compress.checkpoints import open_checkpoint\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', pathlib.Path('/proc/self/status').read_text())[1])\n"
        "before = peak()\n"
        "with open_checkpoint(sys.argv[1]) as checkpoint:\n"
        "    for name in checkpoint.tensors:\n"
        "        assert checkpoint.read(name)[7, 7] == int(name.split('.')[1])\n"
        "print(peak() - before)\n"
    )
    run = python.run("-c", program, folder)
    run.check_returncode()
    largest = math.prod((2500, 4000)) * 4 / 1024
    assert int(run.stdout) < 2 * largest + 60 * 1024


def test_deepspeed_names_what_joins_its_pieces(tmp_path, refusal):
    pieces = [f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(2)]
    for name in (*pieces, "mp_rank_00_model_states.pt"):
        torch.save({"module": network().state_dict(), "ds_config": {}}, tmp_path / name)
    assert "zero_to_fp32" in refusal(tmp_path / pieces[0])
    # Of the first two stages of ZeRO the weights are whole in one file.
    assert_holds(tmp_path, network().state_dict())
    torch.save({}, tmp_path / "zero_pp_rank_0_mp_rank_00_model_states.pt")
    assert "a DeepSpeed checkpoint in 4 pieces; join them" in refusal(tmp_path)


def test_the_folder_that_is_written_has_no_parts_in_it(folder, tmp_path):
    (folder / "config.json").write_text("{}")
    prune(folder, tmp_path / "small", layout="dense", **SETTINGS)
    assert {path.name for path in (tmp_path / "small").iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
