"""Lipschitz constants of what networks call as functions and methods: sums, means, reshapes, activations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rmt_compress.certificates.lipschitz import FUNCTIONS, ONE, Gain, constant_of, mean_gain

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

_RESHAPES = ("flatten", "reshape", "view", "squeeze", "unsqueeze", "permute", "transpose", "movedim", "contiguous")
_SUMS = ("add", "add_", "iadd", "sub", "sub_", "isub")
_FACTORS = ("mul", "imul", "truediv", "div", "itruediv")
_JOINS = ("cat", "concat", "concatenate")
_DROPOUTS = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
_POOLS = {
    f"{name}_pool{axes}d": f"{stock}Pool{axes}d"
    for name, stock in (("max", "Max"), ("avg", "Avg"), ("adaptive_avg", "AdaptiveAvg"))
    for axes in (1, 2, 3)
}


def function_gain(node: fx.Node, name: str, value: torch.Tensor, source: torch.Tensor) -> Gain | None:
    """The constant of a function or method, for each time that a tensor is among its arguments.

    Args:
        node: where it is called.
        name: of the function.
        value: what it makes of three samples.
        source: its first tensor.

    Returns:
        None where none is known.
    """
    from torch import fx, nn

    given = listed_arguments(node)
    others = sum(isinstance(each, fx.Node) for each in given) > 1
    if name in _SUMS:
        return ONE if node.kwargs.get("alpha", 1) == 1 and len(node.args) == 2 else None
    if name in _JOINS:
        return ONE if argument(node, 1, "dim", 0) % value.dim() else None
    if name in _RESHAPES:
        return ONE if _keeps_samples(node, name, source) else None
    if others:
        return None
    if name in _FACTORS:
        numbers = [each for each in node.args if isinstance(each, int | float)]
        if len(numbers) != 1 or node.kwargs or ("div" in name and (numbers[0] == 0 or numbers[0] is node.args[0])):
            return None
        size = abs(1 / numbers[0] if "div" in name else numbers[0])
        return Gain(size, size)
    if name in FUNCTIONS:
        return Gain(FUNCTIONS[name], FUNCTIONS[name])
    if name == "leaky_relu":
        slope = max(1.0, abs(argument(node, 1, "negative_slope", 0.01)))
        return Gain(slope, slope)
    if name in _DROPOUTS:
        return ONE if argument(node, 2, "training", True) is False else None
    if name == "getitem":
        place: Any = node.args[1]
        whole = isinstance(place, tuple) and place and place[0] == slice(None)
        return ONE if whole and all(each is None or isinstance(each, int | slice) for each in place) else None
    if name == "mean":
        axes = argument(node, 1, "dim", None)
        if axes is None:
            return None
        axes = [axis % source.dim() for axis in ([axes] if isinstance(axes, int) else axes)]
        return mean_gain(source.shape, axes) if axes and 0 not in axes else None
    if name in _POOLS and len(node.args) <= 5:
        stock: nn.Module = getattr(nn, _POOLS[name])(*node.args[1:], **node.kwargs)
        return constant_of(stock, source.shape)
    return None


def _keeps_samples(node: fx.Node, name: str, source: torch.Tensor) -> bool:
    """Whether the first axis stays where it is."""
    if name == "flatten":
        return bool(argument(node, 1, "start_dim", 0))
    if name == "permute":
        return bool(_listed(node.args[1:])[0] == 0)
    if name in ("transpose", "movedim"):
        return all(isinstance(axis, int) and axis % source.dim() for axis in _listed(node.args[1:]))
    return True


def argument(node: Any, place: int, name: str, default: Any) -> Any:
    """An argument of a function or method, given by its place or by its name."""
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def listed_arguments(node: fx.Node) -> list[Any]:
    """All that is given to a step, what stands in lists among it."""
    return _listed([*node.args, *node.kwargs.values()])


def _listed(arguments: Any) -> list[Any]:
    """All that stands in nested arguments."""
    if isinstance(arguments, tuple | list):
        return [each for part in arguments for each in _listed(part)]
    return [arguments]
