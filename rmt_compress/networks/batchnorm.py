"""Folding the batch norm after a convolution into its weight.

In evaluation a batch norm multiplies channel i by γᵢ/√(σᵢ² + ε) and shifts it. What the two do together is the
scaled weight: a channel that the norm blows up counts for more, and truncation weighs its errors as the network
does. The scale goes into the weight; the norm stays where it is with scale 1 and the shift that is left, so that
names and shapes do not change and the result loads wherever the original did. In evaluation the network computes
the same.

Which norm follows which convolution is read off the network as torch.fx traces it.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import TYPE_CHECKING

from rmt_compress.checkpoints.base import View
from rmt_compress.errors import CompressionError
from rmt_compress.layers.tracing import traced

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.layers.layer import Layer


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """A copy of `model` in evaluation mode whose batch norms have scale 1, the convolutions the scale they had.

    Raises:
        CompressionError: torch.fx cannot trace the network, or nothing in it can be folded.
    """
    import torch

    folded = copy.deepcopy(model).eval()
    tensors = folded_tensors(folded)
    with torch.no_grad():
        for name, tensor in tensors.items():
            path, _, attribute = name.rpartition(".")
            getattr(folded.get_submodule(path), attribute).copy_(tensor)
    return folded


def folded_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """What folding makes of the tensors it changes, by their names in the state dict."""
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm
    from torch.nn.modules.conv import _ConvNd

    changed: dict[str, torch.Tensor] = {}
    for path, norm_path in _pairs(model):
        layer, norm = model.get_submodule(path), model.get_submodule(norm_path)
        assert isinstance(layer, _ConvNd)
        assert isinstance(norm, _BatchNorm)
        weight = layer.get_parameter("weight").detach()
        mean, variance = (norm.get_buffer(name).double() for name in ("running_mean", "running_var"))
        scale = norm.get_parameter("weight").detach().double() / (variance + norm.eps).sqrt()
        shift = norm.get_parameter("bias").detach().double() - scale * mean
        # Output channels are the second axis of a transposed convolution, the first of everything else.
        axis = int(layer.transposed)
        shape = [-1 if dimension == axis else 1 for dimension in range(weight.dim())]
        new = {
            f"{path}.weight": weight.double() * scale.reshape(shape),
            f"{norm_path}.weight": torch.ones_like(scale),
            f"{norm_path}.bias": shift,
            f"{norm_path}.running_mean": torch.zeros_like(mean),
            # So that σ² + ε is 1.
            f"{norm_path}.running_var": torch.full_like(variance, 1 - norm.eps),
        }
        if layer.bias is not None:
            new[f"{path}.bias"] = layer.bias.detach().double() * scale
        changed |= {name: tensor.to(weight.dtype) for name, tensor in new.items()}
    if not changed:
        raise CompressionError(
            f"{type(model).__name__}: no batch norm follows a convolution of its own; there is nothing to fold"
        )
    return changed


class FoldedCheckpoint(View):
    """A checkpoint with the batch norms folded; names, shapes and types are those of the original.

    `model` is the network with the checkpoint's weights, under the same names.
    """

    def __init__(self, inner: Checkpoint, model: nn.Module) -> None:
        super().__init__(inner)
        self._tensors, self._ties = inner.tensors, inner.ties
        self._folded = folded_tensors(model)
        norms = sum(name.endswith("running_var") for name in self._folded)
        self.notes = (*inner.notes, f"Folded {norms} batch norm{'s' * (norms > 1)} into the convolutions before.")

    def layers(self) -> tuple[Layer, ...]:
        """As in the original."""
        return self.inner.layers()

    def read(self, name: str) -> torch.Tensor:
        """The tensor called `name`, of its original type, after folding."""
        folded, original = self._folded.get(name), self.inner.read(name)
        return original if folded is None else folded.to(original.dtype)


def _pairs(model: nn.Module) -> list[tuple[str, str]]:
    """Paths of convolutions and of the norms that alone take their output, each used once."""
    from torch import fx, nn

    why, instead = " to see which batch norm follows which layer", "; leave its batch norms as they are"
    graph = traced(model, CompressionError, why, instead).graph
    modules = dict(model.named_modules())
    calls = [node for node in graph.nodes if node.op == "call_module"]
    uses = Counter(id(modules[str(node.target)]) for node in calls)
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    layers = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *transposed)
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    pairs = []
    for node in calls:
        norm = modules[str(node.target)]
        before = node.args[0] if node.args else None
        if type(norm) not in norms or not isinstance(before, fx.Node) or before.op != "call_module":
            continue
        layer = modules[str(before.target)]
        # The second axis of a grouped transposed convolution is one group's outputs only.
        if type(layer) not in layers or (isinstance(layer, transposed) and layer.groups != 1):
            continue
        if len(before.users) != 1 or uses[id(norm)] != 1 or uses[id(layer)] != 1:
            continue
        if norm._parameters["weight"] is None or norm._buffers["running_var"] is None:
            continue
        # A parametrized weight cannot be set.
        if layer._parameters.get("weight") is None:
            continue
        pairs.append((str(before.target), str(node.target)))
    return pairs
