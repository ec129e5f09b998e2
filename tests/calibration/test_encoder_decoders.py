"""Calibration of an encoder and a decoder, block after block: the decoder's all read what the encoder returns."""

from contextlib import suppress

import pytest
import torch
from torch import nn

import rmt_compress as rmt
from rmt_compress.analysis.run_settings import RunSettings
from rmt_compress.decomposition.moments_file import load_moments, save_moments
from rmt_compress.errors import DataError
from rmt_compress.networks.calibration_settings import CalibrationSettings
from rmt_compress.networks.loading import load_model
from rmt_compress.networks.repair.chain import Chain, find_chain_with_memory
from rmt_compress.networks.streamed import block_by_block, stored_weights
from rmt_compress.networks.streamed.block_by_block import calibrate_stored
from rmt_compress.networks.streamed.kept_states import KeptStates
from rmt_compress.planning.budgets import BudgetSettings
from rmt_compress.pruning import unasked_calibration
from rmt_compress.pruning.budgeted import Request
from rmt_compress.pruning.road import prune
from tests.calibration.test_block_by_block import BATCHES, assert_same
from tests.samples.transformers_models import IDS, built, logits

transformers = pytest.importorskip("transformers")

# Of another length than what is encoded, so that nothing else has the shape of what is read.
BOTH = [{**batch, "decoder_input_ids": IDS[:, at : at + 5]} for at, batch in enumerate(BATCHES)]
BLOCKS = {
    "t5": [f"{side}.block.{at}" for side in ("encoder", "decoder") for at in range(2)],
    "bart": [f"model.{side}.layers.{at}" for side in ("encoder", "decoder") for at in range(2)],
}
CROSS = {
    "t5": "decoder.block.{}.layer.1.EncDecAttention.{}",
    "bart": "model.decoder.layers.{}.encoder_attn.{}_proj",
}


@pytest.fixture
def no_room(monkeypatch):
    """No network fits as a whole."""
    for module in (block_by_block, unasked_calibration):
        monkeypatch.setattr(module, "fits_whole", lambda checkpoint, max_memory: False)


def saved(tmp_path, family, **changes):
    built(family, **changes).save_pretrained(tmp_path / family)
    return tmp_path / family


@pytest.mark.usefixtures("no_room")
@pytest.mark.parametrize("family", BLOCKS)
@pytest.mark.parametrize("weighted", (True, False))
def test_moments_are_those_of_the_network_as_a_whole(tmp_path, family, weighted):
    folder = saved(tmp_path, family)
    expected = rmt.calibrate(load_model(folder), BOTH, weighted=weighted)
    found = calibrate_stored(folder, BOTH, max_memory="2GB", weighted=weighted)
    # Beside tables and heads, which are blocks of their own where nothing else has the same weight.
    assert [path for path in found.record["blocks"] if path[-1].isdigit()] == BLOCKS[family]
    assert_same(found, expected, rel=3e-6)
    # What all of them read has one C, in either way.
    names = [CROSS[family].format(at, name) + ".weight" for at in range(2) for name in "kv"]
    for moments in (found, expected):
        assert len({id(moments.layers[name].inputs) for name in names}) == 1


@pytest.mark.usefixtures("no_room")
def test_deeper_ones_and_heads_of_their_own(tmp_path):
    folder = saved(tmp_path, "t5", num_layers=4, num_decoder_layers=3, tie_word_embeddings=False)
    found = calibrate_stored(folder, BOTH, max_memory="2GB")
    assert sum(".block." in path for path in found.record["blocks"]) == 7
    assert_same(found, rmt.calibrate(load_model(folder), BOTH), rel=5e-6)


@pytest.mark.usefixtures("no_room")
def test_a_scalar_of_the_user_that_asks_the_encoder_too(tmp_path):
    folder = saved(tmp_path, "bart")

    def scalar(outputs, generator):
        return outputs.logits.square().sum() + outputs.encoder_last_hidden_state.pow(3).sum()

    found = calibrate_stored(folder, BOTH, max_memory="2GB", scalar=scalar)
    assert_same(found, rmt.calibrate(load_model(folder), BOTH, scalar=scalar), rel=3e-6)


class Translator(nn.Module):
    """Two stacks with a small layer between them that all blocks of the second one read through."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleList([nn.Linear(48, 48) for _ in range(2)])
        self.bridge = nn.Linear(48, 4)
        self.decoder = nn.ModuleList([Reading() for _ in range(3)])
        self.head = nn.Linear(48, 8)

    def forward(self, x, y):
        for layer in self.encoder:
            x = torch.tanh(layer(x))
        read = self.bridge(x)
        for block in self.decoder:
            y = block(y, read)
        return self.head(y)


class Reading(nn.Module):
    """Reads two things; of the second, for `copies`, a tensor of its own."""

    def __init__(self, width=4, *, copies=False):
        super().__init__()
        self.own, self.cross, self.copies = nn.Linear(48, 48), nn.Linear(width, 48), copies

    def forward(self, y, read):
        read = read.clone() if self.copies else read
        return y + torch.tanh(self.own(y)) * self.cross(read).mean(1, keepdim=True)


class Straight(Translator):
    """Without the layer between; each block reads a copy."""

    def __init__(self):
        super().__init__()
        self.bridge = nn.Identity()
        self.decoder = nn.ModuleList([Reading(48, copies=True) for _ in range(3)])


@pytest.mark.usefixtures("no_room")
def test_a_layer_that_several_blocks_feel_is_left_out(tmp_path, monkeypatch):
    from rmt_compress.networks.streamed import choosing_blocks

    monkeypatch.setattr(choosing_blocks, "_SMALL", 1 / 8)  # the bridge is in no block then
    model = Translator().eval()
    torch.save(model.state_dict(), tmp_path / "net.pt")
    batches = [(torch.randn(2, 5, 48), torch.randn(2, 3, 48)) for _ in range(2)]
    found = calibrate_stored(tmp_path / "net.pt", batches, arch=f"{__name__}:Translator", max_memory="2GB")
    assert [path.partition(".")[0] for path in found.record["blocks"]] == ["encoder"] * 2 + ["decoder"] * 3 + [
        "head"
    ]
    expected = rmt.calibrate(model, batches)
    assert found.left_out == {"bridge.weight": "several blocks feel it, of which one is in memory at a time"}
    del expected.layers["bridge.weight"]
    expected.left_out.update(found.left_out)
    assert_same(found, expected, rel=3e-6)


@pytest.mark.usefixtures("no_room")
def test_what_each_block_copies_has_a_c_of_its_own(tmp_path):
    model = Straight().eval()
    torch.save(model.state_dict(), tmp_path / "net.pt")
    batches = [(torch.randn(2, 5, 48), torch.randn(2, 3, 48)) for _ in range(2)]
    found = calibrate_stored(tmp_path / "net.pt", batches, arch=f"{__name__}:Straight", max_memory="2GB")
    assert_same(found, rmt.calibrate(model, batches), rel=3e-6)
    first, second = (found.layers[f"decoder.{at}.cross.weight"].inputs for at in range(2))
    # Their vectors are weighed by what this block alone feels.
    assert not torch.allclose(first, second)


@pytest.mark.usefixtures("no_room")
@pytest.mark.parametrize("family", BLOCKS)
def test_interrupted_it_goes_on_to_the_same_bits(tmp_path, monkeypatch, family):
    folder, kept = saved(tmp_path, family), tmp_path / "kept"
    expected = calibrate_stored(folder, BOTH, max_memory="2GB")
    loaded = []
    own = stored_weights.StoredWeights.in_memory
    monkeypatch.setattr(
        stored_weights.StoredWeights, "in_memory", lambda self, block: (loaded.append(block), own(self, block))[1]
    )
    reached, found = 0, None

    def progress(done, total, name):
        nonlocal reached
        if done > reached:
            reached = done
            raise KeyboardInterrupt

    while found is None:
        with suppress(KeyboardInterrupt):
            found = calibrate_stored(folder, BOTH, max_memory="2GB", partial=kept, progress=progress)
    blocks = expected.record["blocks"]
    assert reached == (2 * len(blocks) - 1) * len(BOTH)
    assert_same(found, expected, rel=0)
    assert not kept.exists()
    assert list(dict.fromkeys(loaded)) == blocks
    assert loaded[-1] == blocks[0]


@pytest.mark.usefixtures("no_room")
def test_no_more_weights_are_in_memory_than_a_block_has(tmp_path, monkeypatch):
    folder, held = saved(tmp_path, "t5", num_layers=3), []
    own = stored_weights.StoredWeights.read

    def read(self, places):
        own(self, places)
        weights = {id(p): p for p in self._model.parameters() if p.untyped_storage().nbytes() > p.element_size()}
        held.append(sum(weight.nbytes for weight in weights.values()))

    monkeypatch.setattr(stored_weights.StoredWeights, "read", read)
    calibrate_stored(folder, BOTH, max_memory="2GB")
    model = load_model(folder)
    # The table is in a place of its own too, that nobody calls.
    beside = [model.shared.weight, *(side.final_layer_norm.weight for side in (model.encoder, model.decoder))]
    block = max(sum(p.nbytes for p in block.parameters()) for block in model.decoder.block)
    assert max(held) == block + sum(weight.nbytes for weight in beside)


@pytest.mark.usefixtures("no_room")
@pytest.mark.parametrize("family", BLOCKS)
def test_it_is_cut_with_these_moments(tmp_path, family):
    folder = saved(tmp_path, family)
    moments = calibrate_stored(folder, BOTH, max_memory="2GB")
    save_moments(moments, tmp_path / "m")
    assert_same(load_moments(tmp_path / "m"), moments, rel=0)
    within = Request(BudgetSettings(keep=0.6), CalibrationSettings(), moments=tmp_path / "m")
    result = prune(folder, tmp_path / "small", within=within, running=RunSettings(max_memory="2GB"))
    assert result.verified == "unverified"
    assert result.budget["reached"]["keep"] <= 0.6
    cut = [each for each in result.plan.layers if each.changes]
    assert {each.tensor for each in cut} <= moments.layers.keys()
    assert all(each.predicted_loss is not None for each in cut)
    sides = {part for each in cut for part in ("encoder.", "decoder.") if part in each.tensor}
    assert len(sides) == 2
    left = logits(load_model(tmp_path / "small"), family)
    assert left.isfinite().all()
    assert not torch.equal(left, logits(built(family), family))


class Skipping(nn.Module):
    """Layers, some of which read what earlier ones have returned."""

    def __init__(self, *skips):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(6)])
        self.skips = skips

    def forward(self, x):
        outputs = []
        for at, layer in enumerate(self.layers):
            x = torch.tanh(layer(x + sum(outputs[begin] for begin, end in self.skips if end == at)))
            outputs.append(x)
        return x


@pytest.mark.parametrize(
    ("skips", "memory"),
    [([], None), ([(1, 4)], 1), ([(1, 3), (1, 4), (1, 5)], 1), ([(0, 3), (1, 4)], "whole"), ([(2, 3)], None)],
)
def test_one_output_may_be_read_further_on(skips, memory):
    model = Skipping(*skips)
    names = tuple(f"layers.{at}" for at in range(6))
    found = find_chain_with_memory(model, names, model, torch.randn(2, 8), lambda path: 6 if not path else 1)
    assert found == (Chain(("",), None) if memory == "whole" else Chain(names, memory))


def test_outputs_of_the_library_are_kept(tmp_path):
    states, output = KeptStates(tmp_path), transformers.modeling_outputs.BaseModelOutput(torch.ones(2, 3))
    states.keep(0, 0, (output, 2))
    found, number = states.output(0, 0)
    assert type(found) is type(output)
    assert torch.equal(found.last_hidden_state, output.last_hidden_state)
    assert (found.hidden_states, number) == (None, 2)
    with pytest.raises(DataError, match="a block returns a object, which is not kept"):
        states.keep(0, 1, object())
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes().replace(b"BaseModelOutput", b"BertModelOutput"))
    with pytest.raises(DataError, match="damaged"):
        KeptStates(tmp_path).output(0, 0)
