"""Samples held where the network is: the same batches in the same order, the same network in the end."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from rmt_compress.data import open_samples
from rmt_compress.data.in_memory import InMemory
from rmt_compress.networks.architectures import build
from rmt_compress.networks.tasks.asking import _at_once
from rmt_compress.networks.tasks.classification import Classification
from rmt_compress.training import CycleSettings, TrainingSettings, finetune, lessons
from rmt_compress.training.feeding import Feed
from rmt_compress.training.on_device import OnDevice, held, on_device
from rmt_compress.training.optimizers import carry_over
from rmt_compress.training.steps import _add_terms

CPU = torch.device("cpu")


def _workers(rank, count):
    return SimpleNamespace(rank=rank, count=count, share=lambda indices: indices[rank::count])


@pytest.mark.parametrize(("rank", "count"), ((0, 1), (1, 2)))
def test_an_epoch_has_the_same_batches_in_the_same_order(rank, count):
    samples = open_samples("digits").part("train").thinned(204)
    kept = held(samples, CPU)
    assert (kept.targets, kept.classes, kept.count) == (samples.targets, samples.classes, samples.count)
    epochs = [list(Feed(each, 50, 7, _workers(rank, count))) for each in (samples, kept)]
    assert [step.of_all for step in epochs[0]] == [step.of_all for step in epochs[1]] == [50, 50, 50, 50, 4]
    for ours, theirs in zip(*epochs, strict=True):
        assert torch.equal(ours.mine.inputs, theirs.mine.inputs)
        assert torch.equal(ours.mine.targets, theirs.mine.targets)


def test_several_inputs_stay_together(tmp_path):
    x = np.arange(24, dtype=np.float32).reshape(8, 3)
    np.savez(tmp_path / "two.npz", first=x, second=-x[:, :2], labels=np.arange(8) % 2)
    kept = held(open_samples(f"array:{tmp_path / 'two.npz'}").part("train"), CPU)
    (batch,) = kept.reordered(torch.tensor([2, 0])).batches(5)
    assert list(batch.inputs) == ["first", "second"]
    assert torch.equal(batch.inputs["first"][:, :2], -batch.inputs["second"])
    assert len(batch.targets) == 2


def test_a_network_trained_on_them_is_the_same_bit_for_bit(tmp_path, monkeypatch):
    settings = TrainingSettings(epochs=3, batch_size=64, l1=1e-5)
    written = []
    for name in ("read", "held"):
        file = tmp_path / f"{name}.safetensors"
        done = finetune(
            None,
            file,
            data="digits",
            arch="mlp:64,64,10",
            training=settings,
            cycle=CycleSettings(every=2),
            samples=300,
        )
        written.append((load_file(file), [event["test_loss"] for event in done.runs[0].events]))
        monkeypatch.setattr(lessons, "_held", lambda task, _: task.of(held(task.samples, CPU)))
    for ours, theirs in zip(*(weights.values() for weights, _ in written), strict=True):
        assert torch.equal(ours, theirs)
    assert written[0][1] == written[1][1]


def test_what_is_held_and_what_is_not(monkeypatch):
    samples = open_samples("digits").part("train")
    assert on_device(samples, CPU) is samples
    elsewhere = torch.device("meta")
    assert isinstance(on_device(samples, elsewhere), OnDevice)
    monkeypatch.setattr("rmt_compress.training.on_device._ELSEWHERE", 1000)
    assert on_device(samples, elsewhere) is samples


@pytest.mark.parametrize(("side", "size"), ((8, 4096), (64, 1024), (512, 64)))
def test_a_gpu_is_asked_many_samples_at_once_where_they_are_small(side, size):
    task = Classification(InMemory(torch.zeros(2, 1, side, side), torch.zeros(2, dtype=torch.int64), "classes", 10))
    assert _at_once(task, torch.device("meta")) == size
    assert _at_once(task, CPU) == 64


def test_the_terms_are_those_that_autograd_finds():
    weights = [nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(3, 5))]
    weights[0].data[0] = 0.0
    terms = 0.1 * sum(w.abs().sum() for w in weights) + 0.2 * sum(w.square().sum() for w in weights)
    wanted = torch.autograd.grad(terms, weights)
    _add_terms(weights, TrainingSettings(l1=0.1, l2=0.2))
    for weight, gradient in zip(weights, wanted, strict=True):
        torch.testing.assert_close(weight.grad, gradient)


def test_fused_steps_find_a_momentum_for_every_weight():
    model = build("mlp:8,6,4", seed=0)
    old = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(2, 8)).sum().backward()
    old.step()
    model.append(nn.Linear(4, 4))
    new = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    carry_over(old, new, {}, SimpleNamespace(model=model, pairs={}))
    assert [bool(new.state[each]["momentum_buffer"].any()) for each in model.parameters()][-2:] == [False, False]
    model(torch.ones(2, 8)).sum().backward()
    new.step()
