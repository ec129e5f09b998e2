"""Lipschitz constants of what stands between layers: activations, pools, means.

A constant (ℓ₂, ℓ_∞) bounds the change of one sample's output by that of its input, both measured in that norm. All
of it is for evaluation mode: dropout does nothing, a batch norm has fixed statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import nn


class Gain(NamedTuple):
    """A Lipschitz constant in both norms.

    Attributes:
        two: in the Euclidean norm.
        largest: in the largest entry.
    """

    two: float
    largest: float

    def after(self, other: Gain) -> Gain:
        """That of this one behind another."""
        return Gain(self.two * other.two, self.largest * other.largest)

    def plus(self, other: Gain) -> Gain:
        """That of two ways side by side."""
        return Gain(self.two + other.two, self.largest + other.largest)


ONE = Gain(1.0, 1.0)
NONE = Gain(0.0, 0.0)

# Slopes of GELU, SiLU and Mish, rounded up: 1.12890, 1.09984, 1.08850.
_SLOPES = {
    "ReLU": 1.0,
    "ReLU6": 1.0,
    "Hardtanh": 1.0,
    "Tanh": 1.0,
    "Softsign": 1.0,
    "LogSigmoid": 1.0,
    "Tanhshrink": 1.0,
    "Softshrink": 1.0,
    "Sigmoid": 0.25,
    "Hardsigmoid": 1 / 6,
    "Hardswish": 1.5,
    "GELU": 1.1290,
    "SiLU": 1.0999,
    "Mish": 1.0886,
}
_IDENTITIES = ("Identity", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout")
_RESHAPES = ("Flatten", "Unflatten")
_MAX_POOLS = ("MaxPool1d", "MaxPool2d", "MaxPool3d")
_AVERAGES = ("AvgPool1d", "AvgPool2d", "AvgPool3d")
_ADAPTIVE = ("AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d")

FUNCTIONS = {
    "relu": 1.0,
    "relu_": 1.0,
    "relu6": 1.0,
    "tanh": 1.0,
    "abs": 1.0,
    "absolute": 1.0,
    "neg": 1.0,
    "sin": 1.0,
    "cos": 1.0,
    "clamp": 1.0,
    "softsign": 1.0,
    "sigmoid": 0.25,
    "gelu": 1.1290,
    "silu": 1.0999,
    "mish": 1.0886,
    "hardswish": 1.5,
    "identity": 1.0,
}
"""Slopes of functions and methods by their names."""


def constant_of(module: nn.Module, shape: Sequence[int]) -> Gain | None:
    """That of a stock module without a matrix; None where it is not known.

    Args:
        module: of torch.
        shape: of its input, samples first.
    """
    name = type(module).__name__
    if not type(module).__module__.startswith("torch.nn."):
        return None
    if name in _IDENTITIES or name in _RESHAPES:
        return ONE
    if name in _SLOPES:
        return Gain(_SLOPES[name], _SLOPES[name])
    any_module: Any = module
    special: dict[str, Callable[[], float | None]] = {
        "LeakyReLU": lambda: max(1.0, abs(any_module.negative_slope)),
        "PReLU": lambda: max(1.0, float(any_module.weight.detach().abs().max())),
        "ELU": lambda: max(1.0, abs(any_module.alpha)),
        "CELU": lambda: 1.0 if any_module.alpha > 0 else None,
        # From its threshold on it is the identity, a jump that only the usual threshold hides below rounding.
        "Softplus": lambda: 1.0 if any_module.beta > 0 and any_module.threshold >= 20 else None,
    }
    if name in special:
        slope = special[name]()
        return None if slope is None else Gain(slope, slope)
    if name in _MAX_POOLS:
        return Gain(math.sqrt(_overlap(any_module)), 1.0)
    if name in _AVERAGES:
        return _average(any_module)
    if name in _ADAPTIVE:
        return _adaptive(any_module, shape)
    return None


def mean_gain(shape: Sequence[int], axes: Sequence[int]) -> Gain:
    """That of a mean over some axes of (N, …): 1/√entries, by Cauchy and Schwarz."""
    return Gain(1 / math.sqrt(math.prod(shape[axis] for axis in axes)), 1.0)


def _each(value: Any, count: int) -> tuple[int, ...]:
    return (value,) * count if isinstance(value, int) else tuple(value)


def _overlap(pool: Any) -> int:
    """In how many windows an entry may lie."""
    count = int(type(pool).__name__[-2])
    dilation = _each(getattr(pool, "dilation", 1), count)
    sizes = zip(_each(pool.kernel_size, count), _each(pool.stride, count), dilation, strict=True)
    return math.prod(-(-size // step) if apart == 1 else size for size, step, apart in sizes)


def _average(pool: Any) -> Gain | None:
    if getattr(pool, "divisor_override", None) is not None:
        return None
    count = int(type(pool).__name__[-2])
    entries = math.prod(_each(pool.kernel_size, count))
    # At a border an average may be of fewer entries, of a single one at least.
    fewer = pool.ceil_mode or (any(_each(pool.padding, count)) and not pool.count_include_pad)
    # Schur: ‖A‖₂ ≤ √(largest row sum · largest column sum).
    return Gain(math.sqrt(_overlap(pool) / (1 if fewer else entries)), 1.0)


def _adaptive(pool: Any, shape: Sequence[int]) -> Gain | None:
    count = int(type(pool).__name__[-2])
    sizes = shape[-count:]
    outputs = [want or have for want, have in zip(_each(pool.output_size, count), sizes, strict=True)]
    if any(have % want for want, have in zip(outputs, sizes, strict=True)):
        return None
    return Gain(math.sqrt(math.prod(outputs) / math.prod(sizes)), 1.0)
