"""The networks whose layers `harm.py` cuts: two real ones, the samples, and others that are trained here.

Those trained here differ in what they are (perceptrons, autoencoders, convolutions with and without batch norm, a
mixer, a vision and a language transformer) and in how they were trained: hardly, for long, with weight decay, with
wrong labels learned by heart. Each takes a minute or less on a quiet core and is kept in a folder that is never
committed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from harm_classes import ImageTransformer, Mixer, TextTransformer, autoencoder, strided
from torch import nn
from torch.nn import functional

from rmt_compress.data import load_data
from rmt_compress.networks.architectures import build
from rmt_compress.networks.loading import load_model
from rmt_compress.outputs import replacing

SAMPLES = Path(__file__).parents[1] / "sample_models"
LENGTH = 128
Pair = tuple[torch.Tensor, torch.Tensor]
"""Inputs and what is to come out of them: labels, the next bytes, or values."""


@dataclass(frozen=True)
class Subject:
    """A network and what it is asked.

    Attributes:
        model: the network, in evaluation mode.
        asked: inputs and targets that it was not trained on.
        about: what it is and how it was trained.
    """

    model: nn.Module
    asked: Pair
    about: str

    def answers(self) -> tuple[float, float | None]:
        """Mean loss (nats, or squared error) and the share of right answers; None where there are no classes."""
        total, right, count = 0.0, 0, 0
        with torch.inference_mode():
            for inputs, targets in zip(*(torch.split(each, 50) for each in self.asked), strict=True):
                outputs = self.model(inputs)
                outputs = getattr(outputs, "logits", outputs)
                total += float(loss_of(outputs, targets)) * targets.numel()
                count += targets.numel()
                if not targets.is_floating_point():
                    right += int((outputs.flatten(0, -2).argmax(1) == targets.flatten()).sum())
        return total / count, None if self.asked[1].is_floating_point() else right / count

    def guess(self) -> float:
        """The loss of the best constant answer: by the frequencies of the classes, or the mean of the values."""
        targets = self.asked[1]
        if targets.is_floating_point():
            return float(targets.var(dim=0, correction=0).mean())
        shares = targets.flatten().bincount().double() / targets.numel()
        return float(-torch.special.xlogy(shares, shares).sum())


def loss_of(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of classes, squared error of values; means."""
    if targets.is_floating_point():
        return functional.mse_loss(outputs, targets)
    return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


@dataclass(frozen=True)
class Recipe:
    """How a network is trained here.

    Attributes:
        make: the untrained network.
        data: a named set, or ``text``.
        about: what it is, in words.
        steps: of the optimizer.
        batch: samples a step.
        samples: how many different ones there are to train on.
        optimizer: made for the parameters.
        wrong: share of labels that are replaced by random ones.
        reconstructs: whether the targets are the inputs.
    """

    make: Callable[[], nn.Module]
    data: str
    about: str
    steps: int
    optimizer: Callable[[Any], torch.optim.Optimizer]
    batch: int = 64
    samples: int = 20_000
    wrong: float = 0.0
    reconstructs: bool = False


def _adam(rate: float, decay: float = 0.0) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)


def _sgd(rate: float, decay: float = 0.0) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=decay)


RECIPES = {
    "barely": Recipe(
        lambda: build("mlp:784,1024,1024,10", seed=1),
        data="mnist",
        about="wide perceptron, MNIST, 200 steps",
        steps=200,
        optimizer=_sgd(0.05),
    ),
    "decayed": Recipe(
        lambda: build("mlp:784,512,512,512,10", seed=1),
        data="fashion-mnist",
        about="perceptron, Fashion-MNIST, Adam with weight decay",
        steps=2_500,
        optimizer=_adam(1e-3, 0.3),
    ),
    "by heart": Recipe(
        lambda: build("mlp:784,512,512,10", seed=1),
        data="fashion-mnist",
        about="perceptron, Fashion-MNIST, a third of the labels wrong, learned by heart",
        steps=2_500,
        optimizer=_adam(1e-3),
        samples=3_000,
        wrong=1 / 3,
    ),
    "deep": Recipe(
        lambda: build("mlp:784,256,256,256,256,256,256,10/init=he", seed=1),
        data="mnist",
        about="seven layers of a perceptron, MNIST",
        steps=2_000,
        optimizer=_adam(1e-3),
    ),
    "colours": Recipe(
        lambda: build("mlp:3072,512,256,10", seed=1),
        data="cifar10",
        about="perceptron, CIFAR-10, weight decay",
        steps=1_200,
        optimizer=_sgd(0.02, 5e-4),
    ),
    "autoencoder": Recipe(
        lambda: autoencoder(256, 64),
        data="mnist",
        about="autoencoder, MNIST",
        steps=2_500,
        optimizer=_adam(1e-3),
        reconstructs=True,
    ),
    "wide autoencoder": Recipe(
        lambda: autoencoder(1024, 128),
        data="fashion-mnist",
        about="autoencoder, Fashion-MNIST, weight decay",
        steps=800,
        optimizer=_adam(1e-3, 0.3),
        reconstructs=True,
    ),
    "normed": Recipe(
        lambda: build("cnn:1x28x28/16,32,p,64,64,p/128,10", seed=1),
        data="fashion-mnist",
        about="convolutions with batch norm, Fashion-MNIST, weight decay",
        steps=500,
        optimizer=_sgd(0.05, 1e-3),
    ),
    "strided": Recipe(
        strided,
        data="cifar10",
        about="convolutions without batch norm, CIFAR-10",
        steps=1_000,
        optimizer=_adam(1e-3),
    ),
    "mixer": Recipe(
        lambda: Mixer(96, 3),
        data="fashion-mnist",
        about="perceptrons over places and channels in turn, Fashion-MNIST",
        steps=700,
        optimizer=_adam(2e-3, 0.05),
        batch=32,
    ),
    "images": Recipe(
        lambda: ImageTransformer(28, 4, 96, 3),
        data="fashion-mnist",
        about="vision transformer, Fashion-MNIST",
        steps=900,
        optimizer=_adam(2e-3, 0.05),
        batch=32,
    ),
    "text": Recipe(
        lambda: TextTransformer(LENGTH, 128, 3),
        data="text",
        about="language transformer, bytes of calibration.txt",
        steps=700,
        optimizer=_adam(3e-3, 0.1),
        batch=16,
    ),
}
QUICK = {
    "barely": Recipe(
        lambda: build("mlp:64,64,64,10", seed=1),
        data="digits",
        about="perceptron, digits, 30 steps",
        steps=30,
        optimizer=_sgd(0.05),
    ),
    "decayed": Recipe(
        lambda: build("mlp:64,64,48,10", seed=1),
        data="digits",
        about="perceptron, digits, weight decay",
        steps=150,
        optimizer=_adam(3e-3, 0.3),
    ),
    "images": Recipe(
        lambda: ImageTransformer(8, 2, 32, 1),
        data="digits",
        about="vision transformer, digits",
        steps=100,
        optimizer=_adam(1e-2),
        batch=32,
    ),
}
"""For the test that it runs at all."""


def samples_of(data: str, split: str, shared: Path) -> Pair:
    """All samples of a split."""
    if data == "text":
        path = shared / "text" / f"{'calibration' if split == 'train' else 'test'}.txt"
        text = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
        rows = text[: len(text) // (LENGTH + 1) * (LENGTH + 1)].view(-1, LENGTH + 1).long()
        return rows[:, :-1], rows[:, 1:]
    found = load_data(data, split="train" if split == "train" else "test", allow_partial=True)
    return found.images, found.labels


def trained(recipe: Recipe, file: Path, shared: Path) -> nn.Module:
    """The network of a recipe, from the file where it has been trained before."""
    torch.manual_seed(0)
    model = recipe.make()
    if not file.exists():
        order = torch.Generator().manual_seed(0)
        inputs, targets = samples_of(recipe.data, "train", shared)
        chosen = torch.randperm(len(inputs), generator=order)[: recipe.samples]
        inputs, targets = inputs[chosen], targets[chosen]
        if recipe.wrong:
            wrong = torch.rand(len(targets), generator=order) < recipe.wrong
            targets = torch.where(wrong, torch.randint(10, targets.shape, generator=order), targets)
        if recipe.reconstructs:
            targets = inputs.flatten(1)
        optimizer = recipe.optimizer(model.parameters())
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / 50, 2 * (1 - step / recipe.steps))
        )
        model.train()
        for _ in range(recipe.steps):
            batch = torch.randint(len(inputs), (recipe.batch,), generator=order)
            loss = loss_of(model(inputs[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        with replacing(file) as temporary:
            torch.save(model.state_dict(), temporary)
    model.load_state_dict(torch.load(file, weights_only=True))
    return model.eval()


def _evenly(pair: Pair, count: int) -> Pair:
    picked = torch.arange(min(count, len(pair[0]))) * len(pair[0]) // min(count, len(pair[0]))
    return pair[0][picked], pair[1][picked]


def _made_here(name: str, recipes: dict[str, Recipe], folder: Path, shared: Path) -> Subject:
    recipe = recipes[name]
    folder.mkdir(parents=True, exist_ok=True)
    model = trained(recipe, folder / f"{name.replace(' ', '_')}.pt", shared)
    inputs, targets = _evenly(samples_of(recipe.data, "test", shared), 16 if recipe.data == "text" else 1000)
    return Subject(model, (inputs, inputs.flatten(1) if recipe.reconstructs else targets), recipe.about)


def _sample(file: str, data: str, about: str, count: int, shared: Path) -> Subject:
    return Subject(load_model(SAMPLES / file), _evenly(samples_of(data, "test", shared), count), about)


def _language_model(shared: Path) -> Subject:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(shared / "models" / "lm", dtype=torch.float32)
    model.eval()
    model.config.use_cache = False
    return Subject(model, _evenly(samples_of("text", "test", shared), 10), "../shared/models/lm, bytes of test.txt")


def _residual_network(shared: Path) -> Subject:
    sys.path.insert(0, str(shared / "models" / "resnet"))
    network = __import__("network")
    model = network.Net().eval()
    state = torch.load(shared / "models" / "resnet" / "resnet.pt", weights_only=True)
    model.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    )
    images, labels = _evenly(samples_of("cifar10", "test", shared), 500)
    mean, spread = (torch.tensor(each)[:, None, None] for each in (network.MEAN, network.STD))
    return Subject(model, ((images - mean) / spread, labels), "../shared/models/resnet, CIFAR-10")


def subjects(folder: Path, shared: Path, *, quick: bool) -> dict[str, Callable[[], Subject]]:
    """The networks by name, each made when it is called for; the quick ones first.

    Args:
        folder: where those that are trained here are kept.
        shared: the folder with real networks, texts and images.
        quick: small ones on the digits alone.
    """

    def made(name: str, recipes: dict[str, Recipe]) -> Callable[[], Subject]:
        return lambda: _made_here(name, recipes, folder, shared)

    def sample(name: str, data: str, about: str, count: int = 1000) -> Callable[[], Subject]:
        return lambda: _sample(name, data, about, count, shared)

    if quick:
        return {name: made(name, QUICK) for name in QUICK}
    found = {
        "digits MLP": sample("digits_mlp.safetensors", "digits", "sample: perceptron, digits"),
        "MNIST MLP": sample("mnist_mlp.safetensors", "mnist", "sample: perceptron, MNIST"),
        "Fashion MLP": sample("fashion_mlp.safetensors", "fashion-mnist", "sample: perceptron, Fashion-MNIST"),
        **{name: made(name, RECIPES) for name in RECIPES},
        "CIFAR-10 CNN": sample("cifar10_cnn.pt", "cifar10", "sample: convolutions with batch norm, CIFAR-10", 500),
    }
    return found | {"lm": lambda: _language_model(shared), "resnet": lambda: _residual_network(shared)}
