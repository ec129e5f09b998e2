"""Calibration inputs in pieces: each is one step of training, some are held out to judge by."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from rmt_compress.checkpoints.free_memory import free_memory
from rmt_compress.errors import DataError
from rmt_compress.networks.calibration.repeated_batches import described
from rmt_compress.networks.calling import tensors_in
from rmt_compress.networks.repair.relay import outline

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rmt_compress.networks.repair.relay import Relay

PIECES = 40
"""So many pieces, of several samples each where there are more: the steps of one pass."""
HELD_OUT = 8
"""One piece in so many judges and is not trained on."""


def in_pieces(batches: Iterable[Any]) -> list[Any]:
    """The samples of all batches in about `PIECES` pieces; inputs that cannot be cut into samples stay whole.

    Raises:
        DataError: they are a single piece, so that none is left to judge by.
    """
    given = list(batches)
    counts = [samples_of(batch) for batch in given]
    size = max(1, round(sum(count or 1 for count in counts) / PIECES))
    pieces = []
    for batch, count in zip(given, counts, strict=True):
        if count is None or count <= size:
            pieces.append(batch)
        else:
            parts = -(-count // size)
            edges = [count * part // parts for part in range(parts + 1)]
            pieces += [rows(batch, start, stop) for start, stop in itertools.pairwise(edges)]
    if len(pieces) < 2:
        raise DataError(
            f"block-wise repair needs two calibration inputs or more, some to train on and some to judge by; there "
            f"is one, {described(given[0])}"
        )
    return pieces


def samples_of(inputs: Any) -> int | None:
    """How many samples a batch has; None where its tensors have no common first axis."""
    lengths = {len(tensor) if tensor.dim() else None for tensor in tensors_in(inputs)}
    return lengths.pop() if len(lengths) == 1 else None


def rows(inputs: Any, start: int, stop: int) -> Any:
    """The samples `start` to `stop` of a batch."""
    if isinstance(inputs, torch.Tensor):
        return inputs[start:stop]
    if isinstance(inputs, Mapping):
        return {key: rows(value, start, stop) for key, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(rows(value, start, stop) for value in inputs)
    return inputs


def parted(count: int, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of the pieces that are trained on, and of those that judge."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    held = max(1, count // HELD_OUT)
    return sorted(order[held:]), sorted(order[:held])


def one_sample(piece: Any) -> Any:
    """The first sample of a piece, all of one that cannot be cut."""
    return rows(piece, 0, 1) if samples_of(piece) else piece


def fitting(pieces: list[Any], sample: Any, original: Relay, memory: int | None) -> list[Any]:
    """As many pieces, spread evenly, as have hidden states that fit memory.

    Args:
        pieces: all.
        sample: one sample, see `one_sample`.
        original: the network, and its blocks.
        memory: in bytes; None for half of what is free.

    Raises:
        DataError: not even two fit.
    """
    share = _most_held(original, sample) / (samples_of(sample) or 1)
    needs = [share * (samples_of(piece) or 1) for piece in pieces]
    room = _room(pieces[0]) if memory is None else memory
    if sum(needs) <= room:
        return pieces
    count = int(room / max(needs))
    if count < 2:
        raise DataError(
            f"the hidden states of two calibration inputs take {2 * max(needs):,.0f} bytes, {room:,} may be used; "
            "give smaller batches, or more memory"
        )
    return [pieces[at * len(pieces) // count] for at in range(count)]


def _most_held(original: Relay, sample: Any) -> int:
    """Bytes that a sample takes where most is held: outputs of two blocks, and what the goals are, twice."""
    before: list[Any] = []
    sizes = [0]
    with torch.no_grad():
        for at in range(len(original.blocks)):
            passage = original.run(at, sample, before)
            before[-1:] = map(outline, before[-1:])
            before.append(passage.output)
            goal = passage.reached.numel() * passage.reached.element_size()
            sizes.append(
                goal + sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(passage.output))
            )
    return 2 * max(one + other for one, other in itertools.pairwise(sizes))


def _room(piece: Any) -> int:
    """Half of the memory that is free where the inputs are; without end where nobody tells."""
    device = next((tensor.device for tensor in tensors_in(piece)), torch.device("cpu"))
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) // 2
    free = free_memory()
    return 2**62 if free is None else free // 2
