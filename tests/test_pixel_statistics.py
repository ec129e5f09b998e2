"""A network that was trained on normalised pixels tells so by its first batch norm."""

import pytest
import torch
from torch import nn

from rmt_compress.data import load_data
from rmt_compress.networks import architectures
from rmt_compress.networks.loading import load_model
from rmt_compress.networks.pixel_statistics import SAMPLES, unnormalized_pixels
from tests.samples.repository import REPOSITORY


def pixels(count=SAMPLES, channels=3):
    """Smooth images in [0, 1], as photographs are."""
    rough = torch.rand(count, channels, 4, 4)
    return nn.functional.interpolate(rough, (12, 12), mode="bilinear").clamp(0, 1)


def trained(change, channels=3):
    """A network whose batch norms have seen such images, changed this way."""
    torch.manual_seed(0)
    model = architectures.build(f"cnn:{channels}x12x12/8,p,8/10", seed=0)
    model.train()
    with torch.no_grad():
        for _ in range(60):
            model(change(pixels(channels=channels)))
    return model.eval()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("mean", "deviation"),
    [(0.5, 0.5), (0.5, 0.2), (0.45, 0.224)],
)
def test_normalised_pixels_are_missed(mean, deviation, channels):
    model = trained(lambda images: (images - mean) / deviation, channels)
    words = unnormalized_pixels(model, pixels(channels=channels))
    assert words is not None
    assert "its first batch norm (conv1_norm)" in words
    assert " --std 0." in words
    # Given what it wants it is content.
    assert unnormalized_pixels(model, (pixels(channels=channels) - mean) / deviation) is None


def test_pixels_as_in_training_are_right():
    model = trained(lambda images: images)
    assert unnormalized_pixels(model, pixels()) is None
    # Darker and brighter images are no reason either.
    assert unnormalized_pixels(model, pixels() * 0.6) is None
    assert unnormalized_pixels(model, pixels() * 0.6 + 0.4) is None


def test_no_evidence_no_word():
    images = pixels()
    assert unnormalized_pixels(architectures.build("cnn:3x12x12/8,p,8/10", seed=0), images) is None
    assert unnormalized_pixels(architectures.build("mlp:432,10", seed=0), images) is None
    model = trained(lambda images: (images - 0.5) / 0.2)
    assert unnormalized_pixels(model, images.flatten(1)) is None
    assert unnormalized_pixels(model, images[:, :2]) is None
    assert unnormalized_pixels(model, images * 255) is None
    assert unnormalized_pixels(model, torch.zeros(3, 3, 12, 12, dtype=torch.int64)) is None


def test_the_network_stays_as_it_is():
    model = trained(lambda images: (images - 0.5) / 0.2).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert unnormalized_pixels(model, pixels()) is not None
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.realdata
@pytest.mark.parametrize("count", [16, SAMPLES])
def test_two_real_networks(real_data, data_root, count):
    images = load_data("cifar10", split="test", allow_partial=True).thinned(count).images
    folder = data_root.parent / "models" / "resnet"
    if not folder.is_dir():
        pytest.skip(f"REAL NETWORK MISSING: {folder}")
    resnet = load_model(folder / "resnet.pt", arch=f"{folder}/network.py:Net")
    words = unnormalized_pixels(resnet, images)
    assert words is not None
    assert "gets 7% of the variance" in words or "gets 8% of the variance" in words
    mean = torch.tensor((0.4914, 0.4822, 0.4465)).view(1, 3, 1, 1)
    deviation = torch.tensor((0.2470, 0.2435, 0.2616)).view(1, 3, 1, 1)
    assert unnormalized_pixels(resnet, (images - mean) / deviation) is None
    assert unnormalized_pixels(load_model(REPOSITORY / "sample_models" / "cifar10_cnn.pt"), images) is None
