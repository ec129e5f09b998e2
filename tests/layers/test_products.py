import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmt_compress.decomposition.products import decompose_product, product_singular_values
from rmt_compress.layers.kinds import factor_shapes
from rmt_compress.layers.layer import Layer
from rmt_compress.layers.splitting import Factors, factor_matrices, factor_tensors, join_factors


@given(rows=st.integers(3, 12), columns=st.integers(3, 12), rank=st.integers(1, 3), seed=st.integers(0, 2**31))
def test_singular_values_are_those_of_the_product(rows, columns, rank, seed):
    random = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, columns, generator=random, dtype=torch.float64)
    up = torch.randn(rows, rank, generator=random, dtype=torch.float64)
    expected = torch.linalg.svdvals(up @ down)[:rank]
    for found in (decompose_product(down, up).s, torch.from_numpy(product_singular_values(down, up))):
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_truncation_is_the_nearest_matrix_of_its_rank(rank):
    down, up = torch.randn(6, 20), torch.randn(15, 6)
    new_down, new_up = decompose_product(down, up).factors(rank)
    u, s, vt = torch.linalg.svd(up @ down, full_matrices=False)
    torch.testing.assert_close(new_up @ new_down, (u[:, :rank] * s[:rank]) @ vt[:rank], atol=1e-4, rtol=1e-4)
    assert (new_down.shape, new_up.shape) == ((rank, 20), (15, rank))
    assert new_down.dtype == down.dtype
    # The same share of the singular values on either side.
    torch.testing.assert_close(torch.linalg.norm(new_down, dim=1), s[:rank].sqrt(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rank", [0, 7])
def test_truncation_refuses_a_rank_it_has_not(rank):
    with pytest.raises(ValueError, match="between 1 and 6"):
        decompose_product(torch.zeros(6, 20), torch.zeros(15, 6)).factors(rank)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("linear", (7, 9)), ("conv2d", (7, 4, 3, 3)), ("conv_transpose2d", (7, 4, 3, 3)), ("conv1d", (5, 4, 3))],
)
def test_matrices_of_factors_make_the_weight(kind, shape):
    factors = Factors(*(torch.randn(part) for part in factor_shapes(kind, shape, 2)))
    down, up = factor_matrices(kind, factors)
    weight = join_factors(kind, shape, *factors)
    torch.testing.assert_close((up @ down).reshape(shape), weight)
    back = factor_tensors(Layer("x", "x.weight", kind, shape, "float32"), down, up)
    assert torch.equal(back.down, factors.down)
    assert torch.equal(back.up, factors.up)
