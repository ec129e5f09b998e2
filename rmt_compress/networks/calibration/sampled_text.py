"""Text that a language model writes itself: sampled at temperature 1 from one random first token.

Known from data-free quantization (Liu et al. 2023, LLM-QAT); method.md §14 finds it as good as real text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from rmt_compress.networks.calling import main_output
from rmt_compress.progress import counter

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.networks.calibration.repeated_batches import Call
    from rmt_compress.progress import Progress


def vocabulary_of(model: nn.Module) -> int | None:
    """How many tokens a network knows that takes tokens; None for one that takes something else."""
    from rmt_compress.checkpoints.graph_network import GraphNetwork

    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    if isinstance(size := getattr(text, "vocab_size", None), int):
        return size
    if isinstance(model, GraphNetwork):
        return model.vocabulary
    first = next((module for module in model.modules() if "weight" in module._parameters), None)
    return first.num_embeddings if isinstance(first, torch.nn.Embedding) else None


def is_language_model(model: nn.Module, call: Call, vocabulary: int, length: int, seed: int) -> bool:
    """Whether each token's logits are over all tokens and know of no later one."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(vocabulary, (2, length), generator=generator)
    second = first.clone()
    second[:, -1] = (second[:, -1] + 1) % vocabulary
    with torch.no_grad():
        some, others = main_output(call(model, first)), main_output(call(model, second))
    if some is None or others is None or some.shape[:2] != first.shape or some.dim() != 3 or length < 2:
        return False
    return some.shape[2] >= vocabulary and torch.allclose(some[:, :-1], others[:, :-1], rtol=1e-3, atol=1e-4)


def longest(model: nn.Module, call: Call, vocabulary: int, wanted: int) -> int | None:
    """How long a text may be, `wanted` or a half, a quarter … of it; None where no two tokens can be asked."""
    length = wanted
    while length >= 2:
        try:
            with torch.no_grad():
                call(model, torch.zeros(1, length, dtype=torch.long))
        # The network is the user's own code; a table of positions that is too short ends in one of these.
        except (RuntimeError, IndexError, ValueError):
            length //= 2
        else:
            return length
    return None


def sample_text(
    model: nn.Module,
    call: Call,
    *,
    vocabulary: int,
    sequences: int,
    length: int,
    generator: torch.Generator,
    progress: Progress | None = None,
) -> torch.Tensor:
    """Token numbers, (sequences, length), on the CPU.

    Args:
        model: in evaluation mode; where it hands out a cache of keys and values (transformers), each step asks for
            one token only.
        call: how it is asked about tokens, (N, T).
        vocabulary: how many tokens it knows.
        sequences: how many texts.
        length: their tokens.
        generator: on the CPU.
        progress: told of every token.
    """
    ids = torch.empty(sequences, length, dtype=torch.long)
    ids[:, 0] = torch.randint(vocabulary, (sequences,), generator=generator)
    advance = counter(length - 1, progress)
    step = _Steps(model, call)
    with torch.no_grad():
        for place in range(1, length):
            chances = step.logits(ids[:, :place])[:, :vocabulary].float().softmax(-1).cpu()
            ids[:, place] = torch.multinomial(chances, 1, generator=generator)[:, 0]
            advance(f"token {place + 1}")
    return ids


class _Steps:
    """Logits of the next token, with the network's cache where it has one."""

    def __init__(self, model: nn.Module, call: Call) -> None:
        self._model = model
        self._call = call
        self._caches = bool(getattr(getattr(model, "config", None), "use_cache", False)) and hasattr(
            model, "prepare_inputs_for_generation"
        )
        self._cache: Any = None

    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        """(N, tokens), of the token after `ids`, which have grown by one since the last time."""
        if self._caches:
            device = next(self._model.parameters()).device
            new = (ids if self._cache is None else ids[:, -1:]).to(device)
            outputs = self._model(input_ids=new, past_key_values=self._cache, use_cache=True)
            self._cache = getattr(outputs, "past_key_values", None)
            self._caches = self._cache is not None
        else:
            outputs = self._call(self._model, ids)
        logits = main_output(outputs)
        assert logits is not None
        return logits[:, -1]
