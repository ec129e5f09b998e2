"""The leading singular vectors of large matrices, against LAPACK's full spectrum."""

from functools import cache

import pytest
import torch

from rmt_compress.decomposition import krylov
from rmt_compress.decomposition import svd as factorization
from rmt_compress.decomposition.krylov import leading_subspace, worth_trying
from rmt_compress.decomposition.svd import decompose
from rmt_compress.spectrum import NonFiniteError
from tests.samples.seeds import repeatable


def truncate(matrix, rank):
    return decompose(matrix, rank).truncated(rank)


P, N, SPIKES = 1024, 1200, 6


@pytest.fixture
def without_gram(monkeypatch):
    """Fail where all eigenvectors are asked for."""

    def refuse(*_):
        raise AssertionError("the Krylov space should have been enough")

    monkeypatch.setattr(factorization, "_leading_eigenvectors", refuse)


@cache
@repeatable
def noise_and_spikes(strength):
    """Noise with its edge near 2, and spikes of `strength` and less."""
    u, v = (torch.linalg.qr(torch.randn(size, SPIKES))[0] for size in (P, N))
    return torch.randn(P, N) / N**0.5 + (u * torch.linspace(strength, 0.6 * strength, SPIKES)) @ v.T


@cache
def squares(matrix):
    return torch.linalg.eigvalsh(matrix.double() @ matrix.double().T).flip(0)


# From spikes near the edge to a thousand times as large as the noise; noise alone.
@pytest.mark.parametrize(("strength", "rank"), ((3, SPIKES), (30, SPIKES), (2000, SPIKES), (3, 1), (0, 1)))
@pytest.mark.parametrize("tall", (False, True))
def test_truncation_error_is_the_tail(without_gram, strength, rank, tall):
    matrix = noise_and_spikes(strength)
    tail = float(squares(matrix)[rank:].sum())
    matrix = matrix.T if tall else matrix
    down, up = decompose(matrix, rank).factors(rank)
    error = float((up.double() @ down.double() - matrix.double()).square().sum())
    # Rounding the factors to float32 counts where the spikes are a thousand times the noise.
    rounding = rank * max(strength, 3) ** 2 * 2.0**-46
    assert error == pytest.approx(tail, rel=1e-7, abs=rounding)


def test_vectors_are_orthonormal_and_in_order(without_gram):
    matrix = noise_and_spikes(10)
    found = decompose(matrix, SPIKES)
    torch.testing.assert_close(found.s, squares(matrix)[:SPIKES].sqrt(), rtol=1e-9, atol=0)
    for vectors in (found.u, found.vt.T):
        torch.testing.assert_close(vectors.T @ vectors, torch.eye(SPIKES), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.u.T @ matrix, found.s.float()[:, None] * found.vt, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_short_types(without_gram, dtype):
    matrix = noise_and_spikes(10).to(dtype)
    found = decompose(matrix, SPIKES)
    torch.testing.assert_close(found.s, squares(matrix)[:SPIKES].sqrt(), rtol=1e-9, atol=0)
    assert found.factors(SPIKES)[0].dtype == dtype


def test_the_same_twice():
    matrix = noise_and_spikes(3)
    assert torch.equal(truncate(matrix, 4), truncate(matrix, 4))


@pytest.mark.parametrize("rank", (SPIKES, SPIKES + 3))
def test_what_does_not_converge_is_left_to_lapack(monkeypatch, rank):
    """A matrix of low rank has no tail to measure residuals by."""
    asked = []
    gram = factorization._leading_eigenvectors
    monkeypatch.setattr(factorization, "_leading_eigenvectors", lambda *args: asked.append(1) or gram(*args))
    matrix = torch.randn(P, SPIKES) @ torch.randn(SPIKES, N)
    scale = float(torch.linalg.matrix_norm(matrix, 2))
    assert float((truncate(matrix, rank) - matrix).abs().max()) <= 4 * 2.0**-23 * scale
    assert asked


def test_a_slow_decay_is_given_up_early(monkeypatch):
    products = []
    finite = torch.Tensor.isfinite
    monkeypatch.setattr(torch.Tensor, "isfinite", lambda tensor: products.append(1) or finite(tensor))
    u, v = (torch.linalg.qr(torch.randn(size, P))[0] for size in (P, N))
    matrix = (u * torch.arange(1, P + 1) ** -0.05) @ v.T
    assert krylov._grow(matrix, 24, float(matrix.square().sum())) is None
    assert len(products) <= krylov._LEAST_STEPS + 3


def test_a_wrong_subspace_is_refused():
    """Whatever the float32 part hands over, the float64 part judges."""
    matrix = noise_and_spikes(3)
    eigenvectors = torch.linalg.eigh(matrix.double() @ matrix.double().T)[1]
    energy = float(matrix.double().square().sum())
    assert krylov._judged(matrix, eigenvectors[:, -SPIKES:], energy) is not None
    mixed = eigenvectors[:, -SPIKES:] + 0.01 * eigenvectors[:, -SPIKES - 50 : -50]
    assert krylov._judged(matrix, mixed, energy) is None


@pytest.mark.parametrize("bad", (float("nan"), float("inf")))
def test_nan_and_inf_are_named(bad):
    matrix = torch.randn(P, N)
    matrix[5, 7] = bad
    with pytest.raises(NonFiniteError, match="NaN or Inf"):
        truncate(matrix, 3)


@pytest.mark.parametrize("scale", (1e30, 1e-30))
def test_squares_that_float32_cannot_hold(scale):
    matrix = noise_and_spikes(10)
    assert worth_trying(matrix, 3)
    assert leading_subspace(matrix * scale, 3) is None
    torch.testing.assert_close(truncate(matrix * scale, 3) / scale, truncate(matrix, 3), rtol=0, atol=1e-5)


def test_not_tried_where_it_cannot_win():
    assert not worth_trying(torch.empty(500, 500), 3)
    assert not worth_trying(torch.empty(P, N), 100)
    assert not worth_trying(torch.empty(P, N, dtype=torch.float64), 3)


def test_zeros_stay_zeros():
    assert not truncate(torch.zeros(P, N), 3).any()
