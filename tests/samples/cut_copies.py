"""Compressed copies of small networks: every layer that can be split has the same rank."""

from rmt_compress.checkpoints.memory import ModuleCheckpoint
from rmt_compress.compression import compress
from rmt_compress.layers.splitting import split_refusal
from rmt_compress.plan import LayerDecision, Plan


def cut_to(model, rank, *, only=None):
    """A copy whose Linear and convolution layers, or those of `only`, are split to one rank, if that is smaller."""
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
        and layer.factor_parameters(min(rank, *layer.matrix)) < layer.parameters
        and (only is None or layer.tensor.removesuffix(".weight") in only)
    ]
    return compress(model, Plan(layers=tuple(layers)))
