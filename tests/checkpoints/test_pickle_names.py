import argparse
import fractions
import io
import pickle
from collections import OrderedDict

import pytest
import torch

from rmt_compress.checkpoints.pytorch.pickle_names import names_asked_for


@pytest.mark.parametrize("protocol", range(6))
def test_every_class_is_named_once_in_order(protocol: int) -> None:
    value = [
        OrderedDict(a=1),
        argparse.Namespace(x=fractions.Fraction(1, 3)),
        argparse.Namespace(),
        torch.Size([2]),
        fractions.Fraction(2, 3),
    ]
    names = names_asked_for(io.BytesIO(pickle.dumps(value, protocol)))
    expected = ["argparse.Namespace", "fractions.Fraction"]
    assert [name for name in names if not name.startswith(("copy", "__builtin__"))] == expected


def test_several_pickles_and_a_damaged_one() -> None:
    first, second = (pickle.dumps(value, 2) for value in (argparse.Namespace(), fractions.Fraction(1, 3)))
    assert names_asked_for(io.BytesIO(first + second)) == ["argparse.Namespace"]
    assert names_asked_for(io.BytesIO(first + second), 2) == ["argparse.Namespace", "fractions.Fraction"]
    assert names_asked_for(io.BytesIO(first + b"\xff" + second), 2) == ["argparse.Namespace"]
    assert names_asked_for(io.BytesIO(b"\x80\x02cargparse\nNames")) == []
    # A string that declares 4 GiB and a memo place beyond all use.
    assert names_asked_for(io.BytesIO(b"\x80\x02X\xff\xff\xff\xff.")) == []
    assert names_asked_for(io.BytesIO(b"\x80\x02r\xff\xff\xff\xff.")) == []
