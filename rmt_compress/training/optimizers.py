"""Optimizers, and what becomes of their state when layers are cut.

A parameter that a cut leaves alone keeps its state, and so does a bias and a weight that is truncated in its own
shape. Of a layer that is split, the momentum of SGD is carried over by the chain rule: a momentum M of W is a sum
of past gradients G, and W = up·down has ∂up = G·downᵀ and ∂down = upᵀ·G, so M·downᵀ and upᵀ·M are what the two
factors would have gathered had they stood there. Of factors that are cut again, down′ = A·down and up′ = up·B give
M_up·Aᵀ and Bᵀ·M_down. AdamW's second moments are no linear function of the gradient: for the layers that were cut
its state begins anew, the step count with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from rmt_compress.layers.layer import as_matrix
from rmt_compress.layers.splitting import Factors, factor_matrices, factor_names, factor_tensors

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.training.settings import TrainingSettings
    from rmt_compress.training.split_network import Network

_MOMENTUM = "momentum_buffer"


def make_optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """A fresh optimizer of all parameters of `model` that learn, at the learning rate of the first epoch."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    # One pass over weights and momenta where the plain form makes three; for a CPU that is another rounding.
    fused = bool(parameters) and all(parameter.is_cuda for parameter in parameters)
    return torch.optim.SGD(
        parameters,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        fused=True if fused else None,
    )


@contextmanager
def state_kept(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Steps that begin without any state, and leave the one there was as it was."""
    before = dict(optimizer.state)
    optimizer.state.clear()
    try:
        yield
    finally:
        optimizer.state.clear()
        optimizer.state.update(before)


def carry_over(
    old: torch.optim.Optimizer, new: torch.optim.Optimizer, before: Mapping[str, nn.Parameter], network: Network
) -> None:
    """Give a fresh optimizer the state of the one before a cut, as far as it still has a meaning.

    `before` are the parameters before the cut, by name; `network` is as it is now.
    """
    for parameter in network.model.parameters():
        if parameter in old.state:
            new.state[parameter] = old.state[parameter]
    if not isinstance(new, torch.optim.SGD):
        return
    for tensor, pair in network.pairs.items():
        names = factor_names(tensor)
        if names.down in network.pairs or names.up in network.pairs:
            continue  # its parts are pairs themselves
        down, up = (network.model.get_parameter(name) for name in (names.down, names.up))
        if (momentum := _momentum(old, before.get(tensor))) is not None:
            matrices = factor_matrices(pair.layer.kind, network.factors(tensor))
            carried = _of_whole(as_matrix(pair.layer, momentum), *matrices)
        elif names.down in before and before[names.down] is not down:
            was = Factors(before[names.down].detach(), before[names.up].detach())
            momenta = [_momentum(old, before[name]) for name in (names.down, names.up)]
            if momenta[0] is None or momenta[1] is None:
                continue
            kind = pair.layer.kind
            carried = _of_factors(
                *factor_matrices(kind, Factors(momenta[0], momenta[1])),
                *factor_matrices(kind, was),
                *factor_matrices(kind, network.factors(tensor)),
            )
        else:
            continue
        factors = factor_tensors(pair.layer, *carried)
        for parameter, value in ((down, factors.down), (up, factors.up)):
            new.state[parameter][_MOMENTUM] = value.clone()
    if new.defaults["fused"] and any(state.get(_MOMENTUM) is not None for state in new.state.values()):
        _complete(new)


def _complete(optimizer: torch.optim.SGD) -> None:
    """Give what has no momentum one of zero, which is the same: the fused steps take all of them or none."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if optimizer.state[parameter].get(_MOMENTUM) is None:
                optimizer.state[parameter][_MOMENTUM] = torch.zeros_like(parameter)


def _momentum(optimizer: torch.optim.Optimizer, parameter: nn.Parameter | None) -> torch.Tensor | None:
    if parameter is None or parameter not in optimizer.state:
        return None
    state: dict[str, Any] = optimizer.state[parameter]
    return state.get(_MOMENTUM)


def _of_whole(momentum: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Momenta of ``down`` and ``up`` from that of the matrix they came from."""
    return up.T @ momentum, momentum @ down.T


def _of_factors(
    momentum_down: torch.Tensor,
    momentum_up: torch.Tensor,
    old_down: torch.Tensor,
    old_up: torch.Tensor,
    down: torch.Tensor,
    up: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Momenta of smaller factors from those of larger ones whose product they truncate."""
    a = torch.linalg.lstsq(old_down.double().T, down.double().T).solution.T
    b = torch.linalg.lstsq(old_up.double(), up.double()).solution
    down_new = b.T @ momentum_down.double()
    up_new = momentum_up.double() @ a.T
    return down_new.to(momentum_down.dtype), up_new.to(momentum_up.dtype)


def state_by_name(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    """The optimizer's state under the names of the parameters, for saving."""
    return {
        name: dict(optimizer.state[parameter])
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
    }


def restore_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, saved: Mapping[str, Mapping[str, Any]]
) -> None:
    """The inverse of `state_by_name`."""
    for name, parameter in model.named_parameters():
        if name in saved:
            optimizer.state[parameter] = {
                key: value.to(parameter.device) if isinstance(value, torch.Tensor) and value.dim() else value
                for key, value in saved[name].items()
            }
