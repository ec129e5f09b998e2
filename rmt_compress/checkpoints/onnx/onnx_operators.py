"""ONNX's operators by torch's functions, so that gradients come back through a graph.

onnxruntime runs graphs forward only. What stands here are the operators between the layers of a network and its
outputs; shapes, masks and constants need none, since onnxruntime can be asked for them. All but casts
agree with the test cases that ONNX comes with, as far as these are of floating point.

Graphs of half precision are computed in float32 here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce

import torch
from torch.nn import functional

from rmt_compress.checkpoints.onnx import onnx_rearranging as rearranging
from rmt_compress.checkpoints.onnx.onnx_call import Call, Tensor
from rmt_compress.checkpoints.onnx.onnx_windows import (
    convolve,
    convolve_transposed,
    pool_average,
    pool_largest,
    resize,
)

Outputs = Tensor | Sequence[Tensor]


def apply(name: str, call: Call) -> Sequence[Tensor]:
    """The outputs of the operator `name`, which is one of `OPERATORS`."""
    found: Outputs = OPERATORS[name](call)
    return (found,) if isinstance(found, Tensor) else found


def _each(function: Callable[[Tensor], Tensor]) -> Callable[[Call], Tensor]:
    return lambda call: function(call.x)


def _both(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Call], Tensor]:
    """Of two inputs, or of any number one after the other."""
    return lambda call: reduce(function, call.tensors)


def _gelu(call: Call) -> Tensor:
    approximate = call.get("approximate", b"none")
    return functional.gelu(call.x, approximate=approximate.decode())


def _clip(call: Call) -> Tensor:
    x = call.x
    for place, name, function in ((1, "min", torch.maximum), (2, "max", torch.minimum)):
        bound = call.optional(place) if name not in call.attributes else torch.tensor(call.attributes[name])
        if bound is not None:
            x = function(x, bound.to(x))
    return x


def _dropout(call: Call) -> Tensor:
    training = call.optional(2)
    if training is not None and bool(training):
        raise NotImplementedError("training mode")
    return call.x


def _pow(call: Call) -> Tensor:
    base, exponent = call.x, call.given(1)
    # Of a number alone torch knows that a square has a gradient at 0.
    return torch.pow(base, exponent.item() if exponent.numel() == 1 else exponent)


def _gemm(call: Call) -> Tensor:
    a, b, bias = call.x, call.given(1), call.optional(2)
    product = call.get("alpha", 1.0) * (
        (a.T if call.get("transA", 0) else a) @ (b.T if call.get("transB", 0) else b)
    )
    return product if bias is None else torch.add(product, bias, alpha=call.get("beta", 1.0))


def _softmax(function: Callable[[Tensor, int], Tensor], call: Call) -> Tensor:
    x = call.x
    if call.opset >= 13:
        return function(x, call.get("axis", -1))
    # All axes from this one on together, in older opsets.
    axis = call.get("axis", 1) % x.dim()
    return function(x.flatten(axis), -1).reshape(x.shape)


def _layer_norm(call: Call) -> Tensor:
    x, bias = call.x, call.optional(2)
    normal = functional.layer_norm(x, _behind(call), eps=call.get("epsilon", 1e-5)) * call.given(1)
    return normal if bias is None else normal + bias


def _rms_norm(call: Call) -> Tensor:
    return functional.rms_norm(call.x, _behind(call), eps=call.get("epsilon", 1e-5)) * call.given(1)


def _behind(call: Call) -> list[int]:
    """The lengths of the axes from `axis` on."""
    return list(call.x.shape[call.get("axis", -1) % call.x.dim() :])


def _batch_norm(call: Call) -> Tensor:
    if call.get("training_mode", 0):
        raise NotImplementedError("training mode")
    x, scale, bias, mean, variance = call.tensors
    return functional.batch_norm(x, mean, variance, scale, bias, training=False, eps=call.get("epsilon", 1e-5))


def _group_norm(call: Call) -> Tensor:
    x, scale, bias = call.tensors
    normal = functional.group_norm(x, call.attributes["num_groups"], eps=call.get("epsilon", 1e-5))
    # One number a group before opset 21.
    scale, bias = (
        each.repeat_interleave(x.shape[1] // len(each)).reshape(-1, *(1,) * (x.dim() - 2)) for each in (scale, bias)
    )
    return normal * scale + bias


def _instance_norm(call: Call) -> Tensor:
    return functional.instance_norm(call.x, weight=call.given(1), bias=call.given(2), eps=call.get("epsilon", 1e-5))


def _local_response(call: Call) -> Tensor:
    size = call.attributes["size"]
    x = call.x
    # torch puts the odd channel of an even size in front, ONNX behind.
    squares = functional.pad(x.square(), (0, 0) * (x.dim() - 2) + ((size - 1) // 2, size // 2))
    sums = squares.unfold(1, size, 1).sum(-1)
    divided = torch.pow(call.get("bias", 1.0) + call.get("alpha", 1e-4) / size * sums, call.get("beta", 0.75))
    return x / divided


def _reduced(function: Callable[[Tensor, list[int], bool], Tensor], call: Call) -> Tensor:
    x = call.x
    axes = call.numbers("axes", 1)
    if not axes:
        if call.get("noop_with_empty_axes", 0):
            # Only what is done to single entries is done, which all but the plain ones do something.
            return function(x[..., None], [-1], False)
        axes = list(range(x.dim()))
    return function(x, axes, bool(call.get("keepdims", 1))) if x.dim() else function(x[None], [0], False)


def _product_over(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _over_places(function: Callable[..., Tensor], call: Call) -> Tensor:
    x = call.x
    return function(x, dim=tuple(range(2, x.dim())), keepdim=True)


OPERATORS: dict[str, Callable[[Call], Outputs]] = {
    # Of single entries.
    **{name: _each(lambda x: x) for name in ("Identity", "Cast", "CastLike")},
    "Abs": _each(torch.abs),
    "Neg": _each(torch.neg),
    "Exp": _each(torch.exp),
    "Log": _each(torch.log),
    "Sqrt": _each(torch.sqrt),
    "Reciprocal": _each(torch.reciprocal),
    "Erf": _each(torch.erf),
    "Sin": _each(torch.sin),
    "Cos": _each(torch.cos),
    "Tanh": _each(torch.tanh),
    "Sigmoid": _each(torch.sigmoid),
    "Relu": _each(torch.relu),
    "Softplus": _each(lambda x: torch.logaddexp(x, torch.zeros_like(x))),
    "Softsign": _each(functional.softsign),
    "Mish": _each(functional.mish),
    "HardSwish": _each(functional.hardswish),
    "Gelu": _gelu,
    "LeakyRelu": lambda call: functional.leaky_relu(call.x, call.get("alpha", 0.01)),
    "Elu": lambda call: functional.elu(call.x, call.get("alpha", 1.0)),
    "Celu": lambda call: functional.celu(call.x, call.get("alpha", 1.0)),
    "Selu": lambda call: (
        call.get("gamma", 1.0507009873554805) * functional.elu(call.x, call.get("alpha", 1.6732632423543772))
    ),
    "Swish": lambda call: call.x * torch.sigmoid(call.get("alpha", 1.0) * call.x),
    "HardSigmoid": lambda call: (call.get("alpha", 0.2) * call.x + call.get("beta", 0.5)).clamp(0, 1),
    "ThresholdedRelu": lambda call: functional.threshold(call.x, call.get("alpha", 1.0), 0.0),
    "PRelu": lambda call: torch.where(call.x < 0, call.given(1) * call.x, call.x),
    "Clip": _clip,
    "Dropout": _dropout,
    # Of several.
    "Add": _both(torch.add),
    "Sub": _both(torch.sub),
    "Mul": _both(torch.mul),
    "Div": _both(torch.div),
    "Min": _both(torch.minimum),
    "Max": _both(torch.maximum),
    "Sum": _both(torch.add),
    "Mean": lambda call: reduce(torch.add, call.tensors) / len(call.tensors),
    "Pow": _pow,
    "Where": lambda call: torch.where(*call.tensors),
    # Products.
    "MatMul": lambda call: torch.matmul(*call.tensors),
    "Gemm": _gemm,
    "Einsum": lambda call: torch.einsum(call.attributes["equation"].decode(), *call.tensors),
    "Conv": convolve,
    "ConvTranspose": convolve_transposed,
    # Norms and sums.
    "Softmax": partial(_softmax, torch.softmax),
    "LogSoftmax": partial(_softmax, torch.log_softmax),
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "BatchNormalization": _batch_norm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": _local_response,
    "ReduceMean": partial(_reduced, torch.mean),
    "ReduceSum": partial(_reduced, torch.sum),
    "ReduceMax": partial(_reduced, torch.amax),
    "ReduceMin": partial(_reduced, torch.amin),
    "ReduceProd": partial(_reduced, _product_over),
    "ReduceL1": partial(_reduced, lambda x, axes, keep: x.abs().sum(axes, keep)),
    "ReduceL2": partial(_reduced, lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep)),
    "ReduceSumSquare": partial(_reduced, lambda x, axes, keep: x.square().sum(axes, keep)),
    "ReduceLogSum": partial(_reduced, lambda x, axes, keep: x.sum(axes, keep).log()),
    "ReduceLogSumExp": partial(_reduced, torch.logsumexp),
    # Windows.
    "AveragePool": pool_average,
    "MaxPool": pool_largest,
    "Resize": resize,
    "GlobalAveragePool": partial(_over_places, torch.mean),
    "GlobalMaxPool": partial(_over_places, torch.amax),
    # Places.
    "Flatten": rearranging.flatten,
    "Reshape": rearranging.reshape,
    "Transpose": rearranging.transpose,
    "Squeeze": rearranging.squeeze,
    "Unsqueeze": rearranging.unsqueeze,
    "Concat": lambda call: torch.cat(call.tensors, call.attributes["axis"]),
    "Split": rearranging.split,
    "Slice": rearranging.cut_out,
    "Gather": rearranging.gather,
    "GatherElements": rearranging.gather_elements,
    "Expand": rearranging.expand,
    "Tile": rearranging.tile,
    "Pad": rearranging.pad,
    "Trilu": rearranging.triangle,
    "DepthToSpace": rearranging.depth_to_space,
    "SpaceToDepth": rearranging.space_to_depth,
}
"""What each operator gives of floating-point inputs, by its name in ONNX's own domain."""
