"""Data sets: by name, from files and folders of many kinds, or from a user's own object; whole or streamed."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rmt_compress.data.changed_inputs import flattened, reordered
    from rmt_compress.data.dataset import Dataset, Split
    from rmt_compress.data.loading import KNOWN_SETS, load_data
    from rmt_compress.data.samples import Batch, Part, Samples, Targets
    from rmt_compress.data.settings import DataSettings
    from rmt_compress.data.sources import Source, open_samples

# Names are fetched on first use: the settings stand in `--help`, which does not wait for readers of data.
_HOMES = {
    "KNOWN_SETS": "loading",
    "Batch": "samples",
    "DataSettings": "settings",
    "Dataset": "dataset",
    "Part": "samples",
    "Samples": "samples",
    "Source": "sources",
    "Split": "dataset",
    "Targets": "samples",
    "flattened": "changed_inputs",
    "load_data": "loading",
    "open_samples": "sources",
    "reordered": "changed_inputs",
}

__all__ = [
    "KNOWN_SETS",
    "Batch",
    "DataSettings",
    "Dataset",
    "Part",
    "Samples",
    "Source",
    "Split",
    "Targets",
    "flattened",
    "load_data",
    "open_samples",
    "reordered",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
