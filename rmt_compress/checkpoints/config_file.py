"""What the ``config.json`` beside a Hugging Face folder's weights says of the shapes in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rmt_compress.checkpoints.strict_json import parse_object
from rmt_compress.layers.roles import NO_CONFIG, Config

CONFIG = "config.json"
"""What every folder of a model in Hugging Face's libraries has."""

_LARGEST = 10_000_000

# As transformers' configurations call them; those of models with several parts hold one more mapping per part.
_VOCABULARIES = ("vocab_size",)
_EXPERTS = (
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "moe_num_experts",
    "num_routed_experts",
    "n_experts",
)


def config_beside(path: Path | None) -> Config:
    """What is known of the checkpoint at `path`, a folder, a file in it or its index.

    A ``config.json`` that is missing, or no JSON, says nothing: it is evidence, not a part of the checkpoint.
    """
    if path is None:
        return NO_CONFIG
    file = (path if path.is_dir() else path.parent) / CONFIG
    try:
        if file.stat().st_size > _LARGEST:
            return NO_CONFIG
        found = parse_object(file.read_bytes())
    except (OSError, ValueError):
        return NO_CONFIG
    parts = [found, *(part for part in found.values() if isinstance(part, Mapping))]
    return Config(_numbers(parts, _VOCABULARIES), _numbers(parts, _EXPERTS))


def _numbers(parts: list[Mapping[str, object]], keys: tuple[str, ...]) -> frozenset[int]:
    values = (part.get(key) for part in parts for key in keys)
    return frozenset(value for value in values if isinstance(value, int) and value > 1)
