"""Bitmask and values."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rmt_compress.layers.bitmask import (
    SparseTensor,
    bits_length,
    decode,
    encode,
    encode_if_smaller,
    encoded_bytes,
    sparse_shape,
)

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SPECIAL = [0.0, -0.0, math.nan, math.inf, -math.inf, 1.0, -1.5, 1e-7]


def as_bytes(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.integers(0, 5), max_size=4))
    count = math.prod(shape)
    values = draw(st.lists(st.sampled_from(SPECIAL), min_size=count, max_size=count))
    return torch.tensor(values, dtype=draw(st.sampled_from(DTYPES))).reshape(shape)


@given(tensors())
@settings(max_examples=200)
def test_round_trip_is_exact_to_the_bit_but_for_negative_zero(tensor):
    parts = encode(tensor)
    back = decode(parts)
    assert back.dtype == tensor.dtype
    assert back.shape == tensor.shape
    assert as_bytes(back) == as_bytes(torch.where(tensor == 0, torch.zeros_like(tensor), tensor))
    assert len(parts.values) == sum(value != 0 for value in tensor.reshape(-1).tolist())
    assert len(parts.bits) == bits_length(tensor.numel())


def test_layout_is_the_documented_one():
    tensor = torch.tensor([[0.0, 2.0, 0.0, 0.0, 3.0], [0.0, 0.0, 0.0, 4.0, 5.0]])
    bits, values, shape = encode(tensor)
    assert bits.tolist() == [0b00010010, 0b00000011]
    assert values.tolist() == [2.0, 3.0, 4.0, 5.0]
    assert shape.tolist() == [2, 5]
    assert (bits.dtype, values.dtype, shape.dtype) == (torch.uint8, torch.float32, torch.int64)


def test_nan_payload_survives():
    patterns = np.array([0x7FC00001, 0xFFC12345, 0x7F800001, 0], dtype=np.uint32)
    tensor = torch.from_numpy(patterns.view(np.float32))
    assert decode(encode(tensor)).view(torch.int32).tolist() == patterns.view(np.int32).tolist()


def test_a_view_that_is_not_contiguous():
    tensor = torch.randn(6, 4).relu().T
    assert torch.equal(decode(encode(tensor)), tensor)


def test_used_only_where_smaller():
    dense = torch.randn(100, 100)
    assert encode_if_smaller(dense) is None
    sparse = dense * (torch.rand(100, 100) < 0.1)
    parts = encode_if_smaller(sparse)
    assert parts is not None
    size = sum(part.numel() * part.element_size() for part in parts)
    assert size <= encoded_bytes(10_000, int(sparse.count_nonzero()), 4) < 40_000
    assert encode_if_smaller(torch.zeros(4, 4)) is None  # 64 bytes: three entries cost more
    assert encode_if_smaller(torch.zeros(1000, dtype=torch.int64)) is None
    with pytest.raises(ValueError, match="no sparse encoding"):
        encode(torch.zeros(1000, dtype=torch.int64))


def test_the_boundary_is_exact():
    """At float32, 31/32 of non-zeros is where bits and values weigh as much as the tensor."""
    numel = 64_000
    limit = next(count for count in range(numel, 0, -1) if encoded_bytes(numel, count, 4) < 4 * numel)
    for count, smaller in ((limit, True), (limit + 1, False)):
        tensor = torch.zeros(numel)
        tensor[:count] = 1
        assert (encode_if_smaller(tensor) is not None) is smaller


GOOD = encode(torch.tensor([[0.0, 2.0, 3.0], [0.0, 0.0, 1.0]]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": GOOD.bits | 64}, "beyond its last entry"),
        ({"bits": GOOD.bits ^ 1}, "4 bits are set for 3 values"),
        ({"bits": GOOD.bits.repeat(2)}, "need 1 bytes of bits, it has 2"),
        ({"bits": GOOD.bits.to(torch.int8)}, "no 1-d uint8"),
        ({"values": GOOD.values[:2]}, "3 bits are set for 2 values"),
        ({"values": GOOD.values.repeat(3)}, "9 values for 6 entries"),
        ({"values": GOOD.values * torch.tensor([1, 0, 1])}, "a zero stands among"),
        ({"values": GOOD.values.long()}, "no 1-d floating-point"),
        ({"values": GOOD.values[None]}, "no 1-d floating-point"),
        ({"shape": torch.tensor([3, 3])}, "9 entries need 2 bytes"),
        ({"shape": torch.tensor([-2, -3])}, "its shape is none"),
        ({"shape": torch.tensor([2**40, 2**40])}, "more entries than a tensor"),
        ({"shape": torch.tensor([2**62, 0])}, "0 entries need 0 bytes"),
        ({"shape": torch.ones(65, dtype=torch.int64)}, "no short 1-d"),
        ({"shape": torch.tensor([2.0, 3.0])}, "no short 1-d"),
    ],
)
def test_parts_that_do_not_agree_are_refused(change, message):
    parts = SparseTensor(*{**GOOD._asdict(), **change}.values())
    with pytest.raises(ValueError, match=message):
        decode(parts)


def test_a_huge_shape_is_refused_before_anything_is_allocated():
    with pytest.raises(ValueError, match="bytes of bits"):
        sparse_shape((2**31, 2**31), 8, 3)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.sampled_from([2, 4, 8]))
def test_encoded_bytes_grows_with_nonzeros(numel, nonzeros, itemsize):
    assert encoded_bytes(numel, nonzeros + 1, itemsize) - encoded_bytes(numel, nonzeros, itemsize) == itemsize
    assert encoded_bytes(numel, 0, itemsize) * 8 >= numel
