"""State dicts and live modules as checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints.base import Checkpoint
from rmt_compress.checkpoints.beside import Home
from rmt_compress.checkpoints.state_dicts import describe, find_state_dict, find_ties, refuse_wrappers
from rmt_compress.errors import CheckpointError
from rmt_compress.layers.inference import infer_layers
from rmt_compress.layers.layer import Layer, TensorInfo
from rmt_compress.layers.low_rank import module_kind
from rmt_compress.layers.splitting import beside, is_weight
from rmt_compress.wording import printable

if TYPE_CHECKING:
    import torch

# As modules call the number of their experts.
_EXPERTS = ("num_experts", "num_local_experts", "n_experts", "n_routed_experts")
_PARAMETRIZED = "parametrized; to cut it, torch.nn.utils.parametrize.remove_parametrizations first"


class StateDictCheckpoint(Checkpoint):
    """A state dict in memory, or a training checkpoint that holds one; names stay as they are."""

    path = None
    format = "state dict"

    def __init__(self, state: Mapping[str, object], weights: str | None = None) -> None:
        found = find_state_dict(state, "this state dict", weights)
        self.beside = found.beside
        self.home = Home(versions=found.home.versions, extra=found.home.extra)
        self.notes = tuple(map(printable, found.notes))
        self.metadata = {}
        self._state = found.tensors
        self._tensors = {name: describe(name, tensor) for name, tensor in self._state.items()}
        self._ties = find_ties(self._state)

    def read(self, name: str) -> torch.Tensor:
        """The tensor called `name`, detached; it shares the state dict's memory."""
        self._info(name)
        return _with_values(self._state[name].detach(), name)

    def place(self, name: str) -> str:
        """Where the state dict has it."""
        return str(self._state[name].device)


class ModuleCheckpoint(Checkpoint):
    """A live `nn.Module`: names as in its state dict, kinds of layers as its submodules say.

    A parametrized weight (`torch.nn.utils.parametrize`) is listed as ``<module>.weight`` with its effective value,
    not as the tensors it is computed from. A parameter that has no shape yet (lazy modules) is refused.
    """

    path = None
    format = "module"

    def __init__(self, module: torch.nn.Module) -> None:
        self.notes = ()
        self.metadata = {}
        own_state = _own_state(module)
        self.home = Home(extra={name: state for name, state in own_state.items() if not _is_tensor(state)})
        self._extra: dict[str, torch.Tensor] = {
            name: state.detach() for name, state in own_state.items() if _is_tensor(state)
        }
        self._owners = dict(_tensor_owners(module))
        # One look per submodule and attribute: a shared parametrized weight is else another tensor at every look.
        looks: dict[tuple[torch.nn.Module, str], torch.Tensor] = {}
        for place in self._owners.values():
            if place not in looks:
                looks[place] = module_tensor(*place)
        values = {name: looks[place] for name, place in self._owners.items()} | self._extra
        refuse_wrappers(values, "this module")
        self._places = {name: str(value.device) for name, value in values.items()}
        self._tensors = {name: self._describe(name, value) for name, value in values.items()}
        self._ties = find_ties(values)

    def read(self, name: str) -> torch.Tensor:
        """The tensor called `name`, detached; a plain parameter shares the module's memory."""
        self._info(name)
        if name in self._extra:
            return self._extra[name]
        return _with_values(module_tensor(*self._owners[name]), name)

    def place(self, name: str) -> str:
        """Where the module had it when it was opened."""
        return self._places[name]

    def layers(self) -> tuple[Layer, ...]:
        """The layers formed by the tensors; kinds, groups and biases are those of the submodules.

        The two factors of a layer that was split are two layers here, which training may split again.
        """
        layers = infer_layers(self.tensors, self.ties, pairs=False, config=self.config)
        return tuple(self._as_its_module_says(layer) for layer in layers)

    def _describe(self, name: str, value: torch.Tensor) -> TensorInfo:
        info = describe(name, value)
        if name in self._extra:
            return info
        owner, attribute = self._owners[name]
        if info.why_skipped is None and len(info.shape) > 1 and attribute in owner._buffers:
            return replace(info, why_skipped="a buffer, not a learned weight")
        return info

    def _as_its_module_says(self, layer: Layer) -> Layer:
        from torch.nn.utils import parametrize

        if layer.kind == "vector" or layer.stored in self._extra:
            return layer
        owner, attribute = self._owners[layer.stored]
        if parametrize.is_parametrized(owner, attribute):
            layer = replace(layer, why_fixed=_PARAMETRIZED)
        if layer.part is not None:
            return layer
        kinds = {name: module_kind(*self._owners[name]) for name in (layer.tensor, *layer.aliases)}
        if layer.composition is not None:
            kinds = {layer.tensor: module_kind(owner, layer.composition.weight.rpartition(".")[2])}
        # A table tied to an output head is a Linear as well, and its matrix acts as one.
        name = next((name for name, kind in kinds.items() if kind not in (None, "embedding")), layer.tensor)
        kind = kinds[name]
        if kind is None:
            return self._as_its_attributes_say(layer)
        owner, _ = self._owners[name]
        bias = beside(name, "bias") if is_weight(name) else layer.bias
        groups = getattr(owner, "groups", 1)
        return replace(
            layer,
            kind=kind,
            by_class=True,
            why_unknown=f"of class {type(owner).__name__}, no product or convolution"
            if kind == "unknown"
            else None,
            shared=all(self._owners[alias] == self._owners[layer.tensor] for alias in layer.aliases),
            groups=groups if isinstance(groups, int) else 1,
            bias=bias if bias in self._tensors else None,
        )

    def _as_its_attributes_say(self, layer: Layer) -> Layer:
        """Of a class that is none of torch's: a stack where the module counts its experts itself."""
        owner, _ = self._owners[layer.stored]
        counted = any(getattr(owner, count, None) == layer.shape[0] for count in _EXPERTS)
        if layer.kind == "unknown" and layer.why_skipped is None and len(layer.shape) == 3 and counted:
            layer = replace(layer, kind="stack", why_unknown=None)
        if len(layer.shape) == 3 and layer.kind in ("stack", "unknown"):
            why = f"its class {type(owner).__name__} reads the whole tensor and cannot run factors"
            layer = replace(layer, why_in_place=why)
        return layer


def _own_state(module: torch.nn.Module) -> dict[str, Any]:
    """What the submodules that have more state than tensors say of it, by its name in a state dict."""
    from torch import nn

    return {
        f"{path}._extra_state".removeprefix("."): owner.get_extra_state()
        for path, owner in module.named_modules(remove_duplicate=False)
        if type(owner).get_extra_state is not nn.Module.get_extra_state
    }


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _tensor_owners(module: torch.nn.Module) -> Iterator[tuple[str, tuple[torch.nn.Module, str]]]:
    """Every tensor of the state dict by its name -> (the submodule it belongs to, its attribute there)."""
    from torch.nn.utils import parametrize

    hidden: list[str] = []
    for path, owner in module.named_modules(remove_duplicate=False):
        if any(path == folder or path.startswith(f"{folder}.") for folder in hidden):
            continue
        prefix = f"{path}." if path else ""
        attributes = [*owner._parameters, *owner._buffers]
        if parametrize.is_parametrized(owner):
            hidden.append(f"{prefix}parametrizations")
            attributes = [*_parametrized(owner), *attributes]
        for attribute in attributes:
            if attribute in owner._non_persistent_buffers_set:
                continue
            if owner._parameters.get(attribute, owner._buffers.get(attribute, owner)) is not None:
                yield prefix + attribute, (owner, attribute)


def _parametrized(owner: torch.nn.Module) -> list[str]:
    return [name for name, _ in owner.get_submodule("parametrizations").named_children()]


def module_tensor(owner: torch.nn.Module, attribute: str) -> torch.Tensor:
    """The tensor at `attribute`, detached; of a parametrized one the effective value."""
    import torch
    from torch.nn.parameter import is_lazy
    from torch.nn.utils import parametrize

    if parametrize.is_parametrized(owner, attribute):
        parametrizations = owner.get_submodule(f"parametrizations.{attribute}")
        with torch.no_grad(), _in_evaluation(parametrizations):
            value: torch.Tensor = getattr(owner, attribute)
    else:
        value = getattr(owner, attribute)
    if is_lazy(value):
        raise CheckpointError(
            f"this module: {attribute} of a {type(owner).__name__} has no shape yet (lazy); run one batch "
            "through the model first"
        )
    return value.detach()


@contextmanager
def _in_evaluation(module: torch.nn.Module) -> Iterator[None]:
    """`module` in evaluation mode: spectral normalisation would else change its buffers on every look."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def _with_values(tensor: torch.Tensor, name: str) -> torch.Tensor:
    if tensor.is_meta:
        raise CheckpointError(f"{name} has no values (meta device); load the weights into the model first")
    return tensor
