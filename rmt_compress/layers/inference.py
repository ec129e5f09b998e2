"""From named tensors alone to layers: which tensor is whose weight, and of what kind.

A state dict says names and shapes, not modules; what speaks for a role is in `roles`, and a tensor for whose role
nothing speaks is kept. A ConvTranspose, and a product stored (in, out), are told by their bias where the shapes
leave no doubt, while the groups of a convolution are known to its module only. A tensor may hold several weights
(`packed`), several tensors one (`parametrized`, `pairs`), and some are none (`quantized`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from rmt_compress.layers.kinds import LayerKind, convolution
from rmt_compress.layers.layer import FactorPair, Layer, TensorInfo
from rmt_compress.layers.packed import RECURRENT, unpacked
from rmt_compress.layers.pairs import NO_PAIRS, factor_pairs
from rmt_compress.layers.parametrized import compositions, unknown_parametrization
from rmt_compress.layers.quantized import quantized_part
from rmt_compress.layers.roles import KEPT, KEPT_STACK, NO_CONFIG, Config, Evidence
from rmt_compress.layers.splitting import beside, is_weight

# The products of GPT-2, stored (in, out) by transformers' Conv1D; other code has Linears of the same names.
_GPT2 = re.compile(r"(?:^|\.)(?:c_attn|q_attn|c_proj|c_fc)\.weight$")


def infer_layers(
    tensors: Mapping[str, TensorInfo],
    ties: Mapping[str, tuple[str, ...]] | None = None,
    *,
    pairs: bool = True,
    packed: bool = True,
    stored: Mapping[str, FactorPair] = NO_PAIRS,
    config: Config = NO_CONFIG,
) -> tuple[Layer, ...]:
    """Layers formed by `tensors`, one or several per tensor, in their order; together they cover every entry.

    Args:
        tensors: what the checkpoint holds, by name.
        ties: first name of a shared tensor -> its other names; the other names form no layer of their own.
        pairs: whether two factors form one layer, their product; else they are layers like any other.
        packed: whether what one tensor packs, or several compose, forms layers of its own; else every tensor is
            one layer.
        stored: name of the first factor -> the pair, of the pairs that a manifest tells of.
        config: what stands beside the weights.
    """
    ties = ties or {}
    repeated = {name for others in ties.values() for name in others}
    inference = _Inference(tensors, {**factor_pairs(tensors), **stored} if pairs else {}, config)
    return tuple(
        layer
        for name, info in tensors.items()
        if name not in repeated
        for layer in (inference.layers if packed else inference.single)(info, ties.get(name, ()))
    )


class _Inference:
    """What has to be known of all tensors to tell what one of them is."""

    def __init__(self, tensors: Mapping[str, TensorInfo], pairs: Mapping[str, FactorPair], config: Config) -> None:
        self._tensors = tensors
        self._evidence = Evidence(tensors, config)
        self._compositions = compositions(tensors)
        self._composed = {
            part: whole for whole, composition in self._compositions.items() for part in composition.parts
        }
        self._pairs = pairs
        self._seconds = {pair.second: first for first, pair in self._pairs.items()}
        self._gpt2_is_transposed = self._vote_on_gpt2()

    def layers(self, info: TensorInfo, aliases: tuple[str, ...]) -> tuple[Layer, ...]:
        """The layers in one tensor; `aliases` are its other names."""
        name = info.name
        if (pair := self._pairs.get(name)) is not None:
            layer = Layer(pair.name, name, "factors", info.shape, info.dtype, aliases=aliases, pair=pair)
            return (replace(layer, why_fixed="one of two factors already"),)
        if (composition := self._compositions.get(name)) is not None:
            whole = self._layer(replace(info, name=composition.weight), ())
            reason = f"computed from several tensors ({composition.method}); {_REMOVE}"
            whole = replace(
                whole, tensor=name, aliases=aliases, composition=composition, why_fixed=reason, why_skipped=None
            )
            return unpacked(whole, self._tensors, composition.weight)
        return unpacked(self._layer(info, aliases), self._tensors, name)

    def single(self, info: TensorInfo, aliases: tuple[str, ...]) -> tuple[Layer, ...]:
        """One tensor as one layer, whatever it packs."""
        return (self._layer(info, aliases),)

    def _layer(self, info: TensorInfo, aliases: tuple[str, ...]) -> Layer:
        name = info.name.removesuffix(".weight")
        bias = _bias(info.name)
        bias_length = self._bias_length(info)
        kind, unknown = self._kind(info, aliases, bias_length)
        if kind == "linear" and self._gpt2_is_transposed and _GPT2.search(info.name):
            kind = "linear_transposed"
        return Layer(
            name=name,
            tensor=info.name,
            kind=kind,
            shape=info.shape,
            dtype=info.dtype,
            bias=bias if bias in self._tensors else None,
            aliases=aliases,
            why_whole=_read_from_outside(name, self._tensors) or _unsuited_bias(info, kind, bias_length),
            why_skipped=info.why_skipped or self._part_of_another(info.name),
            why_unknown=unknown,
        )

    def _kind(
        self, info: TensorInfo, aliases: tuple[str, ...], bias_length: int | None
    ) -> tuple[LayerKind, str | None]:
        """The kind of a layer, and why it is not known."""
        dimensions = len(info.shape)
        if dimensions < 2:
            return "vector", None
        if (reason := self._evidence.why_no_layer(info)) is not None:
            return "unknown", reason
        # nn.Linear has a bias as long as its weight has rows; only in a transposed convolution, and in a product
        # stored (in, out), does it follow the second axis.
        transposed = bias_length == info.shape[1] != info.shape[0]
        if dimensions == 3 and self._evidence.is_stack(info):
            return "stack", None
        if dimensions > 2:
            kind = convolution(dimensions, transposed=transposed)
            if kind is None:
                return "unknown", None
            if self._evidence.is_convolution(info, transposed=transposed):
                return kind, None
            return "unknown", KEPT_STACK if dimensions == 3 else KEPT
        if RECURRENT.search(info.name):
            return "recurrent", None
        if self._evidence.is_embedding(info, aliases):
            return "embedding", None
        return "linear_transposed" if transposed else "linear", None

    def _bias_length(self, info: TensorInfo) -> int | None:
        bias = self._tensors.get(_bias(info.name) or "")
        return bias.shape[0] if bias is not None and len(bias.shape) == 1 else None

    def _vote_on_gpt2(self) -> bool:
        """Whether products with GPT-2's names are stored (in, out), told by those that are not square."""
        lengths = [
            (info.shape, self._bias_length(info))
            for name, info in self._tensors.items()
            if len(info.shape) == 2 and info.shape[0] != info.shape[1] and _GPT2.search(name)
        ]
        return bool(lengths) and all(length == shape[1] for shape, length in lengths)

    def _part_of_another(self, name: str) -> str | None:
        """Why a tensor acts in the network only together with others."""
        if name in self._seconds:
            return f"the other factor of {self._seconds[name]}"
        if name in self._composed:
            method, weight, _ = self._compositions[self._composed[name]]
            return f"a part of the parametrized weight {weight} ({method})"
        return unknown_parametrization(name, self._tensors) or quantized_part(name, self._tensors)


_REMOVE = "remove the parametrization and save again to cut it"


def _read_from_outside(name: str, tensors: Mapping[str, TensorInfo]) -> str | None:
    """Why the layer called `name` must stay whole: one of torch's own modules around it reads its weight itself."""
    parent, _, own = name.rpartition(".")
    prefix = f"{parent}." if parent else ""
    if own == "out_proj" and any(f"{prefix}{part}_proj_weight" in tensors for part in ("in", "q")):
        return "part of an nn.MultiheadAttention, which reads its weight directly"
    # A decoder layer has a second attention and no such fast path.
    attention, second = f"{prefix}self_attn.in_proj_weight", f"{prefix}multihead_attn.in_proj_weight"
    if own in ("linear1", "linear2") and attention in tensors and second not in tensors:
        return "part of an nn.TransformerEncoderLayer, which reads its weight directly"
    return None


def _unsuited_bias(info: TensorInfo, kind: LayerKind, bias_length: int | None) -> str | None:
    if kind == "linear" and bias_length is not None and bias_length != info.shape[0]:
        return f"its bias has {bias_length} entries for {info.shape[0]} rows: not stored as nn.Linear stores it"
    return None


def _bias(tensor: str) -> str | None:
    return beside(tensor, "bias") if is_weight(tensor) else None
