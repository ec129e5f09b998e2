"""Layers: how weights are read as matrices."""

from rmt_compress.layers.inference import infer_layers
from rmt_compress.layers.kinds import LayerKind
from rmt_compress.layers.layer import Layer, TensorInfo, as_matrix, as_weight

__all__ = ["Layer", "LayerKind", "TensorInfo", "as_matrix", "as_weight", "infer_layers"]
