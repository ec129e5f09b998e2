"""Zeroed entries against numpy's count of the same."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmt_compress.layers.zeroing import count_nonzero, sparsify, sparsify_quantile


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.float16))
def test_threshold(rng, dtype):
    values = rng.standard_normal((40, 30))
    tensor = torch.from_numpy(values).to(dtype)
    result = sparsify(tensor, 0.5)
    expected = np.where(np.abs(tensor.numpy()) < 0.5, 0, tensor.numpy())
    np.testing.assert_array_equal(result.numpy(), expected)
    assert result.dtype == dtype
    assert torch.equal(tensor, torch.from_numpy(values).to(dtype))


def test_threshold_is_not_rounded_to_the_type_of_the_weight():
    # Between 0.01 and its nearest bfloat16, 0.01001, lies nothing, but 0.01001 itself is not below 0.010012.
    entry = torch.tensor([0.01], dtype=torch.bfloat16)
    assert float(entry) == pytest.approx(0.01001, abs=1e-5)
    assert sparsify(entry, 0.0100) == entry
    assert sparsify(entry, 0.0101) == 0


def test_threshold_keeps_nan_and_inf():
    result = sparsify(torch.tensor([float("nan"), float("-inf"), 0.1]), 1.0)
    assert result.isnan()[0]
    assert result[1] == float("-inf")
    assert result[2] == 0


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=3), share=st.floats(0, 0.999), seed=st.integers(0, 99)
)
def test_quantile_zeroes_the_smallest_of_all_tensors_together(sizes, share, seed):
    generator = np.random.default_rng(seed)
    # Few different values, so that many are equal.
    arrays = [generator.integers(1, 5, (size, 2)) * generator.choice([-1.0, 1.0], (size, 2)) for size in sizes]
    results = sparsify_quantile([torch.from_numpy(array) for array in arrays], share)
    before = np.concatenate([array.ravel() for array in arrays])
    after = np.concatenate([result.numpy().ravel() for result in results])
    count = int(share * before.size + 1e-9)
    assert int((after == 0).sum()) == count
    assert np.array_equal(after[after != 0], before[after != 0])
    assert np.abs(before[after == 0]).max(initial=0) <= np.abs(before[after != 0]).min(initial=9)
    assert [result.shape for result in results] == [array.shape for array in arrays]


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
def test_quantile_is_exact_in_every_type(dtype):
    tensor = torch.linspace(-1, 1, 1000).to(dtype)
    (result,) = sparsify_quantile([tensor], 0.9)
    assert int((result == 0).sum()) == 900
    assert result.dtype == dtype


def test_count():
    assert count_nonzero(torch.tensor([[0.0, -0.0], [1.0, float("nan")]])) == 2
    assert count_nonzero(torch.tensor([0, 3, 0])) == 1
    assert count_nonzero(torch.tensor([1.0, 0.0, 2.0]).to(torch.float8_e4m3fn)) == 2
    assert count_nonzero(torch.eye(3).to_sparse()) == 3
