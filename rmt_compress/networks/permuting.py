"""Input channels in an order in which a K:N pattern keeps more, the network computing what it did.

Groups of N neighbours lie along the inputs of a layer. Where those are the outputs of one layer before, and of
nothing else, with only what treats every channel alike between the two, the channels can be put in another order:
the columns of the one, and the rows, biases and batch norms of what makes them. What follows what is read off the
network as torch.fx traces it. Left as they are: layers whose inputs go elsewhere too or come from a sum, a product
or a reshaping, convolutions with a kernel (whose groups lie along kernel positions as well), and tied or
parametrized weights.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from rmt_compress.decomposition.group_order import better_order
from rmt_compress.errors import CompressionError
from rmt_compress.layers.group_patterns import pattern_called
from rmt_compress.layers.tracing import traced

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

_ALIKE = frozenset(
    ("CELU", "Dropout", "ELU", "GELU", "Hardsigmoid", "Hardswish", "Hardtanh", "Identity", "LeakyReLU", "Mish")
) | {"ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softsign", "Tanh"}
_ALIKE_FUNCTIONS = frozenset(
    ("celu", "dropout", "elu", "gelu", "hardswish", "hardtanh", "leaky_relu", "mish", "relu", "relu_", "relu6")
) | {"selu", "sigmoid", "silu", "softplus", "tanh"}


class _Link(NamedTuple):
    """Paths of a layer, of the norms behind it, and of the layer that alone takes what comes out."""

    before: str
    norms: tuple[str, ...]
    after: str


def permute_for_pattern(model: nn.Module, pattern: str) -> nn.Module:
    """A copy of `model` in evaluation mode, its channels in an order in which the pattern keeps more.

    It computes the same up to the order in which products are summed. Moments are of the order of their network:
    `calibrate` the result, not the original.

    Args:
        model: the network.
        pattern: ``K:N``.

    Raises:
        CompressionError: torch.fx cannot trace the network, or no layer's channels can be put in another order.
        ValueError: no such pattern.
    """
    import torch

    asked = pattern_called(pattern)
    permuted = copy.deepcopy(model).eval()
    done = 0
    with torch.no_grad():
        for link in _links(permuted):
            weight = permuted.get_parameter(f"{link.after}.weight")
            if weight.shape[1] % asked.of == 0:
                _permute(permuted, link, better_order(weight.flatten(1), asked).to(weight.device))
                done += 1
    if not done:
        raise CompressionError(
            f"{type(model).__name__}: in no layer are the inputs, in groups of {asked.of}, the outputs of one "
            "layer alone; prune it with the channels as they are"
        )
    return permuted


def _permute(model: nn.Module, link: _Link, order: torch.Tensor) -> None:
    after, before = model.get_submodule(link.after), model.get_submodule(link.before)
    weight = after.get_parameter("weight")
    weight.copy_(weight[:, order])
    tensors: list[torch.Tensor] = list(before.parameters(recurse=False))
    for norm in link.norms:
        module = model.get_submodule(norm)
        tensors += module.parameters(recurse=False)
        tensors += (each for each in module.buffers(recurse=False) if each.dim())
    for tensor in tensors:
        tensor.copy_(tensor[order])


def _links(model: nn.Module) -> list[_Link]:
    from torch import nn

    why, instead = " to see which layer makes the inputs of which", "; prune it with the channels as they are"
    graph = traced(model, CompressionError, why, instead).graph
    modules = dict(model.named_modules())
    calls = [modules[str(node.target)] for node in graph.nodes if node.op == "call_module"]
    uses = Counter(map(id, calls))
    tied = Counter(id(each) for _, each in model.named_parameters(remove_duplicate=False))
    read = {node.target for node in graph.nodes if node.op == "get_attr"}

    def own(node: fx.Node) -> bool:
        """Whether the module is used here alone, and all of it is plain tensors of its own."""
        module = modules[str(node.target)]
        parameters = list(module.parameters())
        return (
            uses[id(module)] == 1
            and len(parameters) == sum(each is not None for each in module._parameters.values())
            and all(tied[id(each)] == 1 for each in parameters)
            and not any(str(name).startswith(f"{node.target}.") for name in read)
        )

    links = []
    for node in graph.nodes:
        if node.op != "call_module" or not own(node):
            continue
        layer = modules[str(node.target)]
        if not (type(layer) is nn.Linear or (_is_convolution(layer) and set(layer.kernel_size) == {1})):
            continue
        convolution = type(layer) is not nn.Linear
        found = _behind(node, modules, convolution=convolution)
        if found is None or not all(own(each) for each in found):
            continue
        before = modules[str(found[0].target)]
        if _is_convolution(before) if convolution else type(before) is nn.Linear:
            norms = tuple(str(each.target) for each in found[1:])
            links.append(_Link(str(found[0].target), norms, str(node.target)))
    return links


def _behind(node: fx.Node, modules: dict[str, nn.Module], *, convolution: bool) -> list[fx.Node] | None:
    """The layer whose outputs a node takes, and the norms between the two; None where it is none alone."""
    from torch import fx

    norms: list[fx.Node] = []
    while True:
        given = [each for each in (*node.args, *node.kwargs.values()) if isinstance(each, fx.Node)]
        if len(given) != 1 or len(given[0].users) != 1:
            return None
        node = given[0]
        called = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
        if node.op == "call_module":
            name = type(modules[str(node.target)]).__name__
            if convolution and name.startswith("BatchNorm"):
                norms.insert(0, node)
            elif not (name in _ALIKE or (convolution and "Pool" in name) or (convolution and "Dropout" in name)):
                return [node, *norms]
        elif node.op not in ("call_function", "call_method") or called not in _ALIKE_FUNCTIONS:
            return None


def _is_convolution(module: nn.Module) -> bool:
    from torch import nn

    return isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and module.groups == 1
