"""What the configuration of a model of transformers says of the text that it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def vocabulary_size(model: nn.Module) -> int | None:
    """How many tokens the model knows, as far as it says."""
    return _positive(model, "vocab_size")


def context_length(model: nn.Module) -> int | None:
    """How many tokens it takes at once, as far as it says."""
    return _positive(model, "max_position_embeddings")


def _positive(model: nn.Module, name: str) -> int | None:
    config: Any = getattr(model, "config", None)
    # Of a model with several parts, the one that reads and writes text.
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    value = getattr(text, name, None)
    return value if isinstance(value, int) and value > 0 else None
