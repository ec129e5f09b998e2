import warnings

import pytest
import torch
from torch import nn

from rmt_compress.analysis import AnalysisSettings
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.decomposition.svd import decompose
from rmt_compress.errors import CheckpointError, CompressionError, OutputError
from rmt_compress.layers.splitting import Factors
from rmt_compress.networks.loading import load_model
from rmt_compress.planning.settings import PlanSettings
from rmt_compress.pruning.road import prune
from rmt_compress.saving.reloading import load, load_dense
from tests.samples import exported
from tests.samples.seeds import repeatable

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x):
        return x + self.down(self.up(x).relu())


class Net(nn.Module):
    """Convolutions with and without groups, a transposed one, a table, gates, a buffer, a block in two places."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3)
        self.grouped = nn.Conv2d(12, 12, 3, groups=3)
        self.deconv = nn.ConvTranspose2d(12, 12, 3)
        self.norm = nn.BatchNorm2d(12)
        self.lstm = nn.LSTM(12, 16, batch_first=True)
        self.first = Block(16)
        self.second = self.first
        self.head = nn.Linear(16, 40)
        self.register_buffer("mixing", torch.randn(40, 40))

    def forward(self, x):
        x = self.norm(self.deconv(self.grouped(self.conv(x).relu())))
        x = self.lstm(x.flatten(2).transpose(1, 2))[0][:, -1]
        return self.head(self.second(self.first(x))) @ self.mixing


@repeatable
def network():
    return Net().eval()


@repeatable
def image():
    return torch.randn(2, 3, 9, 9)


def save(model, path, *, traced=False, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.trace(model, image()) if traced else torch.jit.script(model)
        torch.jit.save(program, path, **options)
    return path


def jit_load(path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(path, **options)


@pytest.mark.parametrize("traced", [False, True])
def test_every_tensor_is_read_as_torch_loads_it(traced, tmp_path):
    path = save(network(), tmp_path / "net.pt", traced=traced)
    expected = jit_load(path).state_dict()
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "TorchScript"
        assert list(checkpoint.tensors) == list(expected)
        for name, tensor in expected.items():
            assert torch.equal(checkpoint.read(name), tensor)
        assert checkpoint.ties["first.up.weight"] == ("second.up.weight",)
        assert any("deprecated" in note and "torch.export" in note for note in checkpoint.notes)


def test_nothing_of_torch_jit_is_called(tmp_path, monkeypatch):
    path = save(network(), tmp_path / "net.pt")
    monkeypatch.setattr(torch.jit, "load", None)
    monkeypatch.setattr(torch._C, "import_ir_module", None)
    monkeypatch.setattr(torch, "load", None)
    with open_checkpoint(path) as checkpoint:
        assert all(checkpoint.read(name) is not None for name in checkpoint.tensors)


def test_layers_are_what_the_programs_classes_say(tmp_path):
    with open_checkpoint(save(network(), tmp_path / "net.pt")) as checkpoint:
        layers = {layer.tensor: layer for layer in checkpoint.layers()}
    kinds = {name: layer.kind for name, layer in layers.items() if len(layer.shape) > 1}
    assert kinds == {
        "conv.weight": "conv2d",
        "grouped.weight": "conv2d",
        "deconv.weight": "conv_transpose2d",
        **{f"lstm.weight_{part}_l0[{gate}]": "recurrent" for part in ("ih", "hh") for gate in "ifgo"},
        "first.up.weight": "linear",
        "first.down.weight": "linear",
        "head.weight": "linear",
        "mixing": "linear",
    }
    assert layers["grouped.weight"].groups == 3
    assert "buffer" in layers["mixing"].why_skipped


class Codes(nn.Module):
    """A weight of one byte an entry, as a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.randn(40, 48).to(torch.float8_e4m3fn))
        self.head = nn.Linear(40, 64)

    def forward(self, x):
        return self.head(x @ self.weight.float().T)


def test_weights_of_eight_bits_are_read_and_left_alone(tmp_path):
    model, inputs = Codes().eval(), torch.randn(3, 48)
    source, target = tmp_path / "net.pt", tmp_path / "small.pt"
    exported.quiet(lambda: torch.jit.save(torch.jit.trace(model, inputs), source))
    prune(source, target, layout="dense", plan=PlanSettings(rule="rank:5", gof=1.0))
    with open_checkpoint(target) as checkpoint:
        assert checkpoint.tensors["weight"].dtype == "float8_e4m3fn"
        assert torch.equal(checkpoint.read("weight").float(), model.weight.float())
        assert torch.linalg.matrix_rank(checkpoint.read("head.weight")) == 5


def test_dense_layout_is_the_same_program_with_other_values(tmp_path):
    model = network()
    source, target = save(model, tmp_path / "net.pt"), tmp_path / "small.pt"
    result = prune(
        source,
        target,
        layout="dense",
        analysis=AnalysisSettings(min_size=8),
        plan=PlanSettings(rule="ratio:0.3", gof=1.0),
    )
    cut = {layer.tensor: layer.rank for layer in result.plan.layers if layer.action == "factorized"}
    assert "first.up.weight" not in cut  # it stands in two places, and an archive cannot say why
    assert {"conv.weight", "deconv.weight", "head.weight"} <= cut.keys()
    loaded = jit_load(target)
    assert torch.linalg.matrix_rank(loaded.head.weight) == cut["head.weight"]
    with torch.no_grad():
        for name, rank in cut.items():
            weight = model.get_parameter(name)
            weight.copy_(decompose(weight.flatten(1), rank).truncated(rank).reshape(weight.shape))
    torch.testing.assert_close(loaded(image()), model(image()), rtol=1e-5, atol=1e-5)
    with open_checkpoint(target) as checkpoint:
        assert checkpoint.format == "TorchScript, compressed"
        assert checkpoint.manifest.layout == "dense"


def test_factorized_layout_is_a_state_dict(tmp_path):
    model = network()
    source = save(model, tmp_path / "net.jit")
    settings = {"analysis": AnalysisSettings(min_size=8), "plan": PlanSettings(rule="ratio:0.3", gof=1.0)}
    result = prune(source, **settings)
    assert result.output == str(tmp_path / "net.pruned.safetensors")
    small = load(result.output, network())
    dense = load_dense(result.output)
    assert isinstance(small.head, nn.Sequential)
    model.load_state_dict(dense)
    torch.testing.assert_close(small(image()), model(image()), rtol=1e-4, atol=1e-4)
    with pytest.raises(OutputError, match=r"small\.jit: .*--layout dense"):
        prune(source, tmp_path / "small.jit", **settings)
    assert not (tmp_path / "small.jit").exists()


def test_a_layer_cannot_be_split_in_the_archive(tmp_path):
    with open_checkpoint(save(network(), tmp_path / "net.pt")) as checkpoint:
        layer = next(layer for layer in checkpoint.layers() if layer.name == "head")
        with pytest.raises(CompressionError, match="layout dense"):
            checkpoint.editor().replace(layer, Factors(torch.ones(1, 16), torch.ones(40, 1)))


def test_texts_beside_the_program_are_kept(tmp_path):
    source = save(network(), tmp_path / "net.pt", _extra_files={"labels.txt": "cat dog"})
    target = tmp_path / "small.pt"
    prune(
        source,
        target,
        layout="dense",
        analysis=AnalysisSettings(min_size=8),
        plan=PlanSettings(rule="ratio:0.3", gof=1.0),
    )
    texts = {"labels.txt": "", "rmt_compress": ""}
    jit_load(target, _extra_files=texts)
    assert texts["labels.txt"] == b"cat dog"
    assert b"rmt-compress/manifest/1" in texts["rmt_compress"]


def test_it_is_run_for_those_who_trust_it(tmp_path):
    model = network()
    path = save(model, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=r"net\.pt: .*--trust"):
        load_model(path)
    trusted = load_model(open_checkpoint(path, trust=True))
    torch.testing.assert_close(trusted(image()), model(image()))
    head = dict(trusted.named_parameters())["head.weight"]
    kept = head.data
    head.data = torch.zeros_like(kept)
    assert not torch.allclose(trusted(image()), model(image()))
    head.data = kept
    torch.testing.assert_close(trusted(image()), model(image()))


def test_multiply_adds_are_those_torch_counts(tmp_path):
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3, bias=False), nn.Linear(196, 5)

        def forward(self, x):
            return self.fc(self.conv(x).flatten(1))

    trusted = load_model(open_checkpoint(save(Small().eval(), tmp_path / "net.pt"), trust=True))
    assert trusted.multiply_adds(image()) == 2 * (4 * 27 * 49 + 196 * 5)


def test_the_archive_is_copied_byte_for_byte_where_nothing_changes(tmp_path):
    source = save(network(), tmp_path / "net.pt")
    target = tmp_path / "copy.pt"
    with open_checkpoint(source) as checkpoint:
        checkpoint.editor().write(target, target=target, metadata={}, sparse=False)
    assert exported.records(target) == exported.records(source)
