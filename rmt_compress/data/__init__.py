"""Data sets: by name, from files and folders of many kinds, or from a user's own object; whole or streamed."""

from rmt_compress.data.changed_inputs import flattened
from rmt_compress.data.dataset import Dataset, Split
from rmt_compress.data.loading import KNOWN_SETS, load_data
from rmt_compress.data.samples import Batch, Part, Samples, Targets
from rmt_compress.data.settings import DataSettings
from rmt_compress.data.sources import Source, open_samples

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
]
