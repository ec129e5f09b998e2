"""What users say of the roles of their tensors, where names and shapes leave them open: ``KIND:GLOB``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import cast

from rmt_compress.errors import SettingsError
from rmt_compress.layers.kinds import KINDS, LayerKind
from rmt_compress.layers.layer import Layer
from rmt_compress.wording import listed, times

SKIP = "skip"
TREATMENTS = (*(kind.name for kind in KINDS.values() if kind.splits), "embedding", SKIP)
"""What a layer may be treated as; ``skip`` leaves it as it is."""


def treatment_problem(text: str) -> str | None:
    """Why a text is no ``KIND:GLOB``; None if it is."""
    kind, colon, glob = text.partition(":")
    if kind in TREATMENTS and colon and glob:
        return None
    return f"treat-as takes KIND:GLOB with KIND one of {', '.join(TREATMENTS)}, got {text!r}"


def treated(layers: Sequence[Layer], treatments: Iterable[str]) -> tuple[Layer, ...]:
    """The layers, those that a glob names being of its kind; the last one that names a layer counts.

    Args:
        layers: of a checkpoint.
        treatments: ``KIND:GLOB`` each, the globs of names of layers or tensors.

    Raises:
        SettingsError: a glob that matches nothing, or a layer that cannot be of this kind; all of them at once.
    """
    result = {layer.tensor: layer for layer in layers}
    problems = []
    for text in treatments:
        kind, _, glob = text.partition(":")
        named = [layer for layer in layers if matches(layer, glob)]
        if not named:
            names = listed([layer.name for layer in layers if layer.kind != "vector"])
            problems.append(f"treat-as {text}: matches no layer; the layers are {names or 'none'}")
        for layer in named:
            if (problem := _problem(layer, kind)) is None:
                result[layer.tensor] = _as_kind(layer, kind)
            elif layer.kind != "vector" or layer.tensor == glob:
                problems.append(f"treat-as {text}: {problem}")
    if problems:
        raise SettingsError(problems)
    return tuple(result.values())


def matches(layer: Layer, glob: str) -> bool:
    """Whether a glob names a layer, by any of its names."""
    # A name may have brackets in it (in_proj_weight[q]), which a glob reads as a choice of characters.
    return any(name == glob or fnmatchcase(name, glob) for name in (layer.name, layer.tensor, *layer.aliases))


def retold(layer: Layer, kind: str) -> Layer:
    """The layer as a plan calls it, where its role is open; else as it is."""
    return layer if kind == layer.kind or _problem(layer, kind) is not None else _as_kind(layer, kind)


def _as_kind(layer: Layer, kind: str) -> Layer:
    if kind == SKIP:
        return replace(layer, why_skipped="left as it is (--treat-as skip)")
    # Why it is no stock layer was said of the kind that it was taken for.
    return replace(layer, kind=cast(LayerKind, kind), why_unknown=None)


def _problem(layer: Layer, kind: str) -> str | None:
    """Why a layer cannot be treated as one of this kind."""
    if kind == SKIP or kind == layer.kind:
        return None
    name = layer.tensor
    if layer.in_graph or layer.by_class:
        return f"{name} is known to be of kind {layer.kind} by its {'graph' if layer.in_graph else 'class'}"
    if layer.part is not None or layer.pair is not None:
        return f"{name} is a part of a larger weight"
    if kind not in TREATMENTS:
        return f"{name} cannot be treated as {kind}"
    if (axes := KINDS[kind].axes) != len(layer.shape):
        return f"{name} is {times(layer.shape)}, a {kind} weight has {axes} axes"
    return None
