"""ONNX's convolutions and pools by torch's functions: padding may differ on the two sides, or follow from sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from rmt_compress.checkpoints.onnx.onnx_call import Call

Around = list[tuple[int, int]]
"""Zeros before and behind each axis."""


def convolve(call: Call) -> torch.Tensor:
    """Conv."""
    x, weight, bias = call.x, call.given(1), call.optional(2)
    axes = weight.dim() - 2
    stride, dilation = _each(call, "strides", axes), _each(call, "dilations", axes)
    around = _around(call, x.shape[2:], weight.shape[2:], stride, dilation)
    even = all(before == behind for before, behind in around)
    function: Any = (functional.conv1d, functional.conv2d, functional.conv3d)[axes - 1]
    return torch.as_tensor(
        function(
            x if even else functional.pad(x, _flat(around)),
            weight,
            bias,
            stride,
            [before for before, _ in around] if even else 0,
            dilation,
            call.get("group", 1),
        )
    )


def convolve_transposed(call: Call) -> torch.Tensor:
    """ConvTranspose: the whole image, of which a part is kept."""
    x, weight, bias = call.x, call.given(1), call.optional(2)
    axes = weight.dim() - 2
    stride, dilation = _each(call, "strides", axes), _each(call, "dilations", axes)
    function: Any = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[
        axes - 1
    ]
    image = function(x, weight, None, stride, groups=call.get("group", 1), dilation=dilation)
    more, pads = call.get("output_padding", [0] * axes), call.get("pads", [0] * 2 * axes)
    automatic = call.get("auto_pad", b"NOTSET").decode()
    shape = call.get("output_shape", None)
    if shape is None and automatic.startswith("SAME"):
        shape = [size * step for size, step in zip(x.shape[2:], stride, strict=True)]
    for axis in range(axes):
        whole = image.shape[2 + axis] + more[axis]
        before, length = pads[axis], whole - pads[axis] - pads[axes + axis]
        if shape is not None:
            length, total = shape[axis], max(0, whole - shape[axis])
            before = total - total // 2 if automatic == "SAME_LOWER" else total // 2
        missing = max(0, before + length - image.shape[2 + axis])
        padded = functional.pad(image, [0] * 2 * (axes - axis - 1) + [0, missing])
        image = padded.narrow(2 + axis, before, length)
    return torch.as_tensor(image if bias is None else image + bias.reshape(-1, *(1,) * axes))


def pool_average(call: Call) -> torch.Tensor:
    """AveragePool."""
    x = call.x
    window = _Window(call, x)
    counts = functional.pad(
        torch.ones_like(x[:1, :1]), _flat(window.around), value=float(call.get("count_include_pad", 0))
    )
    sums, count = (
        window.over(padded, 0.0).sum(window.axes) for padded in (functional.pad(x, _flat(window.around)), counts)
    )
    return sums / count


def pool_largest(call: Call) -> torch.Tensor:
    """MaxPool, without the places of the largest."""
    if call.outputs > 1:
        raise NotImplementedError("places of the largest")
    window = _Window(call, call.x)
    padded = functional.pad(call.x, _flat(window.around), value=-math.inf)
    return window.over(padded, -math.inf).amax(window.axes)


def resize(call: Call) -> torch.Tensor:
    """Resize of the axes behind the channels, upwards as torch's own interpolations are written."""
    x, mode = call.x, call.get("mode", b"nearest").decode()
    places = call.get("coordinate_transformation_mode", b"half_pixel").decode()
    linear = ("linear", "bilinear", "trilinear")[x.dim() - 3]
    known = {
        ("nearest", "asymmetric"): ("nearest", None),
        ("linear", "half_pixel"): (linear, False),
        ("linear", "pytorch_half_pixel"): (linear, False),
        ("linear", "align_corners"): (linear, True),
    }
    floors = mode != "nearest" or call.get("nearest_mode", b"round_prefer_floor") == b"floor"
    whole = call.get("keep_aspect_ratio_policy", b"stretch") == b"stretch" and "axes" not in call.attributes
    plain = whole and not call.get("antialias", 0)
    sizes = _sizes(x, call.optional(2), call.optional(3)) if plain else None
    upwards = sizes is not None and all(size >= length for size, length in zip(sizes, x.shape, strict=True))
    if sizes is None or (mode, places) not in known or not (floors and upwards):
        raise NotImplementedError(f"{mode}, {places}")
    how, corners = known[mode, places]
    return functional.interpolate(x, sizes[2:], mode=how, align_corners=corners)


def _sizes(x: torch.Tensor, scales: torch.Tensor | None, sizes: torch.Tensor | None) -> list[int] | None:
    """Lengths of all axes of what is resized; None where scales do not come out even, or channels change."""
    if sizes is not None and sizes.numel():
        found = [int(size) for size in sizes]
    elif scales is not None and scales.numel():
        lengths = [float(scale) * length for scale, length in zip(scales, x.shape, strict=True)]
        found = [round(length) for length in lengths]
        if any(abs(size - length) > 1e-4 for size, length in zip(found, lengths, strict=True)):
            return None
    else:
        return None
    return found if found[:2] == list(x.shape[:2]) else None


class _Window:
    """The window of a pool, which moves over an image (N, C, …)."""

    def __init__(self, call: Call, x: torch.Tensor) -> None:
        self._kernel: list[int] = call.attributes["kernel_shape"]
        axes = len(self._kernel)
        self._stride, self._dilation = _each(call, "strides", axes), _each(call, "dilations", axes)
        self._up = bool(call.get("ceil_mode", 0))
        self.around = _around(call, x.shape[2:], self._kernel, self._stride, self._dilation)
        self.axes = tuple(range(-axes, 0))

    def over(self, x: torch.Tensor, fill: float) -> torch.Tensor:
        """All windows of a padded image, (N, C, places …, kernel …); the last is filled up where it may be."""
        steps = zip(self._kernel, self._stride, self._dilation, self.around, strict=True)
        for axis, (size, step, spread, (_, behind)) in enumerate(steps, start=2):
            reach, length = (size - 1) * spread + 1, x.shape[axis]
            if self._up:
                windows = -(-(length - reach) // step) + 1
                # One that would begin behind the image is none.
                windows -= (windows - 1) * step >= length - behind
                missing = max(0, (windows - 1) * step + reach - length)
                filled = functional.pad(x, [0] * 2 * (len(self._kernel) + 1 - axis) + [0, missing], value=fill)
                x = filled.narrow(axis, 0, (windows - 1) * step + reach)
        for axis, (size, step, spread) in enumerate(
            zip(self._kernel, self._stride, self._dilation, strict=True), start=2
        ):
            x = x.unfold(axis, (size - 1) * spread + 1, step)[..., ::spread]
        return x


def _each(call: Call, name: str, axes: int) -> list[int]:
    found: list[int] = call.get(name, [1] * axes)
    return found


def _around(
    call: Call, sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Around:
    automatic, axes = call.get("auto_pad", b"NOTSET").decode(), len(kernel)
    if automatic in ("NOTSET", ""):
        pads = call.get("pads", [0] * 2 * axes)
        return list(zip(pads[:axes], pads[axes:], strict=True))
    if automatic == "VALID":
        return [(0, 0)] * axes
    around = []
    for size, reach, step, spread in zip(sizes, kernel, stride, dilation, strict=True):
        total = max(0, (-(-size // step) - 1) * step + (reach - 1) * spread + 1 - size)
        less = total // 2
        around.append((less, total - less) if automatic == "SAME_UPPER" else (total - less, less))
    return around


def _flat(around: Around) -> list[int]:
    """As torch's `pad` takes them, last axis first."""
    return [number for pair in reversed(around) for number in pair]
