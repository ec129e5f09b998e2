"""What a compressed file says of itself, and what becomes of one that lies."""

import hashlib
import json
import math
import re
import subprocess

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.manifest import Manifest
from rmt_compress.checkpoints.provenance import file_digest, make_manifest, source_record
from rmt_compress.compression import compress
from rmt_compress.errors import CheckpointError, PlanError
from tests.samples import compressed


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.safetensors"
    save_file(compressed.network().state_dict(), path, {"architecture": "cnn:…", "licence": "CC0"})
    return path


@pytest.fixture
def small(tmp_path, source):
    path = tmp_path / "small.safetensors"
    compressed.write(path, source=source, sparsify=0.02)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_everything_is_remembered(tmp_path, source, suffix):
    path = tmp_path / f"small{suffix}"
    compressed.write(path, source=source, sparsify=0.02)
    with open_checkpoint(path) as checkpoint, open_checkpoint(source) as original:
        manifest = checkpoint.manifest
        assert manifest is not None
        assert manifest.source is not None
        assert manifest.source.name == "source.safetensors"
        assert manifest.source.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
        assert manifest.source.bytes == source.stat().st_size
        assert manifest.source.parameters == original.parameters
        assert manifest.plan == compressed.plan(compressed.network(), sparsify=0.02)
        assert manifest.architecture == "cnn:…"
        assert manifest.metadata == checkpoint.metadata
        assert original.metadata.items() <= checkpoint.metadata.items()
        assert {layer.weight: layer.rank for layer in manifest.factorized} == compressed.RANKS
        assert {layer.weight: layer.bias for layer in manifest.factorized} == {
            "conv.weight": "conv.bias",
            "deconv.weight": "deconv.bias",
            "fc.weight": None,
        }
        assert manifest.sparse
        assert "rmt-compress" in checkpoint.notes[0]
        assert original.manifest is None


def test_the_header_is_plain_json_beside_the_source_s_text(small):
    with safe_open(small, "pt") as file:
        texts = file.metadata()
    assert texts["licence"] == "CC0"
    manifest = json.loads(texts["rmt_compress"])
    assert manifest["schema"] == "rmt-compress/manifest/1"
    assert "metadata" not in manifest
    assert manifest["factorized"][0]["down"] == "conv.down.weight"


def test_a_torch_file_loads_with_weights_only(tmp_path, source):
    path = tmp_path / "small.pt"
    module = compressed.write(path, source=source)
    saved = torch.load(path, weights_only=True)
    assert set(saved) == {"state_dict", "rmt_compress", "metadata"}
    assert saved["metadata"]["licence"] == "CC0"
    module.load_state_dict(saved["state_dict"])


def test_names_that_all_start_alike_keep_their_prefix(tmp_path):
    """A wrapper's prefix is taken off other files; in ours it is part of the names."""
    model = torch.nn.ModuleDict({"module": compressed.network()})
    for suffix in (".pt", ".safetensors"):
        compressed.write(tmp_path / f"m{suffix}", model, ranks={"module.fc.weight": 3})
        names = list(open_checkpoint(tmp_path / f"m{suffix}").tensors)
        assert "module.fc.down.weight" in names


def test_tensors_are_shown_as_the_compressed_network_has_them(small):
    module = compress(compressed.network(), compressed.plan(compressed.network(), sparsify=0.02))
    with open_checkpoint(small) as checkpoint:
        assert {n: i.shape for n, i in checkpoint.tensors.items()} == {
            name: tuple(tensor.shape) for name, tensor in module.state_dict().items()
        }
        for name, tensor in module.state_dict().items():
            # Compressed from a file and as a module: one and the same, but for the zeros' signs.
            assert torch.allclose(checkpoint.read(name), tensor, atol=1e-6), name


def test_json_round_trip(small):
    manifest = open_checkpoint(small).manifest
    assert manifest is not None
    again = Manifest.from_json(manifest.to_json(), origin="here", metadata=manifest.metadata)
    assert again == manifest


def test_digest_of_shards_is_what_sha256sum_says(tmp_path):
    for number in (1, 2):
        save_file({f"w{number}": torch.randn(40, 40)}, tmp_path / f"model-0000{number}-of-00002.safetensors")
    with open_checkpoint(tmp_path) as checkpoint:
        record = source_record(checkpoint)
        assert [path.name[:11] for path in checkpoint.files] == ["model-00001", "model-00002"]
    shell = "sha256sum model-*.safetensors | sha256sum"
    expected = subprocess.run(shell, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert record.sha256 == expected.split()[0]
    assert record.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=r"gone\.pt: no such file"):
        file_digest([tmp_path / "gone.pt"])


def test_a_model_in_memory_is_a_source_without_digest():
    model = compressed.network()
    record = source_record(open_checkpoint(model))
    assert (record.name, record.sha256) == ("module", None)
    assert record.bytes == sum(t.numel() * t.element_size() for t in model.state_dict().values())


def test_a_plan_that_was_not_carried_out(tmp_path):
    model = compressed.network()
    with pytest.raises(PlanError, match=r"factorizes conv\.weight, but there is no conv\.down\.weight"):
        make_manifest(None, compressed.plan(model), open_checkpoint(model).tensors)


def _shape(manifest):
    manifest["factorized"][2]["shape"] = [41, 1200]


def _rank(manifest):
    manifest["factorized"][0]["rank"] = 5


def _name(manifest):
    manifest["factorized"][0]["down"] = "nothing.weight"


def _twice(manifest):
    manifest["factorized"][1]["down"] = manifest["factorized"][0]["down"]


def _kind(manifest):
    manifest["factorized"][0]["kind"] = "conv1d"


def _bias(manifest):
    manifest["factorized"][0]["bias"] = "head.bias"


def _extra(manifest):
    manifest["surprise"] = 1


def _schema(manifest):
    manifest["schema"] = "rmt-compress/manifest/2"


def _negative(manifest):
    manifest["factorized"][2]["shape"] = [-1, 1200]


def _sparse(manifest):
    manifest["sparse"].append("head.bias")


def _sparse_twice(manifest):
    manifest["sparse"] *= 2


def _not_sparse(manifest):
    manifest["sparse"] = ["nothing"]


def _tie(manifest):
    manifest["ties"] = {"a": "nothing"}


def _dense(manifest):
    manifest["layout"] = "dense"


def _digest(manifest):
    manifest["source"]["sha256"] = "../../etc/passwd"


def _infinite(manifest):
    manifest["plan"]["settings"]["gof"] = math.inf


def _text(manifest):
    manifest["tool_version"] = {"a": ["b"]}


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (_twice, "stands for two things"),
        (_kind, "conv1d weight of 4 dimensions"),
        (_bias, "head.bias is not the bias beside conv.weight"),
        (_extra, "surprise: Extra inputs"),
        (_schema, "newer than this version"),
        (_negative, "factorized.2.shape.0"),
        (_sparse_twice, "stands for two things"),
        (_dense, "dense layout has neither"),
        (_digest, "source.sha256"),
        (_infinite, "not JSON compliant|Input should be"),
        (_text, "tool_version"),
    ],
)
def test_a_tampered_manifest_is_one_line(tmp_path, small, tamper, message):
    state = load_file(small)
    with safe_open(small, "pt") as file:
        texts = file.metadata()
    manifest = json.loads(texts["rmt_compress"])
    tamper(manifest)
    path = tmp_path / "tampered.safetensors"
    save_file(state, path, {**texts, "rmt_compress": json.dumps(manifest)})
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(path)
    assert str(caught.value).isprintable()
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("tamper", "difference"),
    [
        (_shape, "fc.up.weight is 40×5 instead of 41×5"),
        (_rank, "conv.down.weight is 4×3×3×3 instead of 5×3×3×3; conv.up.weight"),
        (_name, "nothing.weight is missing"),
        (_sparse, "head.bias is no sparse tensor: it is stored dense"),
        (_not_sparse, "nothing is no sparse tensor: it is missing"),
        (_tie, "nothing .shared by a. is missing"),
    ],
)
def test_a_manifest_of_other_tensors_makes_an_ordinary_file(tmp_path, small, tamper, difference):
    state = load_file(small)
    with safe_open(small, "pt") as file:
        texts = file.metadata()
    manifest = json.loads(texts["rmt_compress"])
    names = set(open_checkpoint(small).tensors)
    tamper(manifest)
    path = tmp_path / "tampered.safetensors"
    save_file(state, path, {**texts, "rmt_compress": json.dumps(manifest)})
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.manifest is None
        assert "rmt_compress" not in checkpoint.metadata
        assert re.search(f"Another program has changed .*{difference}", checkpoint.notes[-1])
        # What is still stored as a bitmask and values is decoded.
        assert set(checkpoint.tensors) == (names if tamper is not _not_sparse else set(state))
        for name, info in checkpoint.tensors.items():
            assert tuple(checkpoint.read(name).shape) == info.shape


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "1", "[" * 100_000, '{"schema": "\\ud800"}'])
def test_no_manifest_at_all(tmp_path, text):
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.zeros(3, 3)}, path, {"rmt_compress": text})
    with pytest.raises(CheckpointError, match="manifest is damaged") as caught:
        open_checkpoint(path)
    assert str(caught.value).isprintable()


def read_all(path):
    with open_checkpoint(path) as checkpoint:
        for name in checkpoint.tensors:
            checkpoint.read(name)


def _parts(state):
    name = next(key.removesuffix(".bits") for key in state if key.endswith(".bits"))
    return tuple(f"{name}.{part}" for part in ("bits", "values", "shape"))


@pytest.mark.parametrize(
    "tamper",
    [
        lambda state, bits, values, shape: state.pop(values),
        lambda state, bits, values, shape: state.update({shape: torch.tensor([2**40, 2**20])}),
        lambda state, bits, values, shape: state.update({shape: torch.ones(1000, dtype=torch.int64)}),
        lambda state, bits, values, shape: state.update({shape: state[shape].int()}),
        lambda state, bits, values, shape: state.update({bits: state[bits][:-1]}),
        lambda state, bits, values, shape: state.update({bits: state[bits].float()}),
        lambda state, bits, values, shape: state.update({values: state[values].long()}),
    ],
)
def test_parts_that_are_no_sparse_tensor_stay_what_they_are(tmp_path, small, tamper):
    state = load_file(small)
    with safe_open(small, "pt") as file:
        texts = file.metadata()
    tamper(state, *_parts(state))
    path = tmp_path / "tampered.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, texts)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.manifest is None
        assert " is no sparse tensor: " in checkpoint.notes[-1]
        for name in set(_parts(load_file(small))) & state.keys():
            assert torch.equal(checkpoint.read(name), state[name])


@pytest.mark.parametrize(
    "tamper",
    [
        lambda state, bits, values, shape: state.update({values: state[values][:-1].clone()}),
        lambda state, bits, values, shape: state[bits].fill_(255),
    ],
)
def test_damaged_sparse_tensors(tmp_path, small, tamper):
    state = load_file(small)
    with safe_open(small, "pt") as file:
        texts = file.metadata()
    tamper(state, *_parts(state))
    path = tmp_path / "tampered.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, texts)
    with pytest.raises(
        CheckpointError, match=r"tampered\.safetensors: (the sparse tensor .* damaged|holds)"
    ) as caught:
        read_all(path)
    assert str(caught.value).isprintable()
