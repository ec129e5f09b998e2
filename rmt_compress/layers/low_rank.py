"""A weight as two thinner ones: W ≈ up · down of rank r, down (r × columns), up (rows × r) (SJK23 §4.2).

The two are stock torch layers, first `down`, then `up`, with nothing between:

    Linear          down Linear(in, r) without bias          up Linear(r, out) with the bias
    Conv1D of       the same two: their weights are stored    as everywhere, only the product is transposed
    GPT-2
    Conv1d/2d/3d    down the k×k convolution into r channels  up a 1×1 convolution with the bias
                    with the stride, padding, dilation and
                    padding mode, without bias
    ConvTranspose   down a 1×1 convolution into r channels    up the transposed convolution from r channels, with
                    without bias                              everything else as it was

A transposed convolution's tensor is (in, out, k…), its matrix (in, out·∏k): there the factor `up` of the matrix,
transposed, is the layer that comes first.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from rmt_compress.errors import CompressionError
from rmt_compress.layers.kinds import KINDS, LayerKind, kind_of

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.nn.modules.conv import _ConvNd


def split_module(module: nn.Module, down: torch.Tensor, up: torch.Tensor, *, name: str = "") -> nn.Sequential:
    """Two layers in the place of one: ``nn.Sequential(OrderedDict(down=…, up=…))``.

    Mode (training or evaluation) and `requires_grad` of weight and bias are those of `module`, the bias is its very
    parameter. Factors keep the type and device they come in.

    Args:
        module: a stock Linear, Conv1d/2d/3d or ConvTranspose1d/2d/3d of one group, or a Conv1D of transformers.
        down: weight of the first layer, see `kinds.factor_shapes`.
        up: weight of the second layer.
        name: path of `module` in the model, for the message.

    Raises:
        CompressionError: `module` cannot be replaced without changing what it does (see `module_refusal`), or the
            factors are not of its shape.
    """
    from torch import nn

    split = split_module_empty(module, down.shape[0], name=name)
    learns = _weight(module).requires_grad
    for part, tensor in (("down", down), ("up", up)):
        if tensor.shape != (shape := _weight(split.get_submodule(part)).shape):
            raise CompressionError(
                f"{name or type(module).__name__}: its {part} factor would be {tuple(shape)}, not "
                f"{tuple(tensor.shape)}: the plan takes it for another kind of layer"
            )
        split.get_submodule(part).register_parameter("weight", nn.Parameter(tensor, requires_grad=learns))
    split.get_submodule("up").register_parameter("bias", module._parameters["bias"])
    return split


def split_module_empty(module: nn.Module, rank: int, *, name: str = "") -> nn.Sequential:
    """The two layers of rank `rank` that can stand in the place of `module`, without values (meta device).

    Type, mode and `requires_grad` are those of `module`; to be filled by ``load_state_dict(…, assign=True)``. A
    module of which there is a `module_refusal` cannot be split.
    """
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    if (refusal := module_refusal(module)) is not None:
        raise CompressionError(f"{name or type(module).__name__}: {refusal}")
    parts = _convolution(module, rank) if isinstance(module, _ConvNd) else _linear(module, rank)
    split = nn.Sequential(OrderedDict(zip(("down", "up"), parts, strict=True)))
    for part in parts:
        _weight(part).requires_grad_(_weight(module).requires_grad)
    if (bias := module._parameters["bias"]) is not None:
        parts[1].get_parameter("bias").requires_grad_(bias.requires_grad)
    return split.train(module.training)


def module_refusal(module: nn.Module) -> str | None:
    """Why a module cannot be replaced by two stock layers without changing what it does; None if it can.

    Hooks, parametrizations, a `forward` of its own, further tensors and groups would be lost. (What only its
    parent knows, that it reads the weight itself, is for `split_refusal`.)
    """
    from torch.nn.utils import parametrize

    if parametrize.is_parametrized(module):
        return f"is parametrized; torch.nn.utils.parametrize.remove_parametrizations it, or {_EXCLUDE}"
    hooks = [kind for kind in _HOOKS if getattr(module, kind, None)]
    if hooks:
        return f"carries hooks ({hooks[0].strip('_')}), which a split would lose; remove them, or {_EXCLUDE}"
    kind = module_kind(module, exactly=True)
    if kind is None or not KINDS[kind].splits:
        return (
            f"is of class {type(module).__qualname__}, not one of torch's Linear, Conv or ConvTranspose; {_EXCLUDE}"
        )
    if "forward" in vars(module):
        return f"has had its forward replaced, which a split would lose; restore it, or {_EXCLUDE}"
    if set(module._parameters) != {"weight", "bias"} or module._buffers or module._modules:
        return f"holds tensors beside weight and bias, which a split would lose; {_EXCLUDE}"
    if getattr(module, "groups", 1) != 1:
        return f"is a convolution of {module.groups} groups; {_EXCLUDE}"
    return None


def module_kind(module: nn.Module, attribute: str = "weight", *, exactly: bool = False) -> LayerKind | None:
    """Kind of the layer that `attribute` of `module` is the weight of; None where name and shape must tell.

    `exactly`: its class must be the stock one itself, and no other derived from it.
    """
    classes = (type(module),) if exactly else type(module).__mro__
    return kind_of({each.__name__ for each in classes if each.__module__.startswith(_STOCK)}, attribute)


# Where the classes stand that the kinds name.
_STOCK = ("torch.nn.modules.", "transformers.pytorch_utils")
_EXCLUDE = "leave it out (exclude)"
_HOOKS = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_backward_pre_hooks",
    "_backward_hooks",
    "_state_dict_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def _weight(module: nn.Module) -> nn.Parameter:
    return module.get_parameter("weight")


def _linear(module: nn.Module, rank: int) -> tuple[nn.Module, nn.Module]:
    from torch import nn

    weight = _weight(module)
    outputs, inputs = weight.shape if isinstance(module, nn.Linear) else weight.T.shape
    bias = module._parameters["bias"] is not None
    return (
        nn.Linear(inputs, rank, bias=False, device="meta", dtype=weight.dtype),
        nn.Linear(rank, outputs, bias=bias, device="meta", dtype=weight.dtype),
    )


def _convolution(module: _ConvNd, rank: int) -> tuple[nn.Module, nn.Module]:
    from torch import nn
    from torch.nn.modules.conv import _ConvTransposeNd

    place: dict[str, Any] = {"device": "meta", "dtype": module.weight.dtype}
    own: dict[str, Any] = {
        "kernel_size": module.kernel_size,
        "stride": module.stride,
        "padding": module.padding,
        "dilation": module.dilation,
        "padding_mode": module.padding_mode,
        **place,
    }
    stock: Any = type(module)
    bias = module.bias is not None
    channels_in, channels_out = module.in_channels, module.out_channels
    if isinstance(module, _ConvTransposeNd):
        point = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(module.kernel_size) - 1]
        return (
            point(channels_in, rank, 1, bias=False, **place),
            stock(rank, channels_out, bias=bias, output_padding=module.output_padding, **own),
        )
    return (
        stock(channels_in, rank, bias=False, **own),
        stock(rank, channels_out, 1, bias=bias, **place),
    )
