import pytest
import torch

from rmt_compress.data import Dataset


@pytest.fixture
def digits(request):
    """A few of scikit-learn's digits, training and test."""
    from rmt_compress.data import load_data

    return load_data("digits", split="train").thinned(400), load_data("digits", split="test").thinned(200)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def low_rank_plus_noise(rows, columns, spikes, seed, size=5.0):
    """A matrix of noise with variance 1/columns and a few large directions."""
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, columns, generator=random) / columns**0.5
    u, _ = torch.linalg.qr(torch.randn(rows, spikes, generator=random))
    v, _ = torch.linalg.qr(torch.randn(columns, spikes, generator=random))
    return noise + size * u @ v.T


def blobs(count=600, size=64, classes=5, seed=0, split="train"):
    """Points around one centre per class; the centres do not depend on the seed."""
    centres = torch.randn(classes, size, generator=torch.Generator().manual_seed(1))
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=random)
    return Dataset(
        "blobs", split, centres[labels] + 0.7 * torch.randn(count, size, generator=random), labels, classes
    )


def load(split):
    """``tests.training.conftest:load`` as ``--data``."""
    data = blobs(seed=7 if split == "train" else 8, split=split)
    return data.batches(100)
