"""Networks that people have, and what is asked of them: shared by experiments and by benchmarks/budget.py.

Four subjects: the language model and the ResNet of ../shared/models, the Fashion-MNIST MLP and the CIFAR-10 CNN of
sample_models. Texts and images lie under ../shared as well. Inputs to calibrate with, and samples that choose, are
drawn from what the network was trained on or from a text of the same books; what is asked in the end is the test
text or test images, which choose nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from rmt_compress.data import load_data
from rmt_compress.data.in_memory import InMemory
from rmt_compress.networks.loading import load_model
from rmt_compress.networks.tasks.classification import Classification
from rmt_compress.networks.tasks.language import CausalLanguage
from rmt_compress.networks.tasks.task import Task

SHARED = Path(__file__).parents[2] / "shared"
SAMPLES = Path(__file__).parents[1] / "sample_models"
LENGTH = 512
"""Bytes of a stretch of text."""


@dataclass(frozen=True, eq=False)
class Questions:
    """Samples with their answers.

    Attributes:
        inputs: (N, 512) bytes, or (N, …) images as the network takes them.
        answers: (N, 511) the next bytes, or (N,) classes.
        text: whether they are text.
    """

    inputs: torch.Tensor
    answers: torch.Tensor
    text: bool = False

    def batches(self, size: int) -> list[torch.Tensor]:
        """The inputs, `size` at a time."""
        return list(torch.split(self.inputs, size))

    def first(self, count: int) -> Questions:
        """The first `count` samples alone."""
        return self.between(0, count)

    def between(self, start: int, stop: int) -> Questions:
        """Those from one place to another."""
        return replace(self, inputs=self.inputs[start:stop], answers=self.answers[start:stop])

    @property
    def task(self) -> Task:
        """The same as the tool asks it."""
        if self.text:
            return CausalLanguage(InMemory(self.inputs, targets="tokens"))
        return Classification(InMemory(self.inputs, self.answers, targets="classes"))

    def score(self, network: nn.Module) -> float:
        """The loss on text, accuracy on images; of the network as it stands."""
        if self.text:
            return self.loss(network)
        found = [outputs.argmax(1) == answers for outputs, answers in self._asked(network)]
        return float(torch.cat(found).double().mean())

    def loss(self, network: nn.Module) -> float:
        """Mean cross-entropy in nats, of a byte or of an image."""
        total = 0.0
        for outputs, answers in self._asked(network):
            total += float(functional.cross_entropy(outputs, answers, reduction="sum"))
        return total / self.answers.numel()

    def _asked(self, network: nn.Module) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Logits (N, classes) and classes (N,), batch by batch, on the CPU."""
        place, size = next(network.parameters()).device, 4 if self.text else 250
        for inputs, answers in zip(torch.split(self.inputs, size), torch.split(self.answers, size), strict=True):
            with torch.no_grad():
                if self.text:
                    outputs = network(input_ids=inputs.to(place), use_cache=False).logits[:, :-1].flatten(0, 1)
                else:
                    outputs = network(inputs.to(place))
            yield outputs.cpu(), answers.flatten()


@dataclass(frozen=True, eq=False)
class Subject:
    """A network and where its samples come from.

    Attributes:
        model: the network, in evaluation mode.
        layers: names of the weights that are cut.
        drawn: (count, seed, ahead) -> `count` samples that may calibrate or choose, other ones than the first
            `ahead` of the same seed.
        asked: count -> that many of the test samples; None -> all of them, text in stretches side by side.
        unit: what the score is.
    """

    model: nn.Module
    layers: list[str]
    drawn: Callable[[int, int, int], Questions]
    asked: Callable[[int | None], Questions]
    unit: str

    @property
    def higher_is_better(self) -> bool:
        """Of scores."""
        return self.unit == "accuracy"


def language_model(shared: Path = SHARED) -> Subject:
    """The Llama-style network of bytes; all 56 linear layers of its blocks."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(shared / "models" / "lm", dtype=torch.float32)
    model.eval()
    text, test = (_bytes(shared / "text" / f"{name}.txt") for name in ("calibration", "test"))

    def drawn(count: int, seed: int, ahead: int) -> Questions:
        generator = torch.Generator().manual_seed(seed)
        starts = torch.randint(len(text) - LENGTH, (ahead + 2 * count,), generator=generator).tolist()
        first, rest = starts[:ahead], starts[ahead:]
        free = [start for start in rest if all(abs(start - other) >= LENGTH for other in first)]
        return stretches(text, free[:count])

    def asked(count: int | None) -> Questions:
        if count is None:
            return stretches(test, list(range(0, len(test) - LENGTH + 1, LENGTH)))
        return stretches(test, [round(place * (len(test) - LENGTH) / (count - 1)) for place in range(count)])

    layers = [f"{name}.weight" for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    layers = [name for name in layers if not name.startswith("lm_head")]
    return Subject(model, layers, drawn, asked, "nats a byte")


def stretches(text: torch.Tensor, starts: list[int]) -> Questions:
    """Stretches of a text from where they start, asked for every next byte."""
    inputs = torch.stack([text[start : start + LENGTH] for start in starts])
    return Questions(inputs, inputs[:, 1:], text=True)


def calibration_text(shared: Path = SHARED) -> torch.Tensor:
    """The text to calibrate the language model with, (bytes,)."""
    return _bytes(shared / "text" / "calibration.txt")


def residual_network(shared: Path = SHARED) -> Subject:
    """The ResNet for CIFAR-10: 19 convolutions, stem and head kept."""
    sys.path.insert(0, str(shared / "models" / "resnet"))
    network = __import__("network")
    model = network.Net().eval()
    state = torch.load(shared / "models" / "resnet" / "resnet.pt", weights_only=True)
    model.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    )
    mean, spread = (torch.tensor(each)[:, None, None] for each in (network.MEAN, network.STD))
    layers = [f"{name}.weight" for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)][1:]
    return _classifier(
        model, layers, _cifar(shared), lambda images: (images.reshape(-1, 3, 32, 32) - mean) / spread
    )


def fashion_mlp(shared: Path = SHARED) -> Subject:
    """The sample MLP for Fashion-MNIST: its three hidden layers."""
    model = load_model(SAMPLES / "fashion_mlp.safetensors")
    return _classifier(model, [f"fc{number}.weight" for number in (1, 2, 3)], shared / "data" / "fashion_mnist")


def cifar_cnn(shared: Path = SHARED) -> Subject:
    """The sample CNN for CIFAR-10: four convolutions and a linear layer, first convolution and head kept."""
    model = load_model(SAMPLES / "cifar10_cnn.pt")
    layers = [*(f"conv{number}.weight" for number in (2, 3, 4, 5)), "fc1.weight"]
    return _classifier(model, layers, _cifar(shared))


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    "lm": language_model,
    "resnet": residual_network,
    "fashion_mlp": fashion_mlp,
    "cifar10_cnn": cifar_cnn,
}


def _classifier(
    model: nn.Module,
    layers: list[str],
    folder: Path,
    prepared: Callable[[torch.Tensor], torch.Tensor] = lambda images: images,
) -> Subject:
    train, test = (load_data(str(folder), split=split, allow_partial=True) for split in ("train", "test"))

    def drawn(count: int, seed: int, ahead: int) -> Questions:
        chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[ahead : ahead + count]
        return Questions(prepared(train.images[chosen]), train.labels[chosen])

    def asked(count: int | None) -> Questions:
        return Questions(prepared(test.images[:count]), test.labels[:count])

    return Subject(model, layers, drawn, asked, "accuracy")


def _cifar(shared: Path) -> Path:
    return shared / "data" / "cifar10" / "cifar-10-batches-bin"


def _bytes(path: Path) -> torch.Tensor:
    return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8).long()
