"""Which weight a tensor is, told by its memory, and how it is applied to what.

Modules call torch's functions with their parameters, or with slices and transposes of them (experts, GPT-2's
Conv1D, the graphs of torch.export), so a look at the functions sees more than a look at the modules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from rmt_compress.layers.kinds import KINDS
from rmt_compress.networks.calibration.patches import Geometry, patches

if TYPE_CHECKING:
    from rmt_compress.layers.layer import Layer


@dataclass(frozen=True)
class Weight:
    """A tensor recognised as a weight.

    Attributes:
        layer: the layer.
        flipped: whether its last two axes are swapped against what is stored.
        expert: which matrix of a stack it is; None for all of them and where there is no stack.
    """

    layer: Layer
    flipped: bool = False
    expert: int | None = None


@dataclass(frozen=True)
class Use:
    """A weight is applied.

    Attributes:
        layer: whose.
        tensor: what it is applied to: (…, n), or (experts, …, n) of a whole stack; of a convolution (N, n, …).
        expert: which matrix of a stack; None for all, and elsewhere.
        geometry: of a convolution.
        columns: whether the vectors are the columns of `tensor`, and of the output, not the rows.
    """

    layer: Layer
    tensor: torch.Tensor
    expert: int | None = None
    geometry: Geometry | None = None
    columns: bool = False

    def sizes(self, output: torch.Tensor) -> tuple[int, int]:
        """How many numbers the vectors on the side of the inputs and of the outputs have, n and m."""
        if self.geometry is None:
            axis = -2 if self.columns else -1
            return self.tensor.shape[axis], output.shape[axis]
        kernel = math.prod(self.geometry.kernel)
        channels = self.tensor.shape[self._channel_axis], output.shape[self._channel_axis]
        swaps = KINDS[self.layer.kind].swaps
        return (channels[0], channels[1] * kernel) if swaps else (channels[0] * kernel, channels[1])

    def grid(self, output: torch.Tensor) -> tuple[int, ...]:
        """Along how many places a convolution applies its weight to one sample, per axis; none of a product."""
        if self.geometry is None:
            return ()
        shape = self.tensor.shape if KINDS[self.layer.kind].swaps else output.shape
        return tuple(shape[self._channel_axis + 1 :])

    def inputs(self, grid: tuple[int, ...], chosen: torch.Tensor | None) -> torch.Tensor:
        """The vectors x, (…, n); of a convolution (samples, places, n) at the chosen places."""
        return self._vectors(self.tensor.detach(), grid, chosen, patched=not KINDS[self.layer.kind].swaps)

    def gradients(self, gradient: torch.Tensor, grid: tuple[int, ...], chosen: torch.Tensor | None) -> torch.Tensor:
        """The vectors g, (…, m), out of the gradient at the output.

        Those of a convolution are at all places, of a transposed one at the chosen ones.
        """
        swaps = KINDS[self.layer.kind].swaps
        return self._vectors(gradient.detach(), grid, chosen if swaps else None, patched=swaps)

    def without_values(self) -> Use:
        """The same, without holding on to what the weight is applied to."""
        return replace(self, tensor=torch.empty_like(self.tensor, device="meta", requires_grad=False))

    @property
    def reads_places(self) -> bool:
        """Whether gradients are gathered place by place: those of a transposed convolution."""
        return self.geometry is not None and KINDS[self.layer.kind].swaps

    @property
    def samples(self) -> int:
        """How many samples a convolution sees at once."""
        return self.tensor.shape[0] if self._channel_axis == 1 else 1

    @property
    def _channel_axis(self) -> int:
        # Torch takes single samples as well, without their axis.
        assert self.geometry is not None
        return self.tensor.dim() - len(self.geometry.kernel) - 1

    def _vectors(
        self, tensor: torch.Tensor, grid: tuple[int, ...], chosen: torch.Tensor | None, *, patched: bool
    ) -> torch.Tensor:
        if self.geometry is None:
            return tensor.mT if self.columns else tensor
        batch = tensor if self._channel_axis == 1 else tensor[None]
        if patched:
            assert chosen is not None
            return patches(batch, self.geometry, chosen, grid)
        flat = batch.flatten(2).mT
        if chosen is None:
            return flat
        chosen = chosen.to(flat.device)
        return flat.gather(1, chosen[:, :, None].expand(-1, -1, flat.shape[2]))


class Weights:
    """The weights of a network by the memory they lie in."""

    def __init__(self, state: Mapping[str, Any], layers: Iterable[Layer]) -> None:
        self._by_memory: dict[int, list[tuple[torch.Tensor, Layer]]] = {}
        for layer in layers:
            tensor = state.get(layer.stored)
            if isinstance(tensor, torch.Tensor) and (memory := _memory(tensor)) is not None:
                if layer.part is not None:
                    tensor = tensor[layer.part.start : layer.part.stop]
                self._by_memory.setdefault(memory, []).append((tensor.detach(), layer))

    def find(self, tensor: object) -> Weight | None:
        """Which weight a tensor is; None where it is none, or one of another shape."""
        if not isinstance(tensor, torch.Tensor) or not self._by_memory or (memory := _memory(tensor)) is None:
            return None
        for stored, layer in self._by_memory.get(memory, ()):
            for flipped in (False, True):
                if flipped and tensor.dim() != 2 and not KINDS[layer.kind].stacked:
                    continue
                turned = tensor.mT if flipped else tensor
                if _same(turned, stored):
                    return Weight(layer, flipped)
                if KINDS[layer.kind].stacked and stored.dim() == 3 and turned.dim() == 2:
                    expert, rest = divmod(
                        int(turned.storage_offset() - stored.storage_offset()), stored.stride(0) or 1
                    )
                    if rest == 0 and 0 <= expert < len(stored) and _same(turned, stored[expert]):
                        return Weight(layer, flipped, expert)
        return None


def _memory(tensor: torch.Tensor) -> int | None:
    try:
        return tensor.untyped_storage().data_ptr() or None
    except (RuntimeError, NotImplementedError):  # sparse, or a class of somebody's own
        return None


def _same(tensor: torch.Tensor, other: torch.Tensor) -> bool:
    return (
        tensor.shape == other.shape
        and tensor.storage_offset() == other.storage_offset()
        and all(
            length == 1 or stride == others
            for length, stride, others in zip(tensor.shape, tensor.stride(), other.stride(), strict=True)
        )
    )


Given = Mapping[str, Any]


def _linear(weights: Weights, given: Given) -> Use | None:
    weight = weights.find(given.get("weight"))
    return None if weight is None else _product(weight, given["input"], outputs=0)


def _product_of_two(weights: Weights, given: Given) -> Use | None:
    left, right = given.get("left"), given.get("right")
    if (weight := weights.find(right)) is not None:
        return _product(weight, left, outputs=1)
    if (weight := weights.find(left)) is not None:
        return _product(weight, right, outputs=0, columns=True)
    return None


def _product(weight: Weight, tensor: Any, *, outputs: int, columns: bool = False) -> Use | None:
    """`outputs` is the axis, of the two, of the weight as it is applied."""
    stored = 1 - outputs if weight.flipped else outputs
    kind = KINDS[weight.layer.kind]
    if not isinstance(tensor, torch.Tensor) or kind.convolution:
        return None
    # A stack of (inputs, outputs) as well: what reads moments takes the columns of its matrices for the inputs.
    if stored != kind.outputs - kind.stacked:
        raise UsedOtherwise(weight.layer.tensor)
    return Use(weight.layer, tensor, weight.expert, columns=columns)


def _convolution(weights: Weights, given: Given) -> Use | None:
    weight = weights.find(given.get("weight"))
    if weight is None or not KINDS[weight.layer.kind].convolution:
        return None
    axes = given["weight"].dim() - 2
    transposed = bool(given.get("transposed", False))
    if transposed != KINDS[weight.layer.kind].swaps:
        raise UsedOtherwise(weight.layer.tensor)
    geometry = Geometry.of(
        given["weight"].shape[2:],
        given.get("stride") or 1,
        given.get("padding") or 0,
        given.get("dilation") or 1,
        axes,
    )
    return Use(weight.layer, given["input"], geometry=geometry)


class UsedOtherwise(Exception):  # noqa: N818  # no error of anybody's
    """A weight is applied the other way round than its layer is read; `args` is the tensor's name."""


Reader = Callable[[Weights, Given], Use | None]
_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_PAIR = ("left", "right")
_ALIASES = {"mat2": "right", "other": "right", "mat1": "left", "batch1": "left", "batch2": "right"}


def _functions() -> dict[Any, tuple[Reader, tuple[str, ...], dict[str, Any]]]:
    """Function -> who reads its arguments, what those by position are called, and what is given besides."""
    aten, tensor = torch.ops.aten, torch.Tensor
    # One list of each sort: its own graph's operators are what torch.export calls.
    linear: list[Any] = [functional.linear, aten.linear.default]
    pairs: list[Any] = [
        *(torch.matmul, tensor.matmul, tensor.__matmul__, aten.matmul.default),
        *(torch.mm, tensor.mm, aten.mm.default, torch.bmm, tensor.bmm, aten.bmm.default),
    ]
    sums: list[Any] = [
        *(torch.addmm, tensor.addmm, aten.addmm.default),
        *(torch.baddbmm, tensor.baddbmm, aten.baddbmm.default),
    ]
    convolutions: list[Any] = [
        *(torch.conv1d, torch.conv2d, torch.conv3d, aten.conv1d.default, aten.conv2d.default, aten.conv3d.default),
        *(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding),
    ]
    transposed: list[Any] = [
        *(torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
        *(aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input),
    ]
    any_convolution: list[Any] = [torch.convolution, aten.convolution.default]
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "transposed", "output_padding", "groups")
    return {
        **dict.fromkeys(linear, (_linear, ("input", "weight", "bias"), {})),
        **dict.fromkeys(pairs, (_product_of_two, _PAIR, {})),
        **dict.fromkeys(sums, (_product_of_two, ("added", *_PAIR), {})),
        **dict.fromkeys(convolutions, (_convolution, _CONV, {})),
        **dict.fromkeys(transposed, (_convolution, _TRANSPOSED, {"transposed": True})),
        **dict.fromkeys(any_convolution, (_convolution, names, {})),
    }


_FUNCTIONS = _functions()


def read_use(
    function: Callable[..., Any], weights: Weights, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Use | None:
    """What a call of one of torch's functions applies a weight to; None where it applies none.

    Raises:
        UsedOtherwise: a weight of another layer than this one computes.
    """
    try:
        known = _FUNCTIONS.get(function)
    except TypeError:  # not hashable
        return None
    if known is None:
        return None
    reader, names, more = known
    given = {**more, **dict(zip(names, args, strict=False))}
    given.update((_ALIASES.get(name, name), value) for name, value in kwargs.items())
    return reader(weights, given)
