"""Files that readers stumbled over when the fuzzer gave them such: refused in one line now, or read."""

import hashlib
import json
import pickle
import struct
import tracemalloc
import zipfile
import zlib
from contextlib import closing

import numpy as np
import pytest
import torch

from rmt_compress.analysis.finished import FinishedLayers
from rmt_compress.analysis.settings import AnalysisSettings
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.journal import Journal
from rmt_compress.checkpoints.pytorch.inert_files import load_inert_record
from rmt_compress.checkpoints.pytorch.inert_objects import InertPickleError
from rmt_compress.data.arrays import open_array
from rmt_compress.data.cifar import read_cifar_split
from rmt_compress.data.idx import read_idx
from rmt_compress.data.image_files import read_image
from rmt_compress.data.sources import open_samples
from rmt_compress.decomposition.moments import LayerMoments, Moments
from rmt_compress.decomposition.moments_file import load_inputs, load_moments, save_moments, write_tensors
from rmt_compress.errors import CheckpointError, DataError, OutputError, TrainingError
from rmt_compress.layers.zeroing import count_nonzero
from rmt_compress.networks.calibration.interrupted import Partial
from rmt_compress.networks.tasks.questions import open_task
from rmt_compress.reporting.description_table import contents
from rmt_compress.reporting.layer_names import network_order
from rmt_compress.saving.description import describe
from rmt_compress.training.event_log import read_lines
from rmt_compress.training.starting import restored
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
    # From torch 2.15 on its own reader looks at the entries.
    with (
        pytest.raises(CheckpointError, match=r"damaged sparse|damaged.*inconsistent with indices"),
        open_checkpoint(tmp_path / "model.pt") as checkpoint,
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


def test_a_batch_that_says_its_bytes_are_pointers(tmp_path):
    """numpy took a pickle's word for the flags of a type, and would let go of objects where there are pixels."""

    class Hostile:
        def __reduce__(self):
            return np.dtype, ("u1", False, True), (3, "|", None, None, None, -1, -1, 63)

    class Pixels:
        def __reduce__(self):
            return (
                np.zeros(0).__reduce__()[0],
                (np.ndarray, (0,), b"b"),
                (1, (2, 3072), Hostile(), False, b"1" * 6144),
            )

    (tmp_path / "test_batch").write_bytes(pickle.dumps({"data": Pixels(), "labels": [1, 2]}, protocol=2))
    read = read_cifar_split("own", tmp_path, "test")
    assert (read.images * 255 == ord("1")).all()


def test_a_batch_with_a_label_that_is_no_64_bit_number(tmp_path):
    content = {"data": np.zeros((1, 3072), np.uint8), "labels": [2**63]}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match="must be a list of whole numbers"):
        read_cifar_split("own", tmp_path, "test")


def test_sizes_that_are_no_array_and_nothing_in_it(tmp_path):
    header = struct.pack(">HBB3I", 0, 8, 3, 0, 2**32 - 1, 2**32 - 1)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(header)
    with pytest.raises(DataError, match="no array has the shape"):
        read_idx(tmp_path / "t10k-images-idx3-ubyte")


def test_postscript_that_is_called_a_picture_is_not_run(tmp_path):
    """Pillow has Ghostscript run it."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n")
    with pytest.raises(DataError, match="cannot identify image file"):
        read_image(tmp_path / "a.png", "a.png")


def test_a_picture_of_a_few_bytes_that_unpacks_into_a_hundred_megabytes(tmp_path):
    image = pytest.importorskip("PIL.Image")
    image.new("L", (3000, 3000)).save(tmp_path / "a.png")
    with pytest.raises(
        DataError, match=r"a.png: 3000×3000 pixels in [\d,]+ bytes would be over 200 times its size"
    ):
        read_image(tmp_path / "a.png", "a.png")


def test_a_picture_whose_profile_is_empty(tmp_path):
    """Pillow stumbles by an IndexError, as over a TIFF file whose offset is no whole number by a TypeError."""
    image = pytest.importorskip("PIL.Image")
    image.new("L", (4, 4)).save(tmp_path / "a.png")
    whole, profile = (tmp_path / "a.png").read_bytes(), b"iCCP" + zlib.crc32(b"iCCP").to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(whole[:-12] + bytes(4) + profile)
    with pytest.raises(DataError, match=r"a.png: not a readable image \(IndexError"):
        read_image(tmp_path / "a.png", "a.png")


@pytest.fixture
def saved(tmp_path):
    """Opens a saved data set of one column, text, whose bytes and description are changed."""
    pa = pytest.importorskip("pyarrow")

    def write(change=lambda data: data, state='{"_data_files": [{"filename": "a.arrow"}]}'):
        table = pa.table({"text": ["a" * 7, "b" * 11]})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        (tmp_path / "a.arrow").write_bytes(change(sink.getvalue().to_pybytes()))
        (tmp_path / "state.json").write_text(state)
        return [*open_samples(f"datasets:{tmp_path}", vocabulary=256).whole().batches(2)]

    assert len(write()) == 1
    return write


def test_a_saved_data_set_whose_offsets_lead_out_of_it(saved):
    """Arrow reads wherever they point: the process ended by SIGSEGV."""
    offsets, far = struct.pack("<3i", 0, 7, 18), struct.pack("<3i", 0, 1 << 30, 18)
    with pytest.raises(DataError, match=r"it cannot be read .*[Oo]ffset"):
        saved(lambda data: data.replace(offsets, far))


def test_a_saved_data_set_whose_description_is_another(saved):
    with pytest.raises(DataError, match="it cannot be read"):
        saved(lambda data: data.replace(b"text", b"te\xa8t"))
    with pytest.raises(DataError, match="names no files"):
        saved(state='{"_data_files": 0.5}')
    with pytest.raises(DataError, match=r"state\.json cannot be read"):
        saved(state=DEEP)


@pytest.fixture
def weights(tmp_path):
    write_tensors({"w": torch.eye(9, 16)}, {}, tmp_path / "w.safetensors")
    with open_checkpoint(tmp_path / "w.safetensors") as checkpoint:
        yield checkpoint


@pytest.mark.parametrize("lengths", [[], [1, 1]])
@pytest.mark.parametrize("found", [{"is": "other"}, [], {"is": "BulkFit", "p": 1}, {}])
def test_a_journal_whose_entries_are_whole_and_no_layers(found, lengths, weights, tmp_path):
    def opened():
        return FinishedLayers(tmp_path / "kept", weights, AnalysisSettings(min_size=8), "cpu", lambda _: None)

    with closing(opened()) as finished:
        finished._journal.add({"tensor": "w", "found": found, "lengths": lengths})
    with closing(opened()) as finished, pytest.raises(OutputError, match="holds entries that no run has written"):
        finished.known(weights.layers())


def test_a_journal_whose_beginning_or_entries_are_no_objects(tmp_path):
    path = tmp_path / "kept"
    path.write_bytes(b'{"rmt_compress_journal": true}\n')
    with pytest.raises(OutputError, match="holds something else"):
        Journal(path, {}, print)
    path.write_bytes(b'{"rmt_compress_journal": ' + DEEP.encode() + b"}\n")
    with pytest.raises(OutputError, match="holds something else"):
        Journal(path, {}, print)
    path.unlink()
    for text in ("7", DEEP):
        with Journal(path, {}, lambda _: None):
            described = f"0 {text}".encode()
            whole = hashlib.sha256(described).hexdigest().encode() + b" " + described + b"\n\n"
            with path.open("ab") as file:
                file.write(whole)
        with Journal(path, {}, lambda _: None) as journal:
            assert journal.entries == []


def test_what_is_left_of_a_calibration_is_nested_deep(tmp_path):
    (tmp_path / "calibration.json").write_text(DEEP)
    with pytest.raises(DataError, match="damaged; delete the folder"):
        Partial(tmp_path, "0")


def test_a_training_state_of_another_network(tmp_path):
    state = TrainingState({}, 1, Snapshot([("0.weight", 3)], {"w": torch.ones(2)}))
    with pytest.raises(TrainingError, match=r"s\.pt: does not suit the network"), state.taken_up(tmp_path / "s.pt"):
        restored(lambda: torch.nn.Sequential(torch.nn.Linear(2, 2)), state.network)


def test_pixels_that_are_remembered_nested_deep(tmp_path):
    write_tensors({"w": torch.eye(3)}, {"pixels": DEEP}, tmp_path / "w.safetensors")
    with open_checkpoint(tmp_path / "w.safetensors") as checkpoint, pytest.raises(DataError, match="is no JSON"):
        open_task("digits", torch.nn.Linear(64, 10), checkpoint)
