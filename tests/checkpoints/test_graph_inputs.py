"""Inputs of a graph found in what a network is called with."""

import re

import pytest
import torch

from rmt_compress.checkpoints.graph_inputs import GraphInput, Parts, as_arguments, matched

IDS = torch.arange(10).view(2, 5)
TEXT = (
    GraphInput("attention_mask", torch.int64, (None, None)),
    GraphInput("input_ids", torch.int32, (None, None)),
    GraphInput("position_ids", torch.int64, (1, None)),
    GraphInput("token_type_ids", torch.bool, (None, None)),
)
PLAIN = (GraphInput("input_ids", torch.int64, (None, None)),)


def found(inputs, wanted=TEXT):
    return matched(wanted, *as_arguments(inputs))


def test_a_single_tensor_goes_to_the_input_that_cannot_be_made():
    feeds = found(IDS)
    assert list(feeds) == ["attention_mask", "input_ids", "position_ids", "token_type_ids"]
    assert torch.equal(feeds["input_ids"], IDS.int())
    assert feeds["input_ids"].dtype == torch.int32
    assert torch.equal(feeds["attention_mask"], torch.ones(2, 5, dtype=torch.int64))
    assert torch.equal(feeds["position_ids"], torch.arange(5)[None])
    assert torch.equal(feeds["token_type_ids"], torch.zeros(2, 5, dtype=torch.bool))


def test_names_decide_where_there_are_any():
    mask = (IDS % 3 > 0).long()
    feeds = found({"input_ids": IDS, "attention_mask": mask, "token_type_ids": mask})
    assert torch.equal(feeds["attention_mask"], mask)
    assert torch.equal(feeds["token_type_ids"], mask.bool())


def test_several_tensors_go_in_order():
    feeds = found((torch.ones(2, 5), IDS))
    assert feeds["attention_mask"].dtype == torch.int64
    assert torch.equal(feeds["input_ids"], IDS.int())


def test_a_mask_that_hides_nothing_may_be_without_an_input():
    assert list(found({"input_ids": IDS, "attention_mask": torch.ones(2, 5)}, PLAIN)) == ["input_ids"]
    with pytest.raises(ValueError, match=r"the graph has no input attention_mask, only input_ids"):
        found({"input_ids": IDS, "attention_mask": (IDS > 3).long()}, PLAIN)


def test_an_optional_input_is_left_out():
    wanted = (GraphInput("x"), GraphInput("attention_mask", optional=True))
    assert list(found(IDS, wanted)) == ["x"]


@pytest.mark.parametrize(
    ("inputs", "wanted", "message"),
    [
        ((IDS, IDS), PLAIN, "2 inputs are given, and the graph takes 1: input_ids"),
        ({"tokens": IDS}, PLAIN, "the graph takes input_ids, and has none called tokens; input_ids is not given"),
        ({"input_ids": IDS, "labels": IDS}, PLAIN, "the graph has no input labels, only input_ids"),
        ({"input_ids": "text"}, PLAIN, "input_ids is a str, and the graph takes tensors"),
        (IDS.float(), PLAIN, "input_ids takes int64, and float32 is given"),
        (IDS, (GraphInput("x", torch.float32, (None, 5)),), "x takes float32, and int64 is given"),
        (IDS, (GraphInput("x"), GraphInput("z")), "the graph takes x, z; z is not given"),
        (
            IDS,
            (GraphInput("ids", torch.int64, (None, 8)),),
            "ids takes N×8, and 2×5 is given; its length is fixed: ask for texts of it (--sequence-length 8)",
        ),
        (torch.ones(2, 5), (GraphInput("x", torch.float32, (None, 3, None)),), "x takes N×3×?, and 2×5 is given"),
        (
            IDS,
            (*PLAIN, GraphInput("attention_mask", torch.float32, (None, 1, None, None))),
            "attention_mask is not given, and cannot be made for a graph that takes N×1×?×?",
        ),
    ],
)
def test_what_cannot_be_matched_is_one_line(inputs, wanted, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        found(inputs, wanted)


def test_a_fixed_batch_is_filled_and_cut_again():
    wanted = (GraphInput("x", torch.int64, (2, None)), GraphInput("position_ids", torch.int64, (1, None)))
    parts = Parts(wanted, found(torch.arange(15).view(5, 3), wanted))
    pieces = list(parts)
    assert [piece["x"][:, 0].tolist() for piece in pieces] == [[0, 3], [6, 9], [12, 12]]
    assert all(torch.equal(piece["position_ids"], torch.arange(3)[None]) for piece in pieces)
    joined = parts.joined([{"y": 2 * piece["x"], "all": piece["x"].sum()} for piece in pieces])
    assert list(joined) == ["y"]
    assert torch.equal(joined["y"], 2 * torch.arange(15).view(5, 3))
    assert [len(piece["x"]) for piece in parts.whole()] == [2, 2]
