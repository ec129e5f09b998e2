import pytest
import torch


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
