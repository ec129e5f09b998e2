"""Train one of the sample models: ``python sample_models/train.py NAME [--out DIR]``.

Every run with the same torch, thread count and kind of processor gives the same weights bit by bit. Data are
found as everywhere in rmt-compress: under ``$RMT_COMPRESS_DATA``, in the user's cache, or downloaded.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from rmt_compress.data import Dataset, load_data
from rmt_compress.errors import RmtCompressError
from rmt_compress.networks.architectures import build, parse
from rmt_compress.training.augmentation import flip_and_shift

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda _: 1.0,
    "cooldown": lambda progress: min(1.0, (1.0 - progress) / 0.1),  # linear to 0 over the last tenth
    "one-cycle": lambda progress: min(progress / 0.25, (1.0 - progress) / 0.75),  # up over a quarter, down to 0
}
"""Share of all steps taken -> share of the peak learning rate."""


@dataclass(frozen=True)
class Recipe:
    """All that determines one sample model.

    Attributes:
        file: its file name; the suffix decides the format.
        architecture: as for ``--arch``.
        dataset: as for ``--data``.
        epochs: passes over the training images.
        learning_rate: of SGD, at its peak.
        momentum: of SGD; Nesterov's form under ``one-cycle``.
        weight_decay: of SGD, on all parameters.
        batch_size: images per step; the last, smaller batch is used as well.
        schedule: of the learning rate, a key of `SCHEDULES`.
        augment: random horizontal flips and shifts by up to 4 pixels.
        seed: of the initial weights and of the order of the images.
        threads: torch's threads on the CPU; another number changes the rounding.
    """

    file: str
    architecture: str
    dataset: str
    epochs: int
    learning_rate: float = 0.05
    momentum: float = 0.0
    weight_decay: float = 0.0
    batch_size: int = 128
    schedule: str = "constant"
    augment: bool = False
    seed: int = 0
    threads: int = 1


RECIPES = {
    "fashion_mlp": Recipe(
        "fashion_mlp.safetensors",
        "mlp:784,1000,1000,500,10",
        "fashion-mnist",
        epochs=10,
        momentum=0.9,
        weight_decay=1e-4,
        batch_size=100,
        schedule="cooldown",
    ),
    "mnist_mlp": Recipe("mnist_mlp.safetensors", "mlp:784,1000,10", "mnist", epochs=10, batch_size=64),
    "digits_mlp": Recipe(
        "digits_mlp.safetensors", "mlp:64,512,512,10", "digits", epochs=30, momentum=0.9, batch_size=32
    ),
    "cifar10_cnn": Recipe(
        "cifar10_cnn.pt",
        "cnn:3x32x32/32,64,p,128,128,p,256,p/192,10/dropout=0.2",
        "cifar10",
        epochs=7,
        momentum=0.9,
        weight_decay=5e-4,
        batch_size=64,
        schedule="one-cycle",
        augment=True,
    ),
}


def train(recipe: Recipe, data: Dataset) -> nn.Module:
    """A model trained from scratch as `recipe` says, in evaluation mode; progress goes to stderr."""
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)  # dropout
    order = torch.Generator().manual_seed(recipe.seed)
    model = build(recipe.architecture, seed=recipe.seed)
    # Faster convolutions; the file's layout stays the usual. torch's stubs do not know this form of `to`.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.schedule == "one-cycle",
    )
    steps = recipe.epochs * -(-len(data) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: SCHEDULES[recipe.schedule](step / steps))
    for epoch in range(1, recipe.epochs + 1):
        start, total = time.perf_counter(), 0.0
        for index in torch.split(torch.randperm(len(data), generator=order), recipe.batch_size):
            images = data.images[index]
            if recipe.augment:
                images = flip_and_shift(images, order)
            loss = nn.functional.cross_entropy(model(images), data.labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(index)
        seconds = time.perf_counter() - start
        print(f"epoch {epoch}: loss {total / len(data):.4f}, {seconds:.1f} s", file=sys.stderr, flush=True)
    model.eval()
    return model


def count_correct(model: nn.Module, data: Dataset) -> int:
    """Images of `data` whose largest output is the right class."""
    with torch.inference_mode():
        return sum(int((model(images).argmax(1) == labels).sum()) for images, labels in data.batches(1000))


def describe(recipe: Recipe, training: Dataset, test: Dataset, correct: int) -> dict[str, str]:
    """What goes into the file beside the weights; safetensors allows text only."""
    return {
        "name": Path(recipe.file).stem,
        "architecture": str(parse(recipe.architecture)),
        "dataset": recipe.dataset,
        "inputs": "pixels scaled to [0, 1], no further normalisation",
        "data_notes": " ".join(training.notes + test.notes),
        "train_images": str(len(training)),
        "test_images": str(len(test)),
        "test_correct": f"{correct}/{len(test)}",
        "test_accuracy": str(float(Fraction(correct, len(test)))),
        "seed": str(recipe.seed),
        "epochs": str(recipe.epochs),
        "batch_size": str(recipe.batch_size),
        "optimizer": "SGD with Nesterov momentum" if recipe.schedule == "one-cycle" else "SGD",
        "learning_rate": str(recipe.learning_rate),
        "learning_rate_schedule": recipe.schedule,
        "momentum": str(recipe.momentum),
        "weight_decay": str(recipe.weight_decay),
        "augmentation": "horizontal flips, shifts by up to 4 pixels" if recipe.augment else "none",
        "threads": str(recipe.threads),
        "torch_version": str(torch.__version__),
        "script": "sample_models/train.py",
    }


def save(model: nn.Module, metadata: dict[str, str], path: Path) -> None:
    """Write ``.safetensors`` with the metadata in its header, or a ``.pt`` that needs no more than weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(state, path, metadata)
    else:
        torch.save({"state_dict": state, "metadata": metadata}, path)


def main() -> int:
    """Parse the command line, train, save; 2 when the data cannot be had."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="directory (default: here)")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's, to try it out")
    arguments = parser.parse_args()
    recipe = RECIPES[arguments.name]
    if arguments.epochs is not None:
        recipe = replace(recipe, epochs=arguments.epochs)
    try:
        training = load_data(recipe.dataset, split="train", allow_partial=True)
        test = load_data(recipe.dataset, split="test")
    except RmtCompressError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for note in training.notes + test.notes:
        print(f"note: {note}", file=sys.stderr)
    model = train(recipe, training)
    metadata = describe(recipe, training, test, count_correct(model, test))
    path = arguments.out / recipe.file
    save(model, metadata, path)
    print(f"{path}: {metadata['test_correct']} test images right, {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
