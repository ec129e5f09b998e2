"""Saving compressed models, and getting them back: as modules, or as a plain state dict of the original network."""

from rmt_compress.saving.reloading import load, load_dense
from rmt_compress.saving.writing import save, write

__all__ = ["load", "load_dense", "save", "write"]
