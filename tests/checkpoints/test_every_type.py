"""Tensors of every type and layout, from a file through pruning, export and description and back."""

import warnings
from importlib.metadata import version

import pytest
import torch
from packaging.version import Version
from safetensors.torch import save_file
from torch import nn
from torch.torch_version import TorchVersion

import rmt_compress as rmt
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.errors import CheckpointError, UntrustedError
from rmt_compress.layers.zeroing import count_nonzero
from rmt_compress.networks.exporting import export
from rmt_compress.pruning.road import prune
from rmt_compress.saving.description import describe
from tests.samples.seeds import repeatable

# Types of safetensors and torch that a file can hold; float4 is read from torch's files alone.
TYPES = [
    *("bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float64", "complex64"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
]
FNUZ = Version(version("safetensors")) >= Version("0.8")
OF_TORCH_ALONE = ["complex32", "complex128", "float4_e2m1fn_x2", "bits8"]


def of_type(name):
    dtype = getattr(torch, name)
    raw = torch.randint(0, 2 if name == "bool" else 100, (24 * dtype.itemsize,), dtype=torch.uint8)
    return raw.view(dtype).reshape(4, 6)


@repeatable
def otherwise_stored():
    thin = torch.randn(8, 6).relu()
    places, two = torch.tensor([[0, 0], [1, 1]]), (3, 3)
    short = torch.tensor([1, 2], dtype=torch.uint16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "quantized": torch.quantize_per_tensor(thin, 0.1, 3, torch.quint8),
            "by channel": torch.quantize_per_channel(thin, torch.ones(8), torch.zeros(8).long(), 0, torch.qint8),
            "float scales": torch.quantize_per_channel(thin, torch.ones(8), torch.zeros(8), 0, torch.quint8),
            "coo": thin.to_sparse(),
            "not coalesced": torch.sparse_coo_tensor(places, torch.tensor([1.0, 2.0]), two),
            "coo of uint16": torch.sparse_coo_tensor(places, short, two),
            "csr": thin.to_sparse_csr(),
            "csc": thin.to_sparse_csc(),
            "bsr": thin.to_sparse_bsr((2, 2)),
            "nested": torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(4, 3)]),
            "expanded": torch.randn(1, 6).expand(40, 6),
            "conjugated": torch.randn(4, 4, dtype=torch.complex64).conj(),
            "turned": torch.randn(6, 40).T,
            "empty": torch.empty(0, 5),
            "scalar": torch.tensor(2.0),
        }


def pieces(tensor):
    """Dense tensors that make another, in types that are compared."""
    if tensor.is_nested:
        return [piece for part in tensor.unbind() for piece in pieces(part)]
    if tensor.is_quantized:
        return [tensor.int_repr(), tensor.dequantize()]
    if tensor.layout == torch.sparse_coo:
        return [tensor._indices(), *pieces(tensor._values())]
    if tensor.layout != torch.strided:
        return [tensor.to_dense()]
    flat = tensor.resolve_conj().contiguous().reshape(-1)
    return [torch.tensor(tensor.shape), flat.view(torch.uint8) if flat.numel() else flat]


def assert_same(left, right):
    assert (left.dtype, left.layout) == (right.dtype, right.layout)
    assert all(torch.equal(*pair) for pair in zip(pieces(left), pieces(right), strict=True))


def walk(tensor, suffix, folder):
    """Through every command that hands it on."""
    if suffix == ".safetensors" and str(tensor.dtype).endswith("fnuz") and not FNUZ:
        pytest.skip("this safetensors has no such type")
    source = folder / f"model{suffix}"
    state = {"fc.weight": torch.randn(128, 64), "odd": tensor}
    torch.save(state, source) if suffix == ".pt" else save_file(state, source)
    shown = {layer.name: layer for layer in describe(source).layers}["odd"]
    assert shown.nonzeros == count_nonzero(tensor) <= shown.parameters == tensor.numel()
    for name, layout in (("factorized", "factorized"), ("dense", "dense")):
        target = folder / f"{name}{suffix}"
        result = prune(source, target, layout=layout)
        assert result.totals["parameters"] >= 128 * 64
        assert_same(rmt.load_dense(target)["odd"], tensor)
    target = folder / f"plain{suffix}"
    export(source, target)
    assert_same(rmt.load_dense(target)["odd"], tensor)
    target = folder / f"saved{suffix}"
    rmt.save(rmt.load_dense(source), target)
    assert_same(rmt.load_dense(target)["odd"], tensor)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_every_type_comes_through(name, suffix, tmp_path):
    walk(of_type(name), suffix, tmp_path)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("name", OF_TORCH_ALONE)
def test_types_of_torch_alone_come_through(name, tmp_path):
    walk(of_type(name), ".pt", tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tensor", [pytest.param(tensor, id=name) for name, tensor in otherwise_stored().items()])
def test_every_way_to_store_a_tensor_comes_through(tensor, tmp_path):
    if tensor.is_nested and TorchVersion(torch.__version__) >= "2.15":
        with pytest.raises(UntrustedError, match=r"asks for torch\._utils\._rebuild_nested_tensor.*--trust"):
            walk(tensor, ".pt", tmp_path)
    else:
        walk(tensor, ".pt", tmp_path)


def test_a_tensor_without_values_is_one_line(tmp_path):
    torch.save({"fc.weight": torch.randn(128, 64), "odd": torch.empty(3, 3, device="meta")}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"model\.pt: odd was saved without values"):
        prune(tmp_path / "model.pt", tmp_path / "small.pt")


class Elsewhere(torch.Tensor):
    """A tensor that stands for values somewhere else, as a DTensor does."""

    @staticmethod
    def __new__(cls, shape):
        return torch.Tensor._make_wrapper_subclass(cls, shape)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return args[0]
        raise NotImplementedError


def test_a_tensor_that_stands_for_others_is_one_line():
    with pytest.raises(CheckpointError, match=r"w is a Elsewhere.*save plain tensors"):
        open_checkpoint({"w": Elsewhere((3, 3))})


@pytest.mark.parametrize("finite", [0.0, 1.5])
def test_a_causal_mask_is_no_damage(finite):
    mask = torch.full((64, 64), float("-inf")).triu(1) + finite
    analysis = rmt.analyze({"fc.weight": torch.randn(128, 64), "attn.mask": mask})
    assert not analysis.damaged
    assert {layer.tensor: layer.reason for layer in analysis.skipped}["attn.mask"].startswith("a mask")


def test_what_is_no_mask_is_damage():
    weight = torch.randn(64, 64)
    weight[3, 3] = float("-inf")
    hole = torch.zeros(64, 64)
    hole[0, 0] = float("nan")
    analysis = rmt.analyze({"fc.weight": weight, "attn.mask": hole})
    assert [layer.tensor for layer in analysis.damaged] == ["fc.weight", "attn.mask"]


def test_all_count_the_same_parameters(tmp_path):
    net = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.Linear(128, 40))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    expected = sum(parameter.numel() for parameter in net.parameters())
    assert rmt.analyze(net).parameters == rmt.analyze(tmp_path / "net.pt").parameters == expected
    assert rmt.analyze(net).buffers == 2 * 128 + 1
    assert describe(tmp_path / "net.pt").parameters == expected
    totals = prune(tmp_path / "net.pt", dry_run=True).totals
    assert (totals["parameters"], totals["buffers"]) == (expected, 257)
