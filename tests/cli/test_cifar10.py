"""The whole road on the CIFAR-10 sample: prune, evaluate side by side, export, the graph asked as well."""

import json

import numpy as np
import pytest
import torch

import rmt_compress as rmt
from rmt_compress.networks import latency
from rmt_compress.networks.architectures import build
from tests.samples.onnx_models import session
from tests.samples.repository import MODELS

SAMPLE = MODELS / "cifar10_cnn.pt"
IMAGES = 125


def images_and_labels(root):
    """A part of the test set, spread over it, as the architecture takes it: read with nothing of this project."""
    content = np.fromfile(root / "cifar10/cifar-10-batches-bin/test_batch.bin", np.uint8).reshape(-1, 3073)
    content = content[:: len(content) // IMAGES]
    return content[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32) / 255, content[:, 0]


@pytest.mark.slow
@pytest.mark.realdata
def test_prune_evaluate_export(run, tmp_path, real_data, monkeypatch):
    monkeypatch.setattr(latency, "BATCHES", (1,))  # more at once are timed with smaller networks
    done = run("prune", SAMPLE, "-o", "small.pt", "--gof", "0.2", "--keep-bulk", "0.3")
    assert done.returncode == 0, done.stderr
    done = run("evaluate", "small.pt", "--against", SAMPLE, "--data", "cifar10", "--limit", str(IMAGES), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    small, original = report["model"], report["against"]
    stored = torch.load(tmp_path / "small.pt", weights_only=True)["state_dict"]
    ranks = {name.split(".")[0]: stored[name].shape[0] for name in stored if ".down." in name}
    assert ranks.keys() == {"conv3", "conv5"}
    # A convolution of rank r costs its positions times (r·in·9 + out·r) for out·in·9.
    saved = sum(
        positions * (out * into * 9 - ranks[name] * (into * 9 + out))
        for name, out, into, positions in (("conv3", 128, 64, 256), ("conv5", 256, 128, 64))
    )
    assert original["macs"] - small["macs"] == saved
    assert small["accuracy"] > original["accuracy"] - 0.01
    assert small["bytes"] == (tmp_path / "small.pt").stat().st_size < 0.9 * SAMPLE.stat().st_size

    done = run("export", "small.pt", "-o", "small.onnx")
    assert done.returncode == 0, done.stderr
    graph = session(tmp_path / "small.onnx")
    images, labels = images_and_labels(real_data)
    outputs = np.concatenate(
        [graph.run(None, {"input": images[at : at + 50]})[0] for at in range(0, len(images), 50)]
    )
    # Another order of summation may flip an image whose two largest outputs are equal to rounding.
    assert small["accuracy"] == pytest.approx(float((outputs.argmax(1) == labels).mean()), abs=1.1 / IMAGES)

    # The original by torch itself; what it reaches on the whole set is a test of the samples.
    network = build(torch.load(SAMPLE, weights_only=True)["metadata"]["architecture"]).eval()
    network.load_state_dict(torch.load(SAMPLE, weights_only=True)["state_dict"], strict=True)
    with torch.no_grad():
        answers = np.concatenate([network(part).argmax(1).numpy() for part in torch.from_numpy(images).split(50)])
    assert original["accuracy"] == pytest.approx(float((answers == labels).mean()), abs=1.1 / IMAGES)

    # torch itself with the product of the factors in the unsplit network, which is how a stranger would check.
    network = build(torch.load(SAMPLE, weights_only=True)["metadata"]["architecture"]).eval()
    network.load_state_dict(rmt.load_dense(tmp_path / "small.pt"), strict=True)
    with torch.no_grad():
        expected = network(torch.from_numpy(images[:50])).numpy()
    assert np.abs(outputs[:50] - expected).max() < 1e-4
