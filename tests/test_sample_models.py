"""The files in sample_models/: they load with torch and safetensors alone and do what their metadata says."""

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn import functional

from rmt_compress.networks.architectures import build
from tests.samples.data_files import idx_test_set
from tests.samples.repository import MODELS

FILES = ["digits_mlp.safetensors", "mnist_mlp.safetensors", "fashion_mlp.safetensors", "cifar10_cnn.pt"]
MLPS = FILES[:3]
KEYS = """
architecture dataset inputs train_images test_images test_correct test_accuracy seed epochs batch_size optimizer
learning_rate learning_rate_schedule momentum weight_decay augmentation threads torch_version script
"""
NORM = ("running_mean", "running_var", "weight", "bias")
# Of the first images of the test set; all 5,000 take ten seconds, and 4,025 were right, as the metadata say.
CNN_IMAGES, CNN_CORRECT = 1000, 793
LEAST_ACCURACY = {"digits_mlp": 0.96, "mnist_mlp": 0.97, "fashion_mlp": 0.89, "cifar10_cnn": 0.78}


def read(file: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    path = MODELS / file
    if path.suffix == ".pt":
        content = torch.load(path, weights_only=True)
        return content["state_dict"], content["metadata"]
    with safe_open(path, "pt") as opened:
        return load_file(path), opened.metadata()


def test_all_together_are_under_20_mb():
    assert sum((MODELS / file).stat().st_size for file in FILES) < 20_000_000


@pytest.mark.parametrize("file", FILES)
def test_metadata_is_complete_text(file):
    _, metadata = read(file)
    assert metadata["name"] == Path(file).stem
    for key in KEYS.split():
        assert metadata[key], key
    assert all(type(value) is str for value in metadata.values())
    accuracy = Fraction(metadata["test_correct"])
    assert float(metadata["test_accuracy"]) == float(accuracy)
    assert accuracy >= LEAST_ACCURACY[metadata["name"]]
    assert metadata["test_correct"].endswith(f"/{metadata['test_images']}")


@pytest.mark.parametrize("file", FILES)
def test_the_named_architecture_takes_the_weights(file):
    state, metadata = read(file)
    build(metadata["architecture"]).load_state_dict(state, strict=True)
    assert all(tensor.isfinite().all() for tensor in state.values())


def test_the_cnn_says_that_its_data_are_partial():
    _, metadata = read("cifar10_cnn.pt")
    assert "20,000 of 50,000 train images" in metadata["data_notes"]
    assert "test_batch.bin holds 5,000 images" in metadata["data_notes"]


def mlp_correct(state: dict[str, torch.Tensor], pixels: np.ndarray, scale: float, labels: np.ndarray) -> Fraction:
    """Share of right answers by nothing but matrix products."""
    hidden = torch.from_numpy(pixels.astype(np.float32).reshape(len(labels), -1)) / scale
    layers = len(state) // 2
    for index in range(1, layers + 1):
        hidden = hidden @ state[f"fc{index}.weight"].T + state[f"fc{index}.bias"]
        hidden = hidden.relu() if index < layers else hidden
    return Fraction(int((hidden.argmax(1).numpy() == labels).sum()), len(labels))


def test_digits_accuracy_by_hand():
    state, metadata = read("digits_mlp.safetensors")
    digits = load_digits()
    _, pixels, _, labels = train_test_split(
        digits.images, digits.target, test_size=360, random_state=0, stratify=digits.target
    )
    assert mlp_correct(state, pixels, 16, labels) == Fraction(metadata["test_correct"])


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "folder"), [("mnist_mlp", "mnist"), ("fashion_mlp", "fashion_mnist")])
def test_mlp_accuracy_by_hand(data_root, name, folder):
    state, metadata = read(f"{name}.safetensors")
    pixels, labels = idx_test_set(data_root / folder)
    # A different order of summation may flip an image whose two largest outputs are equal to rounding.
    difference = mlp_correct(state, pixels, 255, labels) - Fraction(metadata["test_correct"])
    assert abs(difference) <= Fraction(1, 10_000)


@pytest.mark.slow
@pytest.mark.realdata
def test_cnn_accuracy_by_hand(data_root):
    state, metadata = read("cifar10_cnn.pt")
    batch = data_root / "cifar10/cifar-10-batches-bin/test_batch.bin"
    content = np.fromfile(batch, np.uint8, 3073 * CNN_IMAGES).reshape(-1, 3073)
    labels, pixels = torch.from_numpy(content[:, 0].copy()), torch.from_numpy(content[:, 1:].copy())

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, variance, weight, bias = (state[f"{name}.{part}"] for part in NORM)
        return functional.batch_norm(x, mean, variance, weight, bias).relu()

    correct = 0
    with torch.inference_mode():
        # Fifty at a time fit into the processor's cache; channels last, it computes a third faster.
        for start in range(0, len(labels), 50):
            hidden = pixels[start : start + 50].reshape(-1, 3, 32, 32) / 255
            hidden = hidden.contiguous(memory_format=torch.channels_last)
            for index in range(1, 6):
                weight = state[f"conv{index}.weight"].contiguous(memory_format=torch.channels_last)
                hidden = functional.conv2d(hidden, weight, state[f"conv{index}.bias"], padding=1)
                hidden = norm(hidden, f"conv{index}_norm")
                hidden = functional.max_pool2d(hidden, 2) if index in (2, 4, 5) else hidden
            hidden = norm(functional.linear(hidden.flatten(1), state["fc1.weight"], state["fc1.bias"]), "fc1_norm")
            outputs = functional.linear(hidden, state["fc2.weight"], state["fc2.bias"])
            correct += int((outputs.argmax(1) == labels[start : start + 50]).sum())
    assert abs(correct - CNN_CORRECT) <= 1
    assert Fraction(metadata["test_correct"]) == Fraction(4025, 5000)


@pytest.mark.realdata
def test_mnist_first_layer_keeps_its_accuracy_when_truncated(data_root):
    """The shape of SJK23 figure 5: 20 of 784 singular values give 90 %, 100 full accuracy less a point."""
    state, metadata = read("mnist_mlp.safetensors")
    pixels, labels = idx_test_set(data_root / "mnist")
    u, s, vh = torch.linalg.svd(state["fc1.weight"], full_matrices=False)
    accuracy = {}
    for rank in (20, 100):
        truncated = {**state, "fc1.weight": (u[:, :rank] * s[:rank]) @ vh[:rank]}
        accuracy[rank] = float(mlp_correct(truncated, pixels, 255, labels))
    assert accuracy[20] >= 0.90
    assert accuracy[100] >= float(metadata["test_accuracy"]) - 0.01


TRAINING = ("-W", "error", MODELS / "train.py")


@pytest.mark.slow
def test_training_twice_gives_the_same_weights_bit_by_bit(python, tmp_path):
    states, metadata = [], []

    # Once as a user starts it: with all the machine's threads, and with hashes of its own.
    def fresh(*arguments):
        environment = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
        command = [sys.executable, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    for name, run in (("first", fresh), ("second", python.run)):
        done = run(*TRAINING, "digits_mlp", "--epochs", "2", "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
        file = tmp_path / name / "digits_mlp.safetensors"
        states.append({key: tensor.numpy().tobytes() for key, tensor in load_file(file).items()})
        # The library writes the entries of the header in no fixed order.
        with safe_open(file, "pt") as opened:
            metadata.append(opened.metadata())
    assert states[0] == states[1]
    assert metadata[0] == metadata[1]
    initial = build("mlp:64,512,512,10", seed=0).get_parameter("fc1.weight")
    trained = load_file(tmp_path / "first" / "digits_mlp.safetensors")["fc1.weight"]
    assert not torch.equal(initial, trained)


def test_training_without_data_is_one_line(python, tmp_path):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "train-images-idx3-ubyte").write_bytes(b"")
    done = python.run(*TRAINING, "mnist_mlp", "--out", tmp_path, env={"RMT_COMPRESS_DATA": str(tmp_path)})
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
