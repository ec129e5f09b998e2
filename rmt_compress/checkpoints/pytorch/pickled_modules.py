"""Whole models saved by `torch.save(model)`, of which the user says that they may be trusted."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints.beside import Beside, Carried
from rmt_compress.checkpoints.memory import ModuleCheckpoint
from rmt_compress.checkpoints.pytorch.carrying import carry
from rmt_compress.checkpoints.state_dicts import USUAL_KEYS, kind_of
from rmt_compress.wording import printable

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints.pytorch.torch_reader import TorchReader


class PickledModuleFile(ModuleCheckpoint):
    """The model in a file whose pickle was run; kinds of layers are those of its submodules.

    Args:
        reader: the file.
        module: the model in it.
        trail: the keys that lead to it.
        beside: what else the file holds.
    """

    path: Path  # type: ignore[assignment] # a module in memory has none

    def __init__(
        self, reader: TorchReader, module: torch.nn.Module, trail: tuple[str, ...], beside: tuple[Beside, ...]
    ) -> None:
        super().__init__(module)
        self._network = module.eval()
        self._reader = reader
        self._trail = trail
        self.path = reader.path
        self.format = "PyTorch (whole model)"
        self.beside = beside
        notes = [f"Its pickle was run, as the file is trusted; it holds a {type(module).__qualname__}."]
        if beside:
            listed = ", ".join(f"{entry.name} ({entry.kind})" for entry in beside[:6])
            notes.append(f"Took {'.'.join(trail)!r}; left alone: {listed}.")
        self.notes = tuple(map(printable, notes))

    def own_network(self) -> torch.nn.Module:
        """A copy of the model."""
        return copy.deepcopy(self._network)

    def carried(self) -> Carried:
        """What the file holds beside the model; its pickle is run once more."""
        return carry(self._reader.load(), self._trail, check=True)


def find_module(
    saved: Any,
    weights: str | None,
) -> tuple[torch.nn.Module, tuple[str, ...], tuple[Beside, ...]] | None:
    """The model in what was saved, the key to it and what stands beside it; None where there is no model.

    Args:
        saved: a model, or a mapping that holds one.
        weights: the key of the one that is meant.
    """
    from torch import nn

    if isinstance(saved, nn.Module):
        return saved, (), ()
    if not isinstance(saved, Mapping):
        return None
    modules = [key for key, value in saved.items() if isinstance(key, str) and isinstance(value, nn.Module)]
    wanted = (weights,) if weights is not None else (*USUAL_KEYS, *modules)
    key = next((key for key in wanted if key in modules), None)
    if key is None:
        return None
    beside = tuple(Beside(str(other), kind_of(entry)) for other, entry in saved.items() if other != key)
    return saved[key], (key,), beside
