"""Truncations against numpy's full SVD, and the properties they must have at any rank."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rmt_compress.decomposition import svd as factorization
from rmt_compress.decomposition.svd import decompose
from rmt_compress.spectrum import NonFiniteError


def truncate(matrix, rank):
    return decompose(matrix, rank).truncated(rank)


SHAPES = ((1, 1), (1, 9), (9, 1), (30, 50), (50, 30), (40, 40))


def spectrum_of(matrix):
    return np.linalg.svd(matrix.double().numpy(), compute_uv=False)


def energy(matrix):
    return float(matrix.double().square().sum())


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@settings(max_examples=30)
@given(data=st.data(), rows=st.integers(1, 40), columns=st.integers(1, 40))
def test_truncation_error_is_the_tail_of_the_spectrum(dtype, data, rows, columns):
    rank = data.draw(st.integers(1, min(rows, columns)))
    matrix = torch.randn(rows, columns, dtype=dtype)
    tail = float((spectrum_of(matrix)[rank:] ** 2).sum())
    error = energy(truncate(matrix, rank) - matrix)
    assert error == pytest.approx(tail, rel=1e-5, abs=1e-12 * energy(matrix))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16, torch.float16))
@pytest.mark.parametrize("shape", SHAPES)
def test_full_rank_gives_the_matrix_back_in_its_type(shape, dtype):
    matrix = torch.randn(shape).to(dtype)
    result = truncate(matrix, min(shape))
    assert result.dtype == dtype
    scale = float(torch.linalg.matrix_norm(matrix.double(), 2))
    rounding = max(4 * torch.finfo(dtype).eps, 1e-14)
    assert float((result.double() - matrix.double()).abs().max()) <= rounding * scale


@pytest.mark.parametrize("shape", SHAPES)
def test_factors_share_the_singular_values(shape):
    matrix = torch.randn(shape)
    rank = max(1, min(shape) // 2)
    down, up = decompose(matrix, rank).factors(rank)
    assert down.shape == (rank, shape[1])
    assert up.shape == (shape[0], rank)
    assert down.is_contiguous()
    assert up.is_contiguous()
    s = spectrum_of(matrix)[:rank]
    np.testing.assert_allclose(down.norm(dim=1).double() ** 2, s, rtol=1e-5)
    np.testing.assert_allclose(up.norm(dim=0).double() ** 2, s, rtol=1e-5)
    # Each on its own is the singular vectors: orthogonal.
    gram = (down @ down.T).double().numpy()
    np.testing.assert_allclose(gram, np.diag(s), atol=1e-5 * s[0])


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("shape", ((40, 60), (60, 40)))
def test_low_rank_matrices_come_back_whole(shape, dtype):
    matrix = torch.randn(shape[0], 5, dtype=dtype) @ torch.randn(5, shape[1], dtype=dtype)
    scale = spectrum_of(matrix)[0]
    for rank in (5, 6, 39, 40):
        result = truncate(matrix, rank)
        assert torch.isfinite(result).all()
        assert float((result - matrix).abs().max()) <= max(4 * torch.finfo(dtype).eps, 1e-14) * scale
    down, up = decompose(matrix, 40).factors(40)
    assert float(down.abs().max()) < 10 * scale**0.5
    assert float(up.abs().max()) < 10 * scale**0.5


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_a_matrix_of_zeros_stays_one(dtype):
    assert not truncate(torch.zeros(4, 6, dtype=dtype), 3).any()


def test_equal_singular_values_are_no_trouble():
    matrix = torch.linalg.qr(torch.randn(60, 60, dtype=torch.float64))[0].float()
    assert energy(truncate(matrix, 20) - matrix) == pytest.approx(40, rel=1e-5)


def test_one_decomposition_serves_every_rank():
    matrix = torch.randn(30, 20)
    decomposition = decompose(matrix)
    assert decomposition.rank == 20
    np.testing.assert_allclose(decomposition.s, spectrum_of(matrix), rtol=1e-6)
    for rank in (1, 7, 20):
        torch.testing.assert_close(decomposition.truncated(rank), truncate(matrix, rank), atol=2e-6, rtol=0)
        down, up = decomposition.factors(rank)
        torch.testing.assert_close(up @ down, decomposition.truncated(rank))


def test_truncation_commutes_with_transposing_and_scaling():
    matrix = torch.randn(30, 50)
    expected = truncate(matrix, 7)
    torch.testing.assert_close(truncate(matrix.T, 7).T, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(truncate(matrix * 1024, 7), expected * 1024, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("scale", "dtype"),
    ((1e30, torch.float32), (1e-30, torch.float32), (1e160, torch.float64), (1e-160, torch.float64)),
)
def test_squares_neither_overflow_nor_vanish(scale, dtype):
    matrix = torch.randn(20, 30, dtype=dtype)
    result = truncate(matrix * scale, 5) / scale
    torch.testing.assert_close(result, truncate(matrix, 5), atol=1e-5, rtol=0)


def graded(smallest):
    """A float64 matrix with singular values from 1 to `smallest`, evenly spaced in the logarithm."""
    u = torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64))[0]
    v = torch.linalg.qr(torch.randn(60, 40, dtype=torch.float64))[0]
    s = torch.logspace(0, np.log10(smallest), 40, dtype=torch.float64)
    return (u * s) @ v.T, s


def test_float64_weights_of_a_wide_range_keep_their_digits():
    matrix, s = graded(1e-12)
    for rank in (10, 25, 35):
        error = energy(truncate(matrix, rank) - matrix)
        assert error == pytest.approx(float((s[rank:] ** 2).sum()), rel=1e-5)


def test_direct_svd_only_where_squares_lose_digits(monkeypatch):
    asked = []
    direct = factorization._direct
    monkeypatch.setattr(factorization, "_direct", lambda *args: asked.append(1) or direct(*args))
    truncate(torch.randn(40, 60, dtype=torch.float64), 10)
    truncate(graded(1e-12)[0].float(), 30)
    assert not asked
    truncate(graded(1e-12)[0], 30)
    assert asked


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16))
@pytest.mark.parametrize("bad", (float("nan"), float("inf"), float("-inf")))
def test_nan_and_inf_are_named(bad, dtype):
    matrix = torch.ones(5, 6, dtype=dtype)
    matrix[2, 3] = bad
    with pytest.raises(NonFiniteError, match="NaN or Inf"):
        truncate(matrix, 2)


def test_rank_out_of_range():
    for rank in (0, 6):
        with pytest.raises(ValueError, match=f"between 1 and 5, got {rank}"):
            truncate(torch.ones(5, 8), rank)
    with pytest.raises(ValueError, match="between 1 and 2, got 3"):
        decompose(torch.randn(5, 8), 2).factors(3)


def test_the_argument_is_left_alone_and_no_graph_is_built():
    matrix = torch.nn.Parameter(torch.randn(30, 20))
    before = matrix.detach().clone()
    assert not truncate(matrix, 3).requires_grad
    assert torch.equal(matrix, before)


_MEGABYTES = """
import sys, torch
from pathlib import Path
from rmt_compress.decomposition.svd import decompose

def megabytes(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024

def most_beside(matrix, rank):
    Path("/proc/self/clear_refs").write_text("5")  # what has been the most is forgotten
    before = megabytes("VmRSS")
    decompose(matrix, rank).factors(rank)
    print(megabytes("VmHWM") - before)

torch.set_num_threads(1)
"""

_LARGE = f"""{_MEGABYTES}
rank = int(sys.argv[1])
decompose(torch.randn(1024, 1024), rank).factors(rank)  # whatever the libraries allocate and read once
most_beside(torch.randn(2048, 2048), rank)
"""

_HALF = f"""{_MEGABYTES}
u, v = torch.randn(600, 4), torch.randn(4, 120_000)
noise = 0.1 * torch.randn(600, 4000)
a = torch.empty(600, 120_000, dtype=torch.bfloat16)
for part, right in zip(a.split(4000, dim=1), v.split(4000, dim=1)):
    part.copy_(u @ right + noise)
decompose(a[:, :4000], 4).factors(4)
most_beside(a, 4)
"""


def printed(python, program, *arguments):
    done = python.run("-c", program, *map(str, arguments))
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("rank", "least", "limit"), ((8, 2, 20), (100, 16, 70), (1000, 16, 95)))
def test_memory_beside_a_16_mb_weight(python, rank, least, limit):
    """A quarter of the sides of a 64 MB weight, so a quarter of 350 MB at the most; little where few are sought."""
    assert least < printed(python, _LARGE, rank) < limit


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_weight_of_half_precision_is_never_copied_whole(python):
    # As float32 it would take 275 MB, as float64 550; what is seen of such a copy is seen in the second program.
    assert printed(python, _HALF) < 30
    assert printed(python, _HALF.replace("decompose(matrix, rank)", "decompose(matrix.float(), rank)")) > 200
