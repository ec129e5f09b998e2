"""ONNX files: told by their content, read lazily, and refused in one line where they are damaged or lead astray."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.formats import recognize
from rmt_compress.errors import CheckpointError
from tests.samples.onnx_models import model, proto, saved


@pytest.fixture
def network(rng):
    """x @ a → Relu → Gemm b, with metadata."""
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "b", "c"], ["y"], name="second", transB=1),
    ]
    tensors = {
        "a": rng.normal(size=(64, 40)).astype("f"),
        "b": rng.normal(size=(10, 40)).astype("f"),
        "c": rng.normal(size=10).astype("f"),
    }
    built = model(nodes, tensors, {"x": ("n", 64)}, producer_name="somebody", doc_string="d" * 3000)
    built.metadata_props.add(key="author", value="somebody")
    return built


@pytest.fixture
def outside(network, tmp_path):
    """The same with its tensors in ``weights/all.bin``."""
    (tmp_path / "weights").mkdir()
    path = tmp_path / "outside.onnx"
    copy = onnx.ModelProto()
    copy.CopyFrom(network)
    onnx.save(copy, path, save_as_external_data=True, location="weights/all.bin", size_threshold=0)
    return path


def test_it_is_told_by_its_content(network, tmp_path):
    for name in ("model.onnx", "model.pt", "model"):
        path = saved(network, tmp_path / name)
        assert recognize(path).name == "ONNX"
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.format == "ONNX (opset 17)"
            assert checkpoint.metadata == {"author": "somebody"}
            assert [info.name for info in checkpoint.tensors.values()] == ["a", "b", "c"]
            assert checkpoint.parameters == 64 * 40 + 10 * 40 + 10
    assert open_checkpoint(saved(network, tmp_path / "model.onnx")).suffixes == (".onnx",)


@pytest.mark.parametrize(
    "head",
    [b"\x08", b"\x08\x08", b"\x08\x08\x12", b"\x08\xff\xff\xff\x7f:\x00", b"\x10\x08:\x00", b"\x08\x08\x99\x08:"],
)
def test_other_bytes_are_not_taken_for_it(tmp_path, head, refusal):
    (tmp_path / "some.bin").write_bytes(head + b"\xfe" * 40)
    assert "no known format" in refusal(tmp_path / "some.bin")


@given(st.binary(max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
def test_no_bytes_at_all_confuse_the_recognition(tmp_path, content):
    path = tmp_path / "some.onnx"
    path.write_bytes(b"\x08" + content)
    with pytest.raises(CheckpointError, match=r"some\.onnx: "):
        open_checkpoint(path)


def test_tensors_outside_the_model_are_read_one_at_a_time(network, outside, tmp_path, monkeypatch):
    checkpoint = open_checkpoint(outside)
    assert checkpoint.files == (outside, tmp_path / "weights" / "all.bin")
    assert outside.stat().st_size < 4000
    opened = []
    real = os.open
    expected = onnx.numpy_helper.to_array(network.graph.initializer[1])
    with monkeypatch.context() as watching:
        watching.setattr(os, "open", lambda path, *args: opened.append(Path(path).name) or real(path, *args))
        assert np.array_equal(checkpoint.read("b").numpy(), expected)
    assert opened == ["all.bin"]


def test_a_file_that_becomes_a_link_after_it_was_looked_at_is_not_followed(outside, tmp_path):
    checkpoint = open_checkpoint(outside)
    data = tmp_path / "weights" / "all.bin"
    secret = tmp_path / "secret.bin"
    data.rename(secret)
    data.symlink_to(secret)
    with pytest.raises(CheckpointError, match=r"all\.bin"):
        checkpoint.read("b")


def test_a_checkpoint_is_the_caller_s_own_copy(network, tmp_path):
    checkpoint = open_checkpoint(saved(network, tmp_path / "model.onnx"))
    checkpoint.read("a").zero_()
    assert checkpoint.read("a").abs().max() > 0


def changed(network, tmp_path, change):
    copy = onnx.ModelProto()
    copy.CopyFrom(network)
    change(copy)
    return saved(copy, tmp_path / "model.onnx")


DAMAGE = {
    "a cycle": (lambda m: m.graph.node[0].input.__setitem__(0, "r"), "wait for one another in a circle"),
    "a name from nowhere": (lambda m: m.graph.node[0].input.__setitem__(0, "z"), "nothing gives z"),
    "an output from nowhere": (lambda m: m.graph.output[0].__setattr__("name", "z"), "nothing gives z"),
    "a name twice": (lambda m: m.graph.node[1].output.__setitem__(0, "h"), "h is given twice"),
    "a tensor twice": (lambda m: m.graph.initializer.add().CopyFrom(m.graph.initializer[0]), "a is given twice"),
    "absurd dims": (lambda m: m.graph.initializer[0].dims.__setitem__(0, 2**40), "asks for"),
    "more entries than can be counted": (
        lambda m: m.graph.initializer[0].dims.extend([2**40] * 3),
        "impossible shape",
    ),
    "negative dims": (lambda m: m.graph.initializer[0].dims.__setitem__(0, -64), "impossible shape"),
    "too many dims": (lambda m: m.graph.initializer[0].dims.extend([1] * 70), "impossible shape"),
    "values of another type": (
        lambda m: m.graph.initializer[0].__setattr__("data_type", 11),
        "bytes where its shape",
    ),
    "no values": (lambda m: m.graph.initializer[0].ClearField("raw_data"), "0 values where its shape asks for"),
    "a segment": (lambda m: m.graph.initializer[0].segment.__setattr__("begin", 3), "one segment"),
    "no operator set": (lambda m: m.ClearField("opset_import"), "no operator set"),
    "no graph": (lambda m: m.ClearField("graph"), "no graph"),
}


@pytest.mark.parametrize("fault", DAMAGE)
def test_damaged_models(network, tmp_path, refusal, fault):
    change, expected = DAMAGE[fault]
    assert expected in refusal(changed(network, tmp_path, change))


def located(location, **more):
    def change(m):
        tensor = m.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **more}.items():
            tensor.external_data.add(key=key, value=value)

    return change


# Python 3.13 follows such links as far as they lead; the file is then refused when it is opened.
LOOP = "Too many levels of symbolic links" if sys.version_info >= (3, 13) else "outside the model's folder"


@pytest.mark.parametrize(
    ("location", "more", "expected"),
    [
        ("../secret.bin", {}, "outside the model's folder"),
        ("/etc/passwd", {}, "outside the model's folder"),
        ("inner/../../secret.bin", {}, "outside the model's folder"),
        ("link.bin", {}, "outside the model's folder"),
        ("folder_link/secret.bin", {}, "outside the model's folder"),
        ("loop", {}, LOOP),
        ("C:\\secret.bin", {}, "outside the model's folder"),
        ("", {}, "outside the model's folder"),
        ("nul\0byte", {}, "outside the model's folder"),
        ("missing.bin", {}, "missing.bin, which is missing; it belongs beside the model"),
        ("inner", {}, "no regular file"),
        ("short.bin", {}, "has 100 bytes in short.bin where its shape asks for 10,240"),
        ("short.bin", {"length": "10240"}, "ends at byte 10,240 of short.bin, which has 100"),
        ("short.bin", {"offset": "-10140"}, "has 10,240 bytes"),
        ("short.bin", {"offset": "many"}, "at no sound place"),
        ("x" * 300, {}, "cannot be read"),
    ],
)
def test_files_out_of_reach(network, tmp_path, refusal, location, more, expected):
    (tmp_path.parent / "secret.bin").write_bytes(bytes(20480))
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    (folder / "short.bin").write_bytes(bytes(100))
    (folder / "link.bin").symlink_to(tmp_path.parent / "secret.bin")
    (folder / "folder_link").symlink_to(tmp_path.parent)
    (folder / "loop").symlink_to(folder / "loop")
    if more.get("offset") == "-10140":
        expected = "damaged ONNX model"
    message = refusal(changed(network, folder, located(location, **more)))
    assert expected in message
    assert "\n" not in message


def test_a_place_that_is_no_text(network, tmp_path, refusal):
    path = changed(network, tmp_path, located("weights.bin"))
    path.write_bytes(path.read_bytes().replace(b"weights.bin", b"w\xa8ights.bin"))
    assert "lies where no file is" in refusal(path)


def test_truncated_anywhere(network, tmp_path, refusal):
    whole = network.SerializeToString()
    for length in sorted({*range(0, len(whole) - 1, 397), *range(12), len(whole) - 1}):
        path = tmp_path / "model.onnx"
        path.write_bytes(whole[:length])
        assert refusal(path)


def test_flipped_bits_are_refused_or_read_as_they_are(network, tmp_path, rng):
    """Most bits are weights, which no checksum guards; elsewhere there is one line, never another error."""
    network.doc_string = ""
    whole = network.SerializeToString()
    structure = [*range(200), *range(len(whole) - 200, len(whole))]
    refused = []
    for position in structure:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        path = tmp_path / "model.onnx"
        path.write_bytes(damaged)
        try:
            with open_checkpoint(path) as checkpoint:
                for name in checkpoint.tensors:
                    checkpoint.read(name)
                checkpoint.layers()
        except CheckpointError as error:
            refused.append(str(error))
    assert len(refused) > 50
    assert all(line.startswith(str(path)) and line.isprintable() for line in refused)


def test_wrong_magic_and_other_files_of_that_name(network, tmp_path, refusal):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\xff\xff\xff\xff" + network.SerializeToString()[4:])
    assert "no sound protobuf message" in refusal(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n")
    assert "git lfs pull" in refusal(path)
    path.write_bytes(b"")
    assert "empty" in refusal(path)
    path.write_bytes(b"These are not weights.\n")
    assert "is text" in refusal(path)


def test_graphs_inside_graphs_without_end(tmp_path, refusal):
    """Written byte by byte: onnx itself refuses to."""

    def field(number, content):
        length, prefix = len(content), b""
        while length > 127:
            prefix += bytes([length & 127 | 128])
            length >>= 7
        return bytes([number << 3 | 2]) + prefix + bytes([length]) + content

    path = tmp_path / "model.onnx"
    for depth in (20, 5000):
        graph = b""
        for _ in range(depth):
            graph = field(1, field(5, field(6, graph)))  # graph.node, node.attribute, attribute.g
        path.write_bytes(b"\x08\x08" + field(7, graph) + field(8, b"\x10\x11"))
        assert ("no tensors" if depth == 20 else "no sound protobuf message") in refusal(path)


@pytest.mark.slow
def test_a_long_chain_takes_no_long_time(tmp_path):
    nodes = [helper.make_node("Identity", [f"w{i}"], [f"w{i + 1}"]) for i in range(20000)]
    nodes.append(helper.make_node("MatMul", ["x", "w20000"], ["y"]))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [proto("w0", np.ones((4, 4), "f"))])
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    (layer,) = open_checkpoint(saved(built, tmp_path / "model.onnx")).layers()
    assert layer.why_skipped == "used by Identity, not multiplied with the inputs of a layer"


def sparse(dims, values, indices):
    return helper.make_sparse_tensor(
        proto("w", np.array(values, "f")), proto("", np.array(indices, np.int64)), dims
    )


def with_sparse(tmp_path, tensor):
    built = model([helper.make_node("Identity", ["x"], ["y"])], {}, {"x": (1,)})
    built.graph.sparse_initializer.append(tensor)
    return saved(built, tmp_path / "model.onnx")


def test_sparse_tensors_are_unfolded(tmp_path):
    dense = torch.tensor([[0.0, 0, 3, 0], [5, 0, 0, 0]])
    for indices in ([2, 4], [[0, 2], [1, 0]]):
        with open_checkpoint(with_sparse(tmp_path, sparse([2, 4], [3, 5], indices))) as checkpoint:
            assert checkpoint.tensors["w"].shape == (2, 4)
            assert torch.equal(checkpoint.read("w"), dense)


@pytest.mark.parametrize(
    ("dims", "values", "indices", "expected"),
    [
        ([2**20, 2**20], [1], [0], "memory trap"),
        ([2, 4], [1, 2], [0], "other than as many indices"),
        ([2, 4], [1, 2], [[0], [1]], "other than as many indices"),
        ([2, -4], [1], [0], "impossible shape"),
        ([2, 4], [1], [8], "outside its shape"),
        ([2, 4], [1], [-1], "outside its shape"),
        ([2, 4], [1], [[0, 4]], "outside its shape"),
    ],
)
def test_damaged_sparse_tensors(tmp_path, dims, values, indices, expected):
    path = with_sparse(tmp_path, sparse(dims, values, indices))
    with pytest.raises(CheckpointError, match=expected):
        open_checkpoint(path).read("w")


@pytest.mark.slow
def test_declared_sizes_take_no_memory(network, python, tmp_path):
    """A model of two kilobytes that claims a terabyte is refused within four gigabytes beside the libraries."""
    path = changed(network, tmp_path, lambda m: m.graph.initializer[0].dims.__setitem__(0, 2**33))
    program = (
        "import pathlib, resource; from rmt_compress.checkpoints import open_checkpoint\n"
        "from rmt_compress.errors import CheckpointError\n"
        "taken = int(pathlib.Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (taken + 4 * 2**30,) * 2)\n"
        f"try: open_checkpoint({str(path)!r})\n"
        "except CheckpointError as error: print(error)\n"
    )
    done = python.run("-c", program)
    assert "asks for 1,374,389,534,720;" in done.stdout


@pytest.mark.slow
def test_the_plain_installation_reads_analyses_and_writes(network, tmp_path):
    """In a process where nothing of the extra can be imported; onnx itself only once a file needs it."""
    path = saved(network, tmp_path / "model.onnx")
    program = (
        "import importlib.abc, sys\n"
        "class Missing(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('onnxruntime', 'onnxscript'): raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "import importlib.util\n"
        "found = importlib.util.find_spec\n"
        "missing = lambda name, *rest: None if name in ('onnxruntime', 'onnxscript') else found(name, *rest)\n"
        "importlib.util.find_spec = missing\n"
        "import rmt_compress as rmt\n"
        "from rmt_compress.cli.app import main\n"
        "assert 'onnx' not in sys.modules\n"
        "path, target = sys.argv[1:]\n"
        "size = ['--min-size', '8']\n"
        "options = [*size, '--gof', '1', '--rule', 'ratio:0.25', '--json']\n"
        "prune = ['prune', path, '-o', target, *options]\n"
        "for arguments in (['show', path], ['analyze', path, *size], prune):\n"
        "    sys.argv = ['rmt-compress', *arguments]\n"
        "    try: main()\n"
        "    except SystemExit as stopped: assert not stopped.code, arguments\n"
    )
    target = tmp_path / "small.onnx"
    done = subprocess.run(
        [sys.executable, "-c", program, path, target], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert target.exists()


def test_a_model_beyond_what_protobuf_holds(tmp_path, refusal):
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.write(b"\x08\x08:\xff\xff\xff\xff\x0f")
        file.truncate(2**31 + 10)
    assert "2 GB at most" in refusal(path)
