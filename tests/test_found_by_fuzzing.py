"""Files that readers stumbled over when the fuzzer gave them such: refused in one line now, or read."""

import json
import pickle
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
import torch

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.pytorch.inert_files import load_inert_record
from rmt_compress.checkpoints.pytorch.inert_objects import InertPickleError
from rmt_compress.data.arrays import open_array
from rmt_compress.data.cifar import read_cifar_split
from rmt_compress.data.idx import read_idx
from rmt_compress.decomposition.moments import LayerMoments, Moments
from rmt_compress.decomposition.moments_file import load_inputs, load_moments, save_moments, write_tensors
from rmt_compress.errors import CheckpointError, DataError, TrainingError
from rmt_compress.layers.zeroing import count_nonzero
from rmt_compress.reporting.description_table import contents
from rmt_compress.reporting.layer_names import network_order
from rmt_compress.saving.description import describe
from rmt_compress.training.event_log import read_lines
from rmt_compress.training.state import Snapshot, TrainingState

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture
def moments(tmp_path):
    """A file of moments, and what rewrites its description."""
    eye, zero = torch.eye(3).double(), torch.zeros(3).double()
    path = tmp_path / "moments.safetensors"
    save_moments(Moments({"a": LayerMoments(eye, zero, None, 7)}), path)

    def change(old, new):
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        described = header["__metadata__"]["rmt_compress_moments"]
        assert old in described
        header["__metadata__"]["rmt_compress_moments"] = described.replace(old, new)
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
        return path

    return change


def test_a_count_of_infinity(moments):
    with pytest.raises(DataError, match="description of moments is damaged"):
        load_moments(moments('"count": 7', '"count": Infinity'))


def test_a_description_nested_deep(moments, tmp_path):
    with pytest.raises(DataError, match="description of moments is damaged"):
        load_moments(moments('"left_out": {}', f'"left_out": {DEEP}'))
    inputs = tmp_path / "inputs.safetensors"
    write_tensors({"made/x": torch.ones(2)}, {"rmt_compress_moments": DEEP}, inputs)
    with pytest.raises(DataError, match="description of inputs is damaged"):
        load_inputs(inputs)


def test_a_log_nested_deep(tmp_path):
    (tmp_path / "log.jsonl").write_text(f'{{"event": {DEEP}}}\n')
    with pytest.raises(TrainingError, match="cannot be read as the log of a run"):
        read_lines(tmp_path / "log.jsonl")


@pytest.mark.parametrize("content", [b"\x80\x02e.", b"\x80\x02X\x01."])
def test_a_training_state_with_a_damaged_pickle(content, tmp_path):
    whole, damaged = tmp_path / "whole.pt", tmp_path / "damaged.pt"
    TrainingState({}, 1, Snapshot([], {"w": torch.ones(2)})).save(whole)
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(damaged, "w") as other:
        for name in archive.namelist():
            other.writestr(name, content if name.endswith("data.pkl") else archive.read(name))
    with pytest.raises(TrainingError, match="is no training state, or a damaged one"):
        TrainingState.load(damaged)


def test_a_training_state_with_a_record_that_unpacks_into_megabytes(tmp_path):
    """torch's reader unpacks it before it looks at it."""
    whole, packed = tmp_path / "whole.pt", tmp_path / "packed.pt"
    TrainingState({}, 1, Snapshot([], {"w": torch.ones(2)})).save(whole)
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(packed, "w") as other:
        for name in archive.namelist():
            if name.endswith("/version"):
                other.writestr(name, bytes(2**20), zipfile.ZIP_DEFLATED)
            else:
                other.writestr(name, archive.read(name))
    with pytest.raises(TrainingError, match="a compressed archive"):
        TrainingState.load(packed)


@pytest.mark.parametrize("header", ["{'descr': '<f4', (", "{'descr': '<f4', 'shape': (" + "(" * 5000])
def test_an_array_whose_header_is_no_python(header, tmp_path):
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("x.npy", data)
    (tmp_path / "data.npy").write_bytes(data)
    for name in ("data.npz", "data.npy"):
        with pytest.raises(DataError, match="no readable numpy file"):
            open_array(tmp_path / name, seed=0)


def test_a_block_number_of_more_digits_than_python_takes(tmp_path):
    huge = "9" * 5000
    names = [f"layers.{huge}.weight", "layers.10.weight", "layers.2.weight", f"layers.{'0' * 4999}1.weight"]
    assert network_order(names)[:2] == [2, 1]
    description = describe(open_checkpoint({name: torch.ones(2, 2) for name in names}))
    assert contents(description)


def test_an_array_of_a_size_that_torch_takes_for_no_number(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (
                np.zeros(0).__reduce__()[0],
                (np.ndarray, (0,), b"b"),
                (1, (2**63, 3), np.dtype("f8"), False, b"1" * 8),
            )

    torch.save({"a": Hostile(), "b": np.ones(3)}, tmp_path / "model.pt", pickle_protocol=4)
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        assert [*checkpoint.tensors] == ["b"]


def test_a_sparse_tensor_with_entries_outside_of_it(tmp_path):
    state = {"w": torch.eye(2).to_sparse(), "b": torch.ones(2)}
    state["w"]._indices()[1, 0] = 2**42
    torch.save(state, tmp_path / "model.pt")
    with (
        open_checkpoint(tmp_path / "model.pt") as checkpoint,
        pytest.raises(CheckpointError, match="damaged sparse"),
    ):
        checkpoint.read("w")


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own, of quantized types that it will give up
def test_a_quantized_tensor_with_zero_points_that_cannot_be(tmp_path):
    """torch makes such tensors, saves and loads them, and computes nothing with them."""
    scales = torch.ones(2, dtype=torch.float64)
    state = {
        "sound": torch.quantize_per_tensor(torch.eye(2), 0.1, 5, torch.qint8),
        "zero": torch._empty_affine_quantized([2, 2], scale=0.1, zero_point=2**62, dtype=torch.qint8),
        "zeros": torch._empty_per_channel_affine_quantized(
            [2, 2], scales=scales, zero_points=torch.tensor([2**60, 2]), axis=0, dtype=torch.qint8
        ),
    }
    torch.save(state, tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        assert count_nonzero(checkpoint.read("sound")) == 2
        for name in ("zero", "zeros"):
            with pytest.raises(CheckpointError, match=f"{name} is a damaged quantized tensor"):
                checkpoint.read(name)


def test_a_key_nested_deeper_than_it_can_be_printed(tmp_path):
    deep = ()
    for _ in range(5000):
        deep = (deep,)
    with open_checkpoint({"w": torch.ones(2), deep: 1, 7: 2}) as checkpoint:
        assert checkpoint.notes == ("Entries that are no tensors left alone: a tuple, 7.",)


def test_an_archive_whose_records_lie_before_it(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02N.")
    data = bytearray((tmp_path / "model.pt").read_bytes())
    # The directory's own place, in the record at the end of the archive (APPNOTE.TXT §4.3.16).
    place = data.rindex(b"PK\x05\x06") + 16
    data[place : place + 4] = struct.pack("<I", int.from_bytes(data[place : place + 4], "little") + 2000)
    (tmp_path / "part").write_bytes(data)
    with pytest.raises(InertPickleError, match="is in no archive of"):
        load_inert_record(tmp_path / "part", 0, len(data))


def test_a_packed_file_that_unpacks_into_gigabytes(tmp_path):
    header = struct.pack(">HBB3I", 0, 8, 3, 2**14, 2**7, 2**7)
    packer = zlib.compressobj(1, wbits=31)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(packer.compress(header) + packer.flush() + bytes(2**20))
    with pytest.raises(DataError, match="over 100 times its size; if that is meant, unpack it first"):
        read_idx(tmp_path / "t10k-images-idx3-ubyte.gz")


def test_a_batch_that_remembers_an_object_under_a_large_number(tmp_path):
    """The C unpickler would fill half a gigabyte for this one."""
    pixels = np.arange(2 * 3072).reshape(2, 3072).astype(np.uint8)
    sound = pickle.dumps({b"data": pixels, b"labels": [1, 2]}, protocol=2)
    far = b"\x80\x02Nr\xff\xff\xff\x010" + sound[2:]
    (tmp_path / "test_batch").write_bytes(far)
    tracemalloc.start()
    try:
        read = read_cifar_split("own", tmp_path, "test")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20
    assert read.labels.tolist() == [1, 2]
    assert torch.equal(read.images[0].flatten()[:3] * 255, torch.from_numpy(pixels[0][:3]).float())
