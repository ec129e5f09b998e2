"""Layers that move answers when they are cut: a Linear or a convolution, with the batch norm that follows it.

In evaluation a batch norm multiplies channels and shifts them; together with the layer before it is one affine map,
whose norm is smaller than the product of both. A layer that was split, ``Sequential(down, up)``, counts as the
product of its factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rmt_compress.certificates.lipschitz import Gain
from rmt_compress.certificates.operator_norms import (
    convolution_norm,
    largest_row_sum,
    padding_gain,
    spectral_norm,
)

if TYPE_CHECKING:
    import torch
    from torch import nn


class Operator(NamedTuple):
    """The linear part of a layer.

    Attributes:
        weight: (out, in) or (out, in / groups, taps …), in float64 on the CPU.
        convolution: the convolution whose stride, padding and dilation hold; None of a Linear.
    """

    weight: torch.Tensor
    convolution: Any = None


def operator_of(module: nn.Module) -> Operator | None:
    """The linear part of a layer, split or not; None where it is neither a Linear nor a convolution."""
    from torch import nn

    if isinstance(module, nn.Linear):
        return Operator(_plain(module))
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return Operator(_plain(module), module)
    if not isinstance(module, nn.Sequential) or [name for name, _ in module.named_children()] != ["down", "up"]:
        return None
    down, up = (operator_of(part) for part in module)
    if down is None or up is None or (down.convolution is None) != (up.convolution is None):
        return None
    if down.convolution is None:
        return Operator(up.weight @ down.weight)
    if up.weight[0, 0].numel() != 1 or down.convolution.groups != 1 or up.convolution.groups != 1:
        return None
    product = up.weight.flatten(1) @ down.weight.flatten(1)
    return Operator(product.reshape(len(product), *down.weight.shape[1:]), down.convolution)


def split_rank(module: nn.Module) -> int | None:
    """The rank of a layer whose linear part is known and that stands as two; None of any other."""
    from torch import nn

    if not isinstance(module, nn.Sequential):
        return None
    return int(module[0].get_parameter("weight").shape[0])


def channel_scales(norm: nn.Module) -> torch.Tensor | None:
    """What a batch norm multiplies each channel by in evaluation; None where it uses the batch's own statistics."""
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    if not isinstance(norm, _BatchNorm) or norm.running_var is None:
        return None
    variance = norm.running_var.detach().double().cpu()
    scales = 1 / (variance + norm.eps).sqrt()
    weight = norm._parameters["weight"]
    return scales if weight is None else scales * torch.as_tensor(weight).detach().double().cpu()


def layer_gain(operator: Operator, shape: Sequence[int], scales: torch.Tensor | None = None) -> Gain:
    """The Lipschitz constants of a layer, with the batch norm behind it.

    Args:
        operator: its linear part.
        shape: of its input, samples first.
        scales: of the batch norm's channels; None for none.
    """
    weight = operator.weight
    if scales is not None:
        weight = weight * scales.reshape(-1, *[1] * (weight.dim() - 1))
    if operator.convolution is None:
        return Gain(spectral_norm(weight), largest_row_sum(weight))
    stock = operator.convolution
    image = shape[-len(stock.kernel_size) :]
    if stock.padding_mode == "zeros":
        two = convolution_norm(weight, image, stock.stride, stock.dilation, stock.groups)
        return Gain(two, largest_row_sum(weight))
    # A convolution of the padded image with nothing around that.
    borders = stock._reversed_padding_repeated_twice
    axes = len(image)
    padded = [image[axis] + sum(borders[2 * (axes - 1 - axis) :][:2]) for axis in range(axes)]
    two = convolution_norm(weight, padded, stock.stride, stock.dilation, stock.groups)
    return Gain(two * padding_gain(image, borders, stock.padding_mode), largest_row_sum(weight))


def same_layer(one: Sequence[nn.Module], other: Sequence[nn.Module]) -> bool:
    """Whether modules of two networks are of the same classes and settings and hold the same values."""
    import torch

    for first, second in zip(one, other, strict=True):
        if type(first) is not type(second) or first.extra_repr() != second.extra_repr():
            return False
        ours, theirs = first.state_dict(), second.state_dict()
        if ours.keys() != theirs.keys() or not all(torch.equal(ours[name], theirs[name]) for name in ours):
            return False
    return True


def _plain(module: nn.Module) -> torch.Tensor:
    import torch

    return torch.as_tensor(module.weight).detach().double().cpu()
