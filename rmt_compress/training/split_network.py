"""A live network some of whose layers stand as two, and how to look at it under its original names and shapes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from rmt_compress.checkpoints.memory import ModuleCheckpoint
from rmt_compress.checkpoints.provenance import make_manifest
from rmt_compress.checkpoints.views import DenseView
from rmt_compress.compression.live_modules import replace_modules
from rmt_compress.layers.kinds import KINDS
from rmt_compress.layers.library_modules import is_library_model, with_attributes
from rmt_compress.layers.low_rank import module_kind, split_module, split_module_empty
from rmt_compress.layers.splitting import Factors, beside, factor_names, factor_tensors, module_path
from rmt_compress.networks.file_names import SAME_NAMES, FileNames
from rmt_compress.plan import LayerDecision, Plan

if TYPE_CHECKING:
    from rmt_compress.layers.layer import Layer


@dataclass(frozen=True)
class Pair:
    """A layer that stands as two.

    Attributes:
        layer: what it was, under the names of the network as it was before this split.
        template: the module that stood there, without its weight; the bias is the very parameter of the second.
        rank: inputs of the second of the two.
    """

    layer: Layer
    template: nn.Module
    rank: int

    @property
    def path(self) -> str:
        """Where the two stand in the network; empty where they are all of it."""
        return module_path(self.layer.tensor)


class OriginalView(DenseView):
    """A network under its original names and shapes; layers are of their modules' kinds, called as in the file."""

    def __init__(self, inner: ModuleCheckpoint, pairs: Iterable[Pair], names: FileNames = SAME_NAMES) -> None:
        super().__init__(inner)
        by_down = {factor_names(pair.layer.tensor).down: pair.layer for pair in pairs}
        ups = {factor_names(layer.tensor).up for layer in by_down.values()}
        biases = {factor_names(layer.tensor).bias: layer.bias for layer in by_down.values() if layer.bias}
        layers = (
            replace(layer, name=biases[layer.tensor], tensor=biases[layer.tensor])
            if layer.tensor in biases
            else by_down.get(layer.tensor, layer)
            for layer in inner.layers()
            if layer.tensor not in ups
        )
        self._layers = tuple(map(names.named, layers))

    def layers(self) -> tuple[Layer, ...]:
        """Whole layers as their modules say, the others as they were when they were split."""
        return self._layers


class Network:
    """A model and the layers of it that have been split; every change keeps the two in step.

    Attributes:
        model: the module as it stands; another object where the model itself is the layer that is split.
        pairs: the layers that stand as two, by the name of the weight they stand for, outer ones first.
        names: what the file that it came from calls its layers.
    """

    def __init__(self, model: nn.Module, names: FileNames = SAME_NAMES) -> None:
        self.model = model
        self.names = names
        self.pairs: dict[str, Pair] = {}

    def split_again(self, tensor: str, factors: Factors) -> None:
        """Put two modules with these weights in the place of the two that stand for `tensor`, or of all inside."""
        pair = self.pairs[tensor]
        stands = self.model.get_submodule(pair.path)
        new = self._answering(split_module(pair.template, *factors, name=pair.layer.name), pair.template)
        self.model = replace_modules(self.model, {stands: new.train(stands.training)})
        self.pairs[tensor] = replace(pair, rank=factors.down.shape[0])

    def split_empty(self, tensor: str, rank: int) -> None:
        """Make room for two layers whose weights are still to come, as a saved training state describes them."""
        layer = next(each for each in ModuleCheckpoint(self.model).layers() if each.tensor == tensor)
        module = self.model.get_submodule(module_path(tensor))
        new = split_module_empty(module, rank, name=layer.name).to_empty(device="cpu")
        # The bias stays the very parameter: a later cut takes it from the template.
        new.get_submodule("up").register_parameter("bias", module._parameters["bias"])
        self.model = replace_modules(self.model, {module: self._answering(new, module)})
        self.remember(layer, module, rank)

    def remember(self, layer: Layer, template: nn.Module, rank: int) -> None:
        """Take note that two modules stand where `template` stood; the memory of its weight is given back."""
        weight = template.get_parameter("weight")
        template.weight = nn.Parameter(weight.detach().to("meta"), requires_grad=weight.requires_grad)
        self.pairs[layer.tensor] = Pair(layer, template, rank)

    def _answering(self, pair: nn.Sequential, whole: nn.Module) -> nn.Sequential:
        # Networks of transformers read more of their layers than outputs: T5 the type of a weight.
        return with_attributes(pair, whole) if is_library_model(self.model) else pair

    def factors(self, tensor: str) -> Factors:
        """The weights of the two modules that stand for `tensor`, detached."""
        down, up, _ = factor_names(tensor)
        return Factors(self.model.get_parameter(down).detach(), self.model.get_parameter(up).detach())

    def view(self) -> OriginalView:
        """The network under its original names and shapes; splits inside splits must have been joined."""
        inner = ModuleCheckpoint(self.model)
        splits = Plan(layers=tuple(self._decision(pair.layer) for pair in self.pairs.values()))
        inner.manifest = make_manifest(None, splits, inner.tensors, ties=inner.ties)
        return OriginalView(inner, self.pairs.values(), self.names)

    def plan(self) -> Plan:
        """A plan that would split the original network as it is split now."""
        return Plan(layers=tuple(self._decision(layer) for layer in self.view().layers()))

    def _decision(self, layer: Layer) -> LayerDecision:
        split = layer.tensor in self.pairs
        return LayerDecision(
            name=layer.name,
            tensor=layer.tensor,
            kind=layer.kind,
            shape=layer.shape,
            action="factorized" if split else "kept",
            rank=self.pairs[layer.tensor].rank if split else None,
            reason="split while training" if split else "in one piece after training",
        )

    def join_nested(self) -> None:
        """Turn every chain of splits inside splits into two layers again: the same function, fewer weights.

        A chain up·…·down of matrices has the rank of its narrowest place; two factors of that rank hold less than
        any longer chain.
        """
        outer = [tensor for tensor in self.pairs if not any(_inside(tensor, other) for other in self.pairs)]
        for tensor in outer:
            inner = [other for other in self.pairs if _inside(other, tensor)]
            if not inner:
                continue
            pair = self.pairs[tensor]
            chain = self._chain(tensor)
            narrowest = min(range(1, len(chain)), key=lambda place: chain[place].shape[1])
            down, up = _product(chain[:narrowest]), _product(chain[narrowest:])
            for other in inner:
                del self.pairs[other]
            # A transposed convolution's matrix is that of its inputs: the chain transposed.
            matrices = (up.T, down.T) if KINDS[pair.layer.kind].swaps else (down, up)
            self.split_again(tensor, factor_tensors(pair.layer, *matrices))

    def _chain(self, tensor: str) -> list[torch.Tensor]:
        """The matrices (outputs, inputs) that are applied one after the other in the place of `tensor`'s layer."""
        matrices: list[torch.Tensor] = []
        names = factor_names(tensor)
        for part in (names.down, names.up):
            if part in self.pairs:
                matrices += self._chain(part)
                continue
            module = self.model.get_submodule(module_path(part))
            weight = module.get_parameter("weight").detach()
            matrix = weight.reshape(weight.shape[0], -1)
            matrices.append(matrix.T if KINDS[module_kind(module) or "unknown"].swaps else matrix)
        return matrices


def _inside(inner: str, outer: str) -> bool:
    return inner != outer and inner.startswith((beside(outer, "down."), beside(outer, "up.")))


def _product(chain: Sequence[torch.Tensor]) -> torch.Tensor:
    result = chain[0].double()
    for matrix in chain[1:]:
        result = matrix.double() @ result
    return result.to(chain[0].dtype)
