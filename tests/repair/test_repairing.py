"""Repaired networks: closed forms, what may change and what may not."""

import copy

import pytest
import torch
from torch import nn

from rmt_compress.errors import DataError, SettingsError
from rmt_compress.networks.repair.repairing import repair_blocks
from tests.samples.cut_copies import cut_to


def mlp():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(12, 20), nn.ReLU(), nn.LayerNorm(20), nn.Linear(20, 16), nn.ReLU(inplace=True), nn.Linear(16, 12)
    )


def cnn():
    torch.manual_seed(1)
    model = nn.Sequential(
        *(nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(inplace=True)),
        *(nn.Conv2d(12, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 6)),
    )
    for _ in range(20):
        model(torch.randn(32, 3, 8, 8))
    return model.eval()


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LlamaConfig(
        **{"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "max_position_embeddings": 32, "pad_token_id": None},
    )
    return LlamaForCausalLM(config).eval()


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(model, before):
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def test_factors_of_a_linear_block_reach_the_least_squares_optimum():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 8, bias=False))
    inputs = torch.randn(400, 10) @ torch.diag(torch.logspace(0, 1, 10)) @ torch.randn(10, 10) / 8
    small = cut_to(model, 3)

    report = repair_blocks(small, model, [inputs], passes=25, rate=0.02)

    # Eckart and Young: of rank 3 the nearest outputs are the three leading singular vectors of the outputs.
    outputs, found = model(inputs).detach(), small(inputs).detach()
    values = torch.linalg.svdvals(outputs)
    optimum = float(values[3:].norm() / values.norm())
    error = float((found - outputs).norm() / outputs.norm())
    assert report.before > 1.2 * optimum
    assert optimum <= error < 1.04 * optimum


@pytest.mark.parametrize(("build", "shape"), ((mlp, (12,)), (cnn, (3, 8, 8))))
def test_every_block_and_the_network_come_nearer_to_the_original(build, shape):
    model = build()
    small = cut_to(model, 4)
    fresh = torch.randn(100, *shape)
    before = (small(fresh) - model(fresh)).norm()

    report = repair_blocks(small, model, [torch.randn(200, *shape)], rate=5e-3)

    assert len(report.blocks) == 3
    assert all(block.kept and block.after < block.before for block in report.blocks)
    assert report.after < report.before
    assert (small(fresh) - model(fresh)).norm() < 0.9 * before


def test_only_factors_biases_and_norms_change():
    model = cnn().train()
    small = cut_to(model, 4, only=("3", "8"))
    before, original = state_of(small), state_of(model)

    report = repair_blocks(small, model, torch.randn(80, 3, 8, 8).split(20), rate=5e-3)

    factors = {f"{at}.{part}.weight" for at in (3, 8) for part in ("down", "up")}
    # The norm before the first block stays, with whatever is read before it.
    assert changed(small, before) == factors | {"4.weight", "4.bias", "8.up.bias"}
    assert not changed(model, original)
    assert report.tensors.keys() == changed(small, before)
    assert all(torch.equal(value, small.state_dict()[name]) for name, value in report.tensors.items())


def test_all_else_of_both_networks_is_as_it_was():
    model = mlp().train()
    small = cut_to(model, 4)
    small[0].up.weight.requires_grad_(False)
    small[3].down.weight.grad = torch.ones_like(small[3].down.weight)
    small[2].eval()
    modes = [module.training for module in small.modules()]
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)

    repair_blocks(small, model, [torch.randn(40, 12, generator=torch.Generator().manual_seed(3))])

    assert torch.equal(torch.rand(3), expected)
    assert [module.training for module in small.modules()] == modes
    learns = {name for name, parameter in small.named_parameters() if not parameter.requires_grad}
    assert learns == {"0.up.weight"}
    assert torch.equal(small[3].down.weight.grad, torch.ones_like(small[3].down.weight))
    assert small[0].up.weight.grad is None
    for module in (*small.modules(), *model.modules()):
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "forward" not in vars(module)


def test_a_rate_that_diverges_leaves_everything_as_it_came():
    model = mlp()
    small = cut_to(model, 4)
    before = state_of(small)

    report = repair_blocks(small, model, [torch.randn(80, 12)], rate=1e4)

    assert not changed(small, before)
    assert not report.tensors
    assert report.after == report.before
    assert not any(block.kept for block in report.blocks)


def test_the_same_seed_gives_the_same_network_bit_for_bit():
    model, inputs = mlp(), torch.randn(80, 12)
    several = [cut_to(model, 4) for _ in range(3)]
    for small, seed in zip(several, (0, 0, 1), strict=True):
        repair_blocks(small, model, [inputs], seed=seed, passes=2)
    assert not changed(several[0], several[1].state_dict())
    assert changed(several[0], several[2].state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
@pytest.mark.traced
def test_a_language_model_with_padded_inputs(dtype):
    model = llama().to(dtype)
    small = cut_to(model, 6, only=[name for name, _ in model.named_modules() if ".layers." in name])
    before, again = state_of(small), copy.deepcopy(small)
    mask = torch.ones(24, 8, dtype=torch.int64)
    mask[::2, 5:] = 0
    words = torch.randint(0, 50, (24, 8))

    report = repair_blocks(small, model, [{"input_ids": words, "attention_mask": mask}], rate=2e-3, passes=3)

    assert [block.block for block in report.blocks] == ["model.layers.0", "model.layers.1"]
    assert [len(block.layers) for block in report.blocks] == [7, 7]
    assert all(block.kept for block in report.blocks)
    assert report.tensors.keys() == changed(small, before)
    names = ("down.weight", "up.weight", "layernorm.weight")
    assert all(name.startswith("model.layers.") and name.endswith(names) for name in report.tensors)
    assert {value.dtype for value in small.state_dict().values()} == {dtype}
    # What stands in the padding says nothing.
    others = torch.where(mask == 0, (words + 1) % 50, words)
    same = repair_blocks(again, model, [{"input_ids": others, "attention_mask": mask}], rate=2e-3, passes=3)
    assert same.after == pytest.approx(report.after, rel=1e-6)


class TwoInputs(nn.Module):
    """Layers that are given a scale beside what they compute with, and return two things."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second = Scaled(), Scaled()

    def forward(self, values, scale):
        values, steps = self.first(scale=scale, hidden_states=values, steps=0)
        return {"output": self.second(scale=scale, hidden_states=values, steps=steps)[0]}


class Scaled(nn.Module):
    """Part of the network above."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(10, 10)

    def forward(self, hidden_states, scale, steps):
        return hidden_states + self.linear(hidden_states).relu() * scale, steps + 1


@pytest.mark.parametrize("named", (True, False))
def test_a_network_of_several_inputs_whose_blocks_take_them_by_name(named):
    model = TwoInputs()
    small = cut_to(model, 3)
    values, scale = torch.randn(160, 10) * torch.logspace(-1, 0.5, 10), torch.rand(160, 1)
    inputs = {"values": values, "scale": scale} if named else (values, scale)

    report = repair_blocks(small, model, [inputs], rate=5e-3)

    # Around the first Linear goes what comes from no block, around the second what comes from the first.
    assert [block.block for block in report.blocks] == ["first.linear", "second"]
    assert report.after < 0.98 * report.before


def test_how_the_network_is_called_can_be_given():
    model = mlp()
    small = cut_to(model, 4)
    inputs = [(torch.randn(4, 12), "a label") for _ in range(12)]
    report = repair_blocks(small, model, inputs, call=lambda model, batch: model(batch[0]), rate=5e-3)
    assert report.inputs == 48
    assert report.after < report.before


def test_a_network_without_a_chain_is_one_block():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            self.first, self.second = nn.Linear(12, 12), nn.Linear(12, 12)

        def forward(self, x):
            x = self.first(x)
            return x.relu() + self.second(x)

    model = Around()
    small = cut_to(model, 4)
    report = repair_blocks(small, model, [torch.randn(200, 12)], rate=5e-3)
    (block,) = report.blocks
    assert block.block == ""
    assert block.layers == ("first", "second")
    assert block.after < 0.95 * block.before


def test_hidden_states_keep_within_memory():
    model = mlp()
    inputs = [torch.randn(80, 12)]
    # 20 + 16 numbers of four bytes behind two blocks, and as much that is read next, of both networks.
    sample = 2 * (2 * 20 + 2 * 16) * 4
    report = repair_blocks(cut_to(model, 4), model, inputs, memory=30 * sample)
    assert (report.inputs, report.left_out) == (15, 25)
    with pytest.raises(DataError, match="two calibration inputs take 2,304 bytes, 2,000 may be used"):
        repair_blocks(cut_to(model, 4), model, inputs, memory=2000)


def test_what_cannot_be_repaired():
    model = mlp()
    assert repair_blocks(copy.deepcopy(model), model, [torch.randn(8, 12)]).blocks == ()
    small = cut_to(model, 4)
    with pytest.raises(DataError, match="two calibration inputs or more"):
        repair_blocks(small, model, [torch.randn(1, 12)])
    with pytest.raises(DataError, match="cannot be run on calibration inputs 1×13"):
        repair_blocks(small, model, [torch.randn(8, 13)])
    with pytest.raises(SettingsError, match="passes must be 1 or more, not 0; rate must be above 0, not 0"):
        repair_blocks(small, model, [torch.randn(8, 12)], passes=0, rate=0)
