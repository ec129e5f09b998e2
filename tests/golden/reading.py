"""What golden files hold, in numbers that a test can compare."""

import torch

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.saving.reloading import load_dense


def _facts(tensor):
    values = tensor.to_dense().double() if tensor.is_floating_point() else tensor.double()
    weights = torch.arange(1, values.numel() + 1, dtype=torch.float64)
    return [list(tensor.shape), str(tensor.dtype).removeprefix("torch."), float((values.flatten() * weights).sum())]


def held(path):
    """Of every whole weight its shape, type and a weighted sum; and what the manifest says was split."""
    with open_checkpoint(path) as checkpoint:
        manifest = checkpoint.manifest
        assert manifest is not None
        split = {layer.weight: layer.rank for layer in manifest.factorized}
        if checkpoint.has_graph:
            return {"ranks": split, "tensors": {name: _facts(checkpoint.read(name)) for name in checkpoint.tensors}}
    return {"ranks": split, "tensors": {name: _facts(tensor) for name, tensor in load_dense(path).items()}}
