"""Calibration of networks that do not fit in memory, one block of weights at a time."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import rmt_compress as rmt
from rmt_compress.errors import SettingsError
from rmt_compress.networks.loading import load_model
from rmt_compress.networks.streamed import block_by_block, stored_weights
from rmt_compress.networks.streamed.block_by_block import calibrate_stored
from tests.samples.transformers_models import IDS, built

MASK = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6])
BATCHES = [{"input_ids": IDS, "attention_mask": MASK}, {"input_ids": IDS.flip(1), "attention_mask": MASK.flip(0)}]
LLAMA = ["model.embed_tokens", "model.layers.0", "model.layers.1", "lm_head"]


@pytest.fixture
def tiny_program(monkeypatch):
    """Sizes then count the network alone."""
    monkeypatch.setattr(block_by_block, "PROGRAM", 0)


@pytest.fixture
def no_room(monkeypatch):
    """No network fits as a whole."""
    monkeypatch.setattr(block_by_block, "fits_whole", lambda checkpoint, max_memory: False)


def folder_of(family, tmp_path):
    built(family).save_pretrained(tmp_path / family)
    return tmp_path / family


def assert_same(found, expected, *, rel=1e-6):
    assert list(found.layers) == list(expected.layers)
    assert found.left_out == expected.left_out
    for name, own in expected.layers.items():
        other = found.layers[name]
        assert other.count == own.count
        for part in ("inputs", "mean", "outputs"):
            ours, theirs = getattr(other, part), getattr(own, part)
            assert float((ours - theirs).norm()) <= rel * float(theirs.norm()), (name, part)


@pytest.mark.usefixtures("no_room")
@pytest.mark.parametrize(
    ("family", "blocks"),
    [
        ("llama", LLAMA),
        # Its tables are added up: the first block reads both.
        ("gpt2", ["transformer.wte", "transformer.wpe", "transformer.h.0", "transformer.h.1"]),
        (
            "bert-classifier",
            ["bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1", "bert.pooler.dense"],
        ),
    ],
)
def test_moments_are_those_of_the_network_as_a_whole(tmp_path, family, blocks):
    folder = folder_of(family, tmp_path)
    expected = rmt.calibrate(load_model(folder), BATCHES)
    found = calibrate_stored(folder, BATCHES, max_memory="2GB")
    assert_same(found, expected)
    assert found.record["blocks"][: len(blocks)] == blocks
    assert found.record["samples"] == expected.record["samples"]
    assert found.record["gradient"] == expected.record["gradient"]


class Stages(nn.Module):
    """Convolutions with what runs between them, and outputs that no classes are drawn from."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 40, 3, padding=1)
        self.norm = nn.BatchNorm2d(40)
        self.body = nn.Sequential(nn.Conv2d(40, 48, 3, stride=2), nn.ReLU(), nn.Conv2d(48, 40, 3))
        self.head = nn.Linear(40, 36)

    def forward(self, pixels):
        hidden = torch.relu_(self.norm(self.stem(pixels)))
        return self.head(self.body(hidden).mean((2, 3)))[:, :, None, None]


@pytest.mark.usefixtures("no_room")
def test_a_file_with_its_architecture(tmp_path):
    model = Stages().eval()
    model.norm.running_mean.normal_()
    save_file(model.state_dict(), tmp_path / "stages.safetensors")
    batches = list(torch.randn(4, 3, 9, 9).chunk(2))
    seen = []
    found = calibrate_stored(
        tmp_path / "stages.safetensors",
        iter(batches),
        arch=f"{__name__}:Stages",
        max_memory="2GB",
        progress=lambda *told: seen.append(told),
    )
    assert found.record["blocks"] == ["stem", "body.0", "body.2", "head"]
    assert_same(found, rmt.calibrate(model, batches))
    done = [told[0] for told in seen]
    assert done == sorted(done)
    assert done[-1] == seen[-1][1] == 7 * len(batches)


@pytest.mark.usefixtures("tiny_program")
def test_interrupted_it_goes_on_behind_finished_blocks_to_the_same_bits(tmp_path, monkeypatch):
    folder = folder_of("llama", tmp_path)
    expected = calibrate_stored(folder, BATCHES, max_memory=150_000)
    loaded = []
    own = stored_weights.StoredWeights.in_memory
    monkeypatch.setattr(
        stored_weights.StoredWeights, "in_memory", lambda self, block: (loaded.append(block), own(self, block))[1]
    )

    def stop_at(number):
        def progress(done, total, name):
            if done == number:
                raise KeyboardInterrupt

        return progress

    # Three blocks forward and four backward, two batches each.
    for number in (3, 9):
        with pytest.raises(KeyboardInterrupt):
            calibrate_stored(
                folder, BATCHES, max_memory=150_000, partial=tmp_path / "kept", progress=stop_at(number)
            )
    assert loaded == [*LLAMA[:2], *LLAMA[1:3], LLAMA[3], LLAMA[2]]
    loaded.clear()
    found = calibrate_stored(folder, BATCHES, max_memory=150_000, partial=tmp_path / "kept")
    assert loaded == [LLAMA[2], LLAMA[1], LLAMA[0]]
    assert_same(found, expected, rel=0)
    assert not (tmp_path / "kept").exists()


@pytest.mark.usefixtures("tiny_program")
def test_room_decides_and_no_more_weights_are_in_memory_than_said(tmp_path, monkeypatch):
    folder = folder_of("llama", tmp_path)
    held = []
    own = stored_weights.StoredWeights.read

    def read(self, places):
        own(self, places)
        weights = {id(p): p for p in self._model.parameters() if p.untyped_storage().nbytes() > p.element_size()}
        held.append(sum(weight.nbytes for weight in weights.values()))

    monkeypatch.setattr(stored_weights.StoredWeights, "read", read)
    weights = built("llama")
    twice = 2 * sum(parameter.nbytes for parameter in weights.parameters())
    moments = calibrate_stored(folder, BATCHES, max_memory=twice - 1)
    # Not all sums of a block have room at once.
    assert moments.record["passes"] > len(LLAMA)
    assert "trace" not in moments.record
    block = sum(p.nbytes for p in weights.model.layers[0].parameters())
    assert max(held) == block + weights.model.norm.weight.nbytes
    held.clear()
    whole = calibrate_stored(folder, BATCHES, max_memory=twice)
    assert "blocks" not in whole.record
    assert list(whole.layers) == list(moments.layers)
    assert held == []


@pytest.mark.usefixtures("tiny_program")
@pytest.mark.parametrize(
    ("family", "memory", "says"),
    [
        ("llama", 30_000, r"the largest of 4 blocks \(.*\) and what lies between them take"),
        ("llama", 60_000, r"running model.layers.1 on one batch takes .* give smaller batches, or more memory"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(tmp_path, family, memory, says):
    with pytest.raises(SettingsError, match=says):
        calibrate_stored(folder_of(family, tmp_path), BATCHES, max_memory=memory)


class Ladder(nn.Module):
    """Layers, of which each reads what all before have returned."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(40, 40) for _ in range(4)])

    def forward(self, x):
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return x


@pytest.mark.usefixtures("tiny_program")
def test_what_is_no_chain_is_said_in_a_line(tmp_path):
    save_file(Ladder().state_dict(), tmp_path / "net.safetensors")
    with pytest.raises(SettingsError, match=r"Ladder is no chain of blocks that could be run one at a time"):
        calibrate_stored(
            tmp_path / "net.safetensors", [torch.randn(2, 40)], arch=f"{__name__}:Ladder", max_memory=20_000
        )


@pytest.mark.usefixtures("no_room")
def test_weights_that_the_library_has_renamed_keep_the_names_of_the_file(tmp_path):
    folder = folder_of("vit", tmp_path)
    images = list(torch.randn(4, 3, 16, 16).chunk(2))
    found = calibrate_stored(folder, images, max_memory="2GB")
    assert len(found.record["blocks"]) > 1
    # In the class they have others.
    assert "vit.encoder.layer.0.attention.attention.query.weight" in found.layers
    one = calibrate_stored(folder, images, max_memory="2GB", layers=list(found.layers)[:2])
    assert list(one.layers) == list(found.layers)[:2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_by_block, "fits_whole", lambda checkpoint, max_memory: True)
        assert_same(found, calibrate_stored(folder, images))
