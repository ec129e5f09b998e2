"""Damaged and hostile files of torch.export, TorchScript and trainers: one line, no code run, no memory taken."""

import io
import json
from contextlib import suppress

import pytest
import torch

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.errors import CheckpointError
from tests.samples import exported
from tests.samples.archive_faults import CASES, DAMAGES, WRITERS, Payload, config, model


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    for name, write in WRITERS.items():
        write(folder / name)
    return folder


def read_all(path):
    """What every command does first, and what prune does after."""
    with open_checkpoint(path) as checkpoint:
        checkpoint.layers()
        for name in checkpoint.tensors:
            checkpoint.read(name)


def test_there_are_ten_of_each_and_the_whole_files_are_read(whole):
    for file, damages in DAMAGES.items():
        assert len(damages) >= 10
        read_all(whole / file)


@pytest.mark.parametrize(("file", "name"), CASES, ids=[f"{file[6:]}-{name}" for file, name in CASES])
def test_one_line_that_names_the_file_and_nothing_is_run(file, name, whole, tmp_path):
    target, proof = tmp_path / f"damaged.{file.rpartition('.')[2]}", tmp_path / "proof"
    DAMAGES[file][name](whole / file, target, proof)
    with pytest.raises(CheckpointError) as caught:
        read_all(target)
    message = str(caught.value)
    assert message.startswith(f"{target}: ")
    assert message.isprintable()
    assert len(message) < 800
    assert not proof.exists()


@pytest.mark.slow
@pytest.mark.parametrize("file", list(WRITERS))
def test_no_flipped_byte_gives_another_error(file, whole, tmp_path):
    data = (whole / file).read_bytes()
    target = tmp_path / file
    positions = [*range(0, len(data), max(1, len(data) // 300)), *range(len(data) - 60, len(data))]
    refused = 0
    for position in positions:
        damaged = bytearray(data)
        damaged[position] ^= 0x41
        target.write_bytes(damaged)
        try:
            read_all(target)
        except CheckpointError:
            refused += 1
    assert refused > len(positions) // 10


def test_hostile_parts_of_an_exported_program_are_never_looked_at(whole, tmp_path):
    """Each of these makes torch.export.load run code; here they are copied unread into the smaller file."""
    proof = tmp_path / "proof"
    code = f"__import__('os').system('touch {proof}')"

    def edit(name, data):
        if name.endswith("sample_inputs/model.pt"):
            buffer = io.BytesIO()
            torch.save((Payload(proof),), buffer)
            return buffer.getvalue()
        if name.endswith("model.json"):
            program = json.loads(data)
            program["guards_code"] = [code]
            values = program["graph_module"]["graph"]["tensor_values"]
            values["relu"]["sizes"][0] = {"as_expr": {"expr_str": code, "hint": {"as_int": 2}}}
            return json.dumps(program)
        return data

    path, target = tmp_path / "hostile.pt2", tmp_path / "split.pt2"
    exported.rewrite(whole / "whole.pt2", path, edit)
    read_all(path)
    assert exported.split_at(path, target, 0.5) == ["0.weight", "2.weight"]
    with open_checkpoint(target) as checkpoint:
        assert checkpoint.own_network()(torch.ones(2, 7)).shape == (2, 5)
    assert not proof.exists()
    # The payload is live: what keeps it still is that torch's loader is not asked. How that ends is all the same.
    with suppress(Exception):
        exported.load(path)
    assert proof.exists()


def test_operators_that_open_files_are_not_run(whole, tmp_path):
    def change(program):
        node = program["graph_module"]["graph"]["nodes"][0]
        node["target"] = "torch.ops.aten.from_file.default"

    model(change)(whole / "whole.pt2", tmp_path / "hostile.pt2", None)
    with open_checkpoint(tmp_path / "hostile.pt2") as checkpoint, pytest.raises(CheckpointError, match="from_file"):
        checkpoint.own_network()


@pytest.mark.parametrize(
    "target", ["torch.os.system", "os.system", "_operator.attrgetter", "#custom", "torch.load"]
)
def test_functions_that_are_no_operators_are_not_run(target, whole, tmp_path):
    def change(program):
        program["graph_module"]["graph"]["nodes"][0]["target"] = target

    model(change)(whole / "whole.pt2", tmp_path / "hostile.pt2", None)
    with open_checkpoint(tmp_path / "hostile.pt2") as checkpoint, pytest.raises(CheckpointError, match="not run"):
        checkpoint.own_network()


def test_a_graph_that_uses_what_nothing_gives(whole, tmp_path):
    def change(program):
        program["graph_module"]["graph"]["nodes"][0]["inputs"][0]["arg"]["as_tensor"]["name"] = "nowhere"

    model(change)(whole / "whole.pt2", tmp_path / "damaged.pt2", None)
    with open_checkpoint(tmp_path / "damaged.pt2") as checkpoint:
        network = checkpoint.own_network()
    with pytest.raises(CheckpointError, match="nothing gives 'nowhere'"):
        network(torch.ones(2, 7))


def test_a_pickled_weight_is_named_and_not_run(whole, tmp_path):
    def change(entry):
        entry["use_pickle"] = True

    config(change)(whole / "whole.pt2", tmp_path / "pickled.pt2", None)
    with open_checkpoint(tmp_path / "pickled.pt2") as checkpoint:
        (layer,) = (layer for layer in checkpoint.layers() if layer.tensor == "0.weight")
        assert "pickle" in layer.why_skipped
        with pytest.raises(CheckpointError, match="pickle, which is not run"):
            checkpoint.read("0.weight")


@pytest.mark.slow
def test_no_claim_takes_memory(whole, python, tmp_path):
    for number, (file, name) in enumerate(CASES):
        if any(word in name for word in ("huge", "declared", "bomb", "deep", "modules", "beyond", "dimensions")):
            DAMAGES[file][name](whole / file, tmp_path / f"{number}.{file.rpartition('.')[2]}", tmp_path / "proof")
    paths = sorted(map(str, tmp_path.iterdir()))
    assert len(paths) >= 12
    program = (
        "import resource, sys, torch\n"
        "from rmt_compress.checkpoints import open_checkpoint\n"
        "from rmt_compress.checkpoints.exported import program_file as exported_programs\n"
        "from rmt_compress.checkpoints.torchscript import script_file as torchscript\n"
        "from rmt_compress.errors import CheckpointError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        with open_checkpoint(path) as checkpoint:\n"
        "            for name in checkpoint.tensors: checkpoint.read(name)\n"
        "        print('read', path)\n"
        "    except CheckpointError: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    run = python.run("-c", program, *paths)
    run.check_returncode()
    *read, grown_kib = run.stdout.splitlines()
    assert read == []
    assert int(grown_kib) < 150 * 1024
