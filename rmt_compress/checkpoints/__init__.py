"""Checkpoints: named tensors from files, directories, state dicts and modules, by `open_checkpoint`."""

from rmt_compress.checkpoints.base import Checkpoint
from rmt_compress.checkpoints.opening import open_checkpoint

__all__ = ["Checkpoint", "open_checkpoint"]
