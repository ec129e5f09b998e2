"""Compressed copies of small networks: every layer that can be split has so much of its rank."""

from rmt_compress.checkpoints.memory import ModuleCheckpoint
from rmt_compress.compression import compress
from rmt_compress.layers.splitting import split_refusal
from rmt_compress.plan import LayerDecision, Plan


def cut_to(model, rank, *, only=None):
    """A copy with all its Linear and convolution layers, or those of `only`, split to one rank."""
    layers = [
        LayerDecision(
            name=layer.name,
            tensor=layer.tensor,
            kind=layer.kind,
            shape=layer.shape,
            action="factorized",
            rank=min(rank, *layer.matrix),
        )
        for layer in ModuleCheckpoint(model).layers()
        if layer.matrix is not None
        and split_refusal(layer) is None
        and (only is None or layer.tensor.removesuffix(".weight") in only)
    ]
    return compress(model, Plan(layers=tuple(layers)))
