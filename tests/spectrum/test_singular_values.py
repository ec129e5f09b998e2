"""Every route to the singular values against a float64 SVD."""

import numpy as np
import pytest
import scipy.linalg
import torch

from rmt_compress.decomposition.kernels import TorchKernels
from rmt_compress.spectrum import NonFiniteError, NumpyKernels, SingularValues, singular_values
from tests.samples.seeds import SEED


class Recording(NumpyKernels):
    """Numpy's operations, noting which routes were tried."""

    def __init__(self):
        self.routes = []

    def gram(self, matrix, *, double):
        self.routes.append("float64" if double else "float32")
        return super().gram(matrix, double=double)

    def singular_values(self, matrix):
        self.routes.append("svd")
        return super().singular_values(matrix)


def spiked(generator, rows, columns, strength):
    spike = np.outer(generator.standard_normal(rows), generator.standard_normal(columns))
    return generator.standard_normal((rows, columns)) + strength * spike / np.sqrt(min(rows, columns))


@pytest.mark.parametrize(
    ("rows", "columns", "strength", "dtype", "routes"),
    (
        (60, 300, 0, np.float32, ["float64"]),
        (200, 300, 0, np.float32, ["float32"]),
        (300, 200, 5, np.float64, ["float64"]),
        (600, 700, 0, np.float32, ["float32"]),
        (700, 600, 5, np.float32, ["float32"]),
        (600, 600, 200, np.float32, ["float32", "float64"]),
        (600, 700, 0, np.float64, ["float64"]),
        (60, 60, 1e8, np.float64, ["float64", "svd"]),
    ),
)
def test_used_part_is_exact_to_1e_4(rng, rows, columns, strength, dtype, routes):
    matrix = spiked(rng, rows, columns, strength).astype(dtype)
    kernels = Recording()
    values = singular_values(matrix, kernels)
    assert kernels.routes == routes
    exact = scipy.linalg.svdvals(matrix.astype(np.float64))
    used = int(0.75 * exact.size) + 1
    np.testing.assert_allclose(values[:used] ** 2, exact[:used] ** 2, rtol=1e-4)
    assert np.all(np.diff(values) <= 0)


@pytest.mark.parametrize("scale", (1e-30, 1e-160, 1e18, 1e160))
def test_scale_neither_overflows_nor_vanishes(rng, scale):
    matrix = rng.standard_normal((40, 50)) * scale
    np.testing.assert_allclose(
        singular_values(matrix, NumpyKernels()), scipy.linalg.svdvals(matrix / scale) * scale, rtol=1e-8
    )


def test_large_scale_in_float32(rng):
    matrix = (rng.standard_normal((520, 530)) * 1e25).astype(np.float32)
    kernels = Recording()
    values = singular_values(matrix, kernels)
    assert kernels.routes == ["float64"]
    np.testing.assert_allclose(values, scipy.linalg.svdvals(matrix.astype(np.float64)), rtol=1e-6)


@pytest.fixture(scope="module")
def exact_values():
    """Matrices and their singular values by LAPACK, once as they are and once rounded to bfloat16."""
    import torch

    rng = np.random.default_rng(SEED)
    found = []
    for rows, columns in ((100, 70), (600, 520), (530, 9000)):
        matrix = torch.from_numpy(rng.standard_normal((rows, columns)).astype(np.float32))
        rounded = matrix.to(torch.bfloat16)
        found.append((matrix, *(scipy.linalg.svdvals(each.double().numpy()) for each in (matrix, rounded))))
    return found


@pytest.mark.parametrize("numpy_from", (0, 2048))
@pytest.mark.parametrize("form", ("rows", "columns", "every second column", "bfloat16"))
def test_torch_kernels_find_what_numpy_s_find(exact_values, numpy_from, form):
    import torch

    for made, as_it_is, rounded in exact_values:
        matrix, exact = made, rounded if form == "bfloat16" else as_it_is
        match form:
            case "columns":
                matrix = matrix.T.contiguous().T
            case "every second column":
                matrix = torch.stack([matrix, matrix], dim=2).flatten(1)[:, ::2]
            case "bfloat16":
                matrix = matrix.to(torch.bfloat16)
        found = singular_values(matrix, TorchKernels(numpy_from))
        np.testing.assert_allclose(found, exact, rtol=1e-3)
        np.testing.assert_allclose(found[: len(exact) // 2], exact[: len(exact) // 2], rtol=1e-5)
        if form == "rows":
            np.testing.assert_allclose(found, singular_values(matrix.numpy(), NumpyKernels()), rtol=1e-3)


def test_gram_matrix_formed_ahead_is_used_once(rng):
    matrix = spiked(rng, 600, 600, 200).astype(np.float32)
    kernels = Recording()
    task = SingularValues(matrix, kernels)
    task.form_gram()
    assert kernels.routes == ["float32"]
    np.testing.assert_array_equal(task.find(), singular_values(matrix, NumpyKernels()))
    assert kernels.routes == ["float32", "float64"]


def test_gram_matrix_ahead_of_a_matrix_that_has_none(rng):
    for matrix in (np.full((70, 80), np.nan), np.full((70, 80), 1e200), np.zeros((0, 7))):
        kernels = Recording()
        SingularValues(matrix, kernels).form_gram()
        assert kernels.routes == []


def test_zeros_and_empty():
    np.testing.assert_array_equal(singular_values(np.zeros((5, 7)), NumpyKernels()), np.zeros(5))
    assert singular_values(np.zeros((0, 7)), NumpyKernels()).shape == (0,)


@pytest.mark.parametrize("bad", (np.nan, np.inf, -np.inf))
def test_not_finite(rng, bad):
    matrix = rng.standard_normal((40, 40))
    matrix[3, 4] = bad
    with pytest.raises(NonFiniteError):
        singular_values(matrix, NumpyKernels())


@pytest.mark.parametrize("cached", (2500, 100))
def test_eigenvalues_beside_others_are_those_of_the_lower_triangle(rng, monkeypatch, cached):
    """By scipy, and by torch from a size on."""
    monkeypatch.setattr("rmt_compress.decomposition.kernels._CACHED", cached)
    matrix = rng.standard_normal((200, 300)).astype(np.float32)
    gram = torch.from_numpy(matrix @ matrix.T)
    gram += torch.ones_like(gram).triu(1)
    exact = scipy.linalg.svdvals(matrix.astype(np.float64))[::-1] ** 2
    np.testing.assert_allclose(
        TorchKernels(numpy_from=0).eigenvalues(gram), exact, rtol=1e-5, atol=1e-6 * exact[-1]
    )
