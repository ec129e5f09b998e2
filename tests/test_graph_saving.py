"""What the program does with any checkpoint that carries its own graph, shown on the smallest one."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rmt_compress.analysis import analyze
from rmt_compress.checkpoints import formats, open_checkpoint
from rmt_compress.checkpoints.formats import Format
from rmt_compress.checkpoints.graph import GraphCheckpoint, StoredFactors, WrittenGraph
from rmt_compress.checkpoints.graph_network import GraphNetwork
from rmt_compress.checkpoints.safetensors.safetensors_file import SafetensorsFile
from rmt_compress.compression import Compressed
from rmt_compress.data import Dataset
from rmt_compress.errors import CheckpointError, OutputError, SettingsError
from rmt_compress.layers import Layer
from rmt_compress.layers.splitting import Factors
from rmt_compress.networks.evaluation import evaluate
from rmt_compress.networks.loading import load_model
from rmt_compress.outputs import replacing
from rmt_compress.planning.making import make_plan
from rmt_compress.planning.settings import PlanSettings
from rmt_compress.pruning.road import prune
from rmt_compress.saving.reloading import load, load_dense
from rmt_compress.saving.writing import write
from rmt_compress.sweep import SweepTarget, sweep_rank
from tests.samples import exported


class Product(GraphCheckpoint):
    """The graph x @ A + b, its tensors in a safetensors file."""

    format = "product"
    suffixes = (".safetensors",)

    def __init__(self, path):
        self._stored = SafetensorsFile(path)
        self.path, self.notes, self.metadata = path, (), dict(self._stored.metadata)

    @property
    def tensors(self):
        return self._stored.tensors

    def read(self, name):
        return self._stored.read(name)

    def layers(self):
        a, b = self.tensors["A"], self.tensors["b"]
        return (
            Layer("A", "A", "linear_transposed", a.shape, a.dtype, bias="b", in_graph=True),
            Layer("b", "b", "vector", b.shape, b.dtype, in_graph=True),
        )

    def editor(self):
        return Editor({name: self.read(name) for name in self.tensors})

    def own_network(self):
        return Network(self)


class Editor:
    def __init__(self, tensors):
        self.tensors = tensors

    def replace(self, layer, factors):
        del self.tensors[layer.tensor]
        self.tensors["A.down"], self.tensors["A.up"] = (factor.T.contiguous() for factor in factors)
        return StoredFactors("A.down", "A.up", transposed=True)

    def assign(self, layer, weight):
        assert weight.shape == layer.shape
        self.tensors[layer.tensor] = weight

    def write(self, path, *, target, metadata, sparse):
        with replacing(target.with_name("beside")) as beside:
            beside.touch()
        save_file(self.tensors, path, metadata=metadata)
        return WrittenGraph(beside=(beside,))


class Network(GraphNetwork):
    def forward(self, inputs):
        return inputs @ self._parameters["A"] + self._parameters["b"]

    def multiply_adds(self, inputs):
        return len(inputs) * self._parameters["A"].numel()


@pytest.fixture
def path(tmp_path, rng):
    weight = rng.normal(size=(200, 64)) + 8 * np.outer(rng.normal(size=200), rng.normal(size=64))
    save_file({"A": torch.tensor(weight).float(), "b": torch.ones(64)}, tmp_path / "p.safetensors", {"by": "me"})
    return tmp_path / "p.safetensors"


@pytest.fixture
def checkpoint(path, monkeypatch):
    """The file at `path`, which is read as a product."""
    row = Format("product", (".safetensors",), lambda signs: signs.path == path, reader=f"{__name__}:Product")
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, row))
    return open_checkpoint(path)


@pytest.fixture
def dataset(rng, checkpoint):
    images = torch.tensor(rng.normal(size=(50, 200))).float()
    answers = (images @ checkpoint.read("A") + checkpoint.read("b")).argmax(1)
    labels = torch.where(torch.tensor(rng.random(50)) < 0.8, answers, 0)
    return Dataset("answers", "test", images, labels, classes=64)


def test_the_factors_go_into_the_graph_the_way_it_takes_them(checkpoint, tmp_path):
    plan = make_plan(analyze(checkpoint), gof=1.0)
    assert (plan.layers[0].action, plan.layers[0].rank) == ("factorized", 1)
    view = Compressed(checkpoint, plan)
    written = write(view, tmp_path / "small.safetensors")
    assert [outcome.parameters_after for outcome in view.outcomes] == [264, 64]
    assert written.bytes == (tmp_path / "small.safetensors").stat().st_size
    again = open_checkpoint(tmp_path / "small.safetensors")
    assert {name: info.shape for name, info in again.tensors.items()} == {
        "A.down": (200, 1),
        "A.up": (1, 64),
        "b": (64,),
    }
    assert again.metadata["by"] == "me"
    # The manifest says how they are to be multiplied, against numpy's own decomposition.
    u, s, vt = np.linalg.svd(checkpoint.read("A").double().numpy())
    np.testing.assert_allclose(load_dense(again)["A"], s[0] * np.outer(u[:, 0], vt[0]), atol=1e-4)


def test_dense_layout_keeps_names_and_shapes(checkpoint, tmp_path):
    plan = make_plan(analyze(checkpoint), gof=1.0)
    write(Compressed(checkpoint, plan, layout="dense"), tmp_path / "d.safetensors")
    again = open_checkpoint(tmp_path / "d.safetensors")
    assert again.manifest.layout == "dense"
    assert torch.linalg.matrix_rank(again.read("A"), rtol=1e-5) == 1


def test_what_fails_leaves_nothing_behind(checkpoint, tmp_path, monkeypatch):
    plan = make_plan(analyze(checkpoint), gof=1.0)
    before = {*tmp_path.iterdir()}
    with pytest.raises(OutputError, match=r"other\.suffix: .* of its own format, product: .*\.safetensors"):
        write(Compressed(checkpoint, plan), tmp_path / "other.suffix")
    right = Editor.replace

    def wrong(self, layer, factors):
        return right(self, layer, Factors(2 * factors.down, factors.up))

    monkeypatch.setattr(Editor, "replace", wrong)
    with pytest.raises(OutputError, match=r"A\.down reads back other than it was written"):
        write(Compressed(checkpoint, plan), tmp_path / "small.safetensors")
    assert {*tmp_path.iterdir()} == before


def test_prune_and_load_model(checkpoint, path, tmp_path):
    result = prune(path, plan=make_plan(analyze(checkpoint), gof=1.0))
    assert result.output == str(tmp_path / "p.pruned.safetensors")
    with pytest.raises(OutputError, match="its own format"):
        prune(path, tmp_path / "small.pt")
    with pytest.raises(SettingsError, match="carries its own graph; leave out --arch mlp:200,64"):
        load_model(path, arch="mlp:200,64")
    with pytest.raises(CheckpointError, match=r"carries its own graph .* load_dense"):
        load(path, torch.nn.Linear(200, 64))


class Sequence(torch.nn.Module):
    """Tensors that hold several matrices each: the gates of an LSTM, and q, k and v."""

    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(40, 32, batch_first=True)
        self.attention = torch.nn.MultiheadAttention(32, 2, batch_first=True)

    def forward(self, x):
        x = self.lstm(x)[0]
        return self.attention(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize(("suffix", "parts"), ((".pt2", 1), (".jit", 3)))
def test_matrices_that_share_a_tensor_are_cut_each_by_itself(suffix, parts, tmp_path):
    model, inputs = Sequence().eval(), torch.randn(2, 5, 40)
    source, target = tmp_path / f"source{suffix}", tmp_path / f"small{suffix}"
    if suffix == ".pt2":
        torch.export.save(exported.quiet(lambda: torch.export.export(model, (inputs,))), source)
        run = exported.load
    else:
        exported.quiet(lambda: torch.jit.save(torch.jit.trace(model, inputs, check_trace=False), source))
        run = torch.jit.load
    settings = PlanSettings(rule="rank:3", gof=1.0, when_not_smaller="truncate")
    result = prune(source, target, plan=settings, layout="dense")
    cut = {layer.tensor for layer in result.plan.layers if layer.changes}
    assert cut == {
        *(f"lstm.weight_{part}_l0[{gate}]" for part in ("ih", "hh") for gate in "ifgo"),
        # The exported graph multiplies with q, k and v at once: one matrix.
        *([f"attention.in_proj_weight[{part}]" for part in "qkv"] if parts > 1 else ["attention.in_proj_weight"]),
        "attention.out_proj.weight",
    }
    assert [outcome.rank for outcome in result.outcomes if outcome.tensor in cut] == [3] * len(cut)
    # The same cuts, made by torch on the parameters themselves.
    with torch.no_grad():
        for name, weight in model.named_parameters():
            for part in weight.chunk(4 if "lstm" in name else parts if "in_proj" in name else 1) * (
                weight.dim() > 1
            ):
                u, s, vt = torch.linalg.svd(part)
                part.copy_((u[:, :3] * s[:3]) @ vt[:3])
    small = exported.quiet(lambda: run(target))
    small = small.module() if suffix == ".pt2" else small
    torch.testing.assert_close(small(inputs), model(inputs), rtol=1e-4, atol=1e-5)


def test_the_graph_is_evaluated_and_swept_like_a_module(checkpoint, path, dataset):
    model = load_model(path)
    assert isinstance(open_checkpoint(model), Product)
    result = evaluate(model, dataset, path=path, latency=False)
    logits = dataset.images @ checkpoint.read("A") + checkpoint.read("b")
    assert result.score.accuracy == float((logits.argmax(1) == dataset.labels).double().mean())
    assert (result.parameters, result.macs) == (200 * 64 + 64, 200 * 64)
    sweep = sweep_rank(SweepTarget(model, analyze(model), dataset), ranks=(1, 64))
    u, s, vt = torch.linalg.svd(checkpoint.read("A"))
    first = dataset.images @ (s[0] * torch.outer(u[:, 0], vt[0])) + checkpoint.read("b")
    assert sweep.curves[0].points[0].score == float((first.argmax(1) == dataset.labels).double().mean())
    assert sweep.curves[0].points[1].score == sweep.score == result.score.accuracy
