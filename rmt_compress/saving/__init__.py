"""Saving compressed models, and getting them back: as modules, or as a plain state dict of the original network."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rmt_compress.saving.reloading import load, load_dense
    from rmt_compress.saving.writing import save, write

__all__ = ["load", "load_dense", "save", "write"]

_HOMES = {"load": "reloading", "load_dense": "reloading", "save": "writing", "write": "writing"}


def __getattr__(name: str) -> object:
    # On first use: what only tells of a file must not wait for torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
