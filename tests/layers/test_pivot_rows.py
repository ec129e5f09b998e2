"""Products of rank r by r of their rows: how well, and in how many numbers."""

import numpy as np
import pytest
import torch

from rmt_compress.decomposition.pivoting import LARGEST, pivoted
from rmt_compress.layers.pivot_rows import PivotRows, decode, encode_if_smaller, encoded_bytes

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def factors(rows, columns, rank, *, decay=3.0, dtype=torch.float64):
    """Those of the SVD of a product whose singular values fall by `decay` powers of ten."""
    left, right = (torch.linalg.qr(torch.randn(size, rank, dtype=torch.float64))[0] for size in (rows, columns))
    roots = torch.logspace(0, -decay / 2, rank, dtype=torch.float64)
    return (roots[:, None] * right.T).to(dtype), (left * roots).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "columns", "rank"), [(90, 120, 20), (200, 40, 30), (39, 39, 38), (5, 9, 1)])
def test_the_product_is_the_same_to_the_rounding_of_its_type(rows, columns, rank, dtype):
    down, up = factors(rows, columns, rank, dtype=dtype)
    first, second = pivoted(down, up)
    assert (first.shape, second.shape, first.dtype) == (down.shape, up.shape, dtype)
    product = up.double() @ down.double()
    moved = (second.double() @ first.double() - product).norm() / product.norm()
    assert moved < 8 * torch.finfo(dtype).eps
    assert second.abs().max() <= LARGEST * 1.01
    pivots = encode_if_smaller(second)
    if pivots is not None:
        # Rows of the product themselves, as well as the type can hold them.
        rows_of_it = product[pivots.pivots.long()].to(dtype)
        assert torch.allclose(first, rows_of_it, rtol=2 * torch.finfo(dtype).eps, atol=1e-15)


def test_rows_that_pivoted_qr_alone_would_choose_badly():
    """Kahan's matrix, for which it never exchanges a column: coefficients would reach thousands."""
    size, sine = 40, 0.9
    cosine = np.sqrt(1 - sine**2)
    kahan = np.diag(sine ** np.arange(size)) @ (np.eye(size) - cosine * np.triu(np.ones((size, size)), 1))
    last = torch.from_numpy(kahan).T.contiguous()[:, : size - 1]
    first, second = pivoted(torch.eye(size - 1, dtype=torch.float64), last)
    assert second.abs().max() <= LARGEST * (1 + 1e-9)
    assert torch.allclose(second @ first, last, atol=1e-12)


def test_factors_of_a_smaller_rank_than_they_could_have():
    down, up = factors(60, 50, 12)
    up[:, 7:] = 0
    first, second = pivoted(down, up)
    assert torch.allclose(second @ first, up @ down, atol=1e-12)
    with pytest.raises(ValueError, match="NaN or Inf"):
        pivoted(down, up * torch.nan)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", [(), (1,), (1, 1)])
def test_encoded_to_the_bit_in_as_many_numbers_as_promised(dtype, kernel):
    down, up = factors(90, 120, 30, dtype=dtype)
    second = pivoted(down, up)[1].reshape(90, 30, *kernel)
    parts = encode_if_smaller(second)
    assert parts is not None
    assert parts.coefficients.shape == (60, 30, *kernel)
    assert parts.pivots.dtype == torch.int32
    assert torch.equal(decode(parts), second)
    size = sum(part.nbytes for part in parts)
    assert size <= encoded_bytes(90, 30, second.element_size()) < second.nbytes
    assert down.numel() + parts.coefficients.numel() == 30 * (90 + 120 - 30)


def test_only_what_it_suits():
    eye = torch.eye(20)
    rows = torch.cat([torch.randn(30, 20), eye])
    assert encode_if_smaller(rows) is not None
    shuffled = torch.cat([torch.randn(30, 20), eye.flip(0)])
    negative = rows.clone()
    negative[40, 3] = -0.0
    others = (rows[:, :, None, None].expand(-1, -1, 1, 3), 2 * rows, rows[:49], shuffled, negative, eye)
    for other in (*others, torch.randn(50, 20), rows.long(), rows[:, 0]):
        assert encode_if_smaller(other) is None
    # Two rows of the identity in a row of five: the two entries of a file cost more.
    assert encode_if_smaller(torch.cat([torch.randn(3, 2), torch.eye(2)])) is None


GOOD = PivotRows(torch.tensor([1, 3], dtype=torch.int32), torch.randn(4, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pivots": GOOD.pivots.flip(0)}, "not ascending rows of 6"),
        ({"pivots": GOOD.pivots * 2}, "not ascending rows of 6"),
        ({"pivots": GOOD.pivots - 2}, "not ascending rows of 6"),
        ({"pivots": GOOD.pivots * 0 + 1}, "not ascending rows of 6"),
        ({"pivots": GOOD.pivots.long()}, "no 1-d int32"),
        ({"pivots": GOOD.pivots[None]}, "no 1-d int32"),
        ({"pivots": GOOD.pivots[:1]}, "its 1 pivots do not suit coefficients of shape .4, 2."),
        ({"coefficients": GOOD.coefficients.long()}, "no floating-point"),
        ({"coefficients": GOOD.coefficients[0]}, "do not suit"),
        ({"coefficients": GOOD.coefficients.reshape(2, 2, 2)}, "do not suit"),
    ],
)
def test_parts_that_do_not_agree_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        decode(PivotRows(**{**GOOD._asdict(), **change}))
