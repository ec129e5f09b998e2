"""ONNX's operators that move entries or leave some out, by torch's functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from rmt_compress.checkpoints.onnx.onnx_call import Call, Tensor


def reshape(call: Call) -> Tensor:
    """Reshape."""
    x = call.x
    shape = call.numbers("shape", 1) or []
    if not call.get("allowzero", 0):
        shape = [x.shape[axis] if length == 0 else length for axis, length in enumerate(shape)]
    return x.reshape(shape)


def flatten(call: Call) -> Tensor:
    """Flatten."""
    x, axis = call.x, call.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    rows = 1
    for length in x.shape[:axis]:
        rows *= length
    return x.reshape(rows, -1)


def transpose(call: Call) -> Tensor:
    """Transpose."""
    x = call.x
    return x.permute(call.get("perm", list(reversed(range(x.dim())))))


def squeeze(call: Call) -> Tensor:
    """Squeeze."""
    axes = call.numbers("axes", 1)
    return call.x.squeeze() if axes is None else call.x.squeeze(tuple(axes))


def unsqueeze(call: Call) -> Tensor:
    """Unsqueeze."""
    x, axes = call.x, call.numbers("axes", 1) or []
    for axis in sorted(axis % (x.dim() + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def split(call: Call) -> Sequence[Tensor]:
    """Split."""
    x, axis = call.x, call.get("axis", 0)
    lengths = call.numbers("split", 1)
    if lengths is None:
        # The last is shorter where they do not come out even.
        return torch.split(x, -(-x.shape[axis] // call.outputs), axis)
    return torch.split(x, lengths, axis)


def cut_out(call: Call) -> Tensor:
    """Slice."""
    x = call.x
    starts, ends = call.numbers("starts", 1) or [], call.numbers("ends", 2) or []
    axes, steps = call.numbers("axes", 3) or range(len(starts)), call.numbers("steps", 4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step > 0:
            index = torch.arange(x.shape[axis])[start:end:step]
        else:
            last = x.shape[axis] - 1
            first = min(start + x.shape[axis] if start < 0 else start, last)
            stop = end + x.shape[axis] if -x.shape[axis] <= end < 0 else max(end, -1)
            index = torch.arange(first, stop, step)
        x = x.index_select(axis, index.to(x.device))
    return x


def gather(call: Call) -> Tensor:
    """Gather."""
    x, indices = call.x, call.given(1)
    axis = call.get("axis", 0) % x.dim()
    indices = torch.where(indices < 0, indices + x.shape[axis], indices).long()
    found = x.index_select(axis, indices.reshape(-1))
    return found.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def gather_elements(call: Call) -> Tensor:
    """GatherElements."""
    x, indices = call.x, call.given(1)
    axis = call.get("axis", 0) % x.dim()
    return x.gather(axis, torch.where(indices < 0, indices + x.shape[axis], indices).long())


def expand(call: Call) -> Tensor:
    """Expand."""
    return torch.add(call.x, torch.zeros(call.numbers("shape", 1) or [], dtype=call.x.dtype))


def pad(call: Call) -> Tensor:
    """Pad."""
    x, value = call.x, call.optional(2)
    pads = call.numbers("pads", 1) or []
    axes = [axis % x.dim() for axis in call.numbers("axes", 3) or range(x.dim())]
    around = dict(zip(axes, zip(pads[: len(axes)], pads[len(axes) :], strict=True), strict=True))
    flat = [number for axis in reversed(range(x.dim())) for number in around.get(axis, (0, 0))]
    mode = call.get("mode", b"constant").decode()
    if mode == "constant":
        return functional.pad(x, flat, value=call.get("value", 0.0) if value is None else float(value))
    # torch knows these of the last axes alone.
    for axis, (before, behind) in around.items():
        length = x.shape[axis]
        places = torch.arange(-before, length + behind)
        if mode == "edge":
            places = places.clamp(0, length - 1)
        elif mode == "wrap":
            places = places % length
        else:
            period = max(2 * (length - 1), 1)
            places = places % period
            places = torch.where(places >= length, period - places, places)
        x = x.index_select(axis, places.to(x.device))
    return x


def triangle(call: Call) -> Tensor:
    """Trilu."""
    given = call.optional(1)
    diagonal = 0 if given is None else int(given)
    return call.x.triu(diagonal) if call.get("upper", 1) else call.x.tril(diagonal)


def depth_to_space(call: Call) -> Tensor:
    """DepthToSpace."""
    x, size = call.x, call.attributes["blocksize"]
    n, depth, height, width = x.shape
    if call.get("mode", b"DCR") == b"CRD":
        return functional.pixel_shuffle(x, size)
    blocks = x.reshape(n, size, size, depth // size**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(n, depth // size**2, height * size, width * size)


def space_to_depth(call: Call) -> Tensor:
    """SpaceToDepth."""
    x, size = call.x, call.attributes["blocksize"]
    n, depth, height, width = x.shape
    blocks = x.reshape(n, depth, height // size, size, width // size, size)
    blocks = (
        blocks.permute(0, 1, 3, 5, 2, 4) if call.get("mode", b"DCR") == b"CRD" else blocks.permute(0, 3, 5, 1, 2, 4)
    )
    return blocks.reshape(n, depth * size**2, height // size, width // size)


def tile(call: Call) -> Tensor:
    """Tile."""
    return call.x.repeat(call.numbers("repeats", 1) or [])
