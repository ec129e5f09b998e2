"""Data sets: by name, from a directory in a standard layout, or from a user's own callable."""

from rmt_compress.data.dataset import Dataset, Split
from rmt_compress.data.loading import KNOWN_SETS, load_data

__all__ = ["KNOWN_SETS", "Dataset", "Split", "load_data"]
