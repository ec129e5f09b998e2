"""Tokens per second of language models: reading a prompt, and writing on with a cache, the networks in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rmt_compress.errors import EvaluationError, SettingsError
from rmt_compress.networks.configured import context_length, vocabulary_size
from rmt_compress.networks.measurement import evaluation_mode, placement
from rmt_compress.settings.declaring import setting
from rmt_compress.settings.validation import problems_of, refuse
from rmt_compress.wording import one_line

if TYPE_CHECKING:
    import torch
    from torch import nn

GENERATION_SECONDS = 2.0
"""Time spent per model; at least `_LEAST_RUNS` runs whatever they take."""
_LEAST_RUNS, _MOST_RUNS, _WARM_UP = 3, 50, 1
_PROMPT = 128


@dataclass(frozen=True)
class GenerationSettings:
    """Whether language models write, and how much; names every problem at once.

    Attributes:
        generate: tokens that are written after each prompt; None: nothing is generated.
        prompt: tokens of the prompt; None for 128, fewer where a network has not as many positions.

    Raises:
        SettingsError: a count is below 1, or there is a prompt and nothing to write.
    """

    generate: int | None = setting(
        None,
        "Tokens per second of a language model too: a prompt is read, then N tokens are written with a cache.",
        within="[1, inf)",
        minimum=1,
        metavar="N",
    )
    prompt: int | None = setting(
        None,
        "Tokens of the prompt of --generate; by default 128.",
        within="[1, inf)",
        minimum=1,
        metavar="N",
    )

    def __post_init__(self) -> None:
        problems = problems_of(self)
        if self.prompt is not None and self.generate is None:
            problems.append("prompt is what --generate N reads before it writes N tokens: give that too")
        refuse(problems)


@dataclass(frozen=True)
class GenerationSpeed:
    """How fast a language model reads and writes; medians over runs.

    Attributes:
        prompt: tokens of the prompt, of each sequence.
        written: tokens written after it, of each sequence.
        batch: sequences at once.
        prefill: tokens of prompts read in a second, of all sequences together.
        decode: tokens written in a second, of all sequences together, each step given the cache of those before.
        first_token_ms: milliseconds from the prompt to the first new token.
    """

    prompt: int
    written: int
    batch: int
    prefill: float
    decode: float
    first_token_ms: float

    def to_json(self) -> dict[str, Any]:
        """The fields as they are called here."""
        return asdict(self)


def measure_generation(
    models: Sequence[nn.Module],
    *,
    prompt: int | None = None,
    written: int = 32,
    batch: int = 1,
    seconds: float | None = None,
    names: Sequence[str | None] | None = None,
) -> list[GenerationSpeed]:
    """How fast each of several causal language models is, their runs in turns.

    A run reads `batch` prompts at once and keeps the cache (`use_cache=True`), then takes `written` steps of one
    token each; the token is the likeliest, chosen outside the time measured. Prompts are made-up token ids, the
    same for all. Every model stays where it is and computes in its own type.

    Args:
        models: as transformers' classes for causal language modelling are called.
        prompt: tokens of each prompt; None for 128; fewer where a model has not as many positions.
        written: tokens that are written.
        batch: prompts read at once.
        seconds: time for each model, one warm-up aside; None for `GENERATION_SECONDS`.
        names: what errors call the models; by default their classes.

    Raises:
        SettingsError: a count is below 1, or no network is given.
        EvaluationError: a network that is no such model, or keeps no cache; in one line.
    """
    import torch

    prompt = _PROMPT if prompt is None else prompt
    counts = (("prompt", prompt), ("written", written), ("batch", batch), ("models", len(models)))
    if problems := [f"{name} is {count}; it must be 1 or more" for name, count in counts if count < 1]:
        raise SettingsError(problems)
    contexts = [length for model in models if (length := context_length(model)) is not None]
    prompt = min([prompt, *(length - written for length in contexts)])
    if prompt < 1:
        raise SettingsError([f"written is {written}: more tokens than a network has positions for"])
    called = [
        name or type(model).__name__ for name, model in zip(names or [None] * len(models), models, strict=True)
    ]
    vocabulary = min(vocabulary_size(model) or 2 for model in models)
    ids = torch.arange(batch * prompt).view(batch, prompt).mul(7).remainder(vocabulary)
    times: list[list[tuple[float, float]]] = [[] for _ in models]
    deadline = time.perf_counter() + (GENERATION_SECONDS if seconds is None else seconds) * len(models)
    for run in range(-_WARM_UP, _MOST_RUNS):
        if run >= _LEAST_RUNS and time.perf_counter() > deadline:
            break
        # Now one first, now the other.
        for index in range(len(models))[:: 1 if run % 2 else -1]:
            measured = _one_run(models[index], ids, written, called[index])
            if run >= 0:
                times[index].append(measured)
    return [_summary(of_model, prompt, written, batch) for of_model in times]


def _summary(times: list[tuple[float, float]], prompt: int, written: int, batch: int) -> GenerationSpeed:
    reading, writing = (statistics.median(seconds) for seconds in zip(*times, strict=True))
    return GenerationSpeed(
        prompt=prompt,
        written=written,
        batch=batch,
        prefill=batch * prompt / reading,
        decode=batch * written / writing,
        first_token_ms=1000 * reading,
    )


def _one_run(model: nn.Module, ids: torch.Tensor, written: int, name: str) -> tuple[float, float]:
    """Seconds of reading the prompts, and of writing `written` tokens to each."""
    import torch

    device, _ = placement(model)
    wait: Callable[[], object] = getattr(torch, device.type).synchronize
    ids = ids.to(device)
    with evaluation_mode(model), torch.inference_mode():
        answer, reading = _timed(model, ids, None, wait, name)
        writing = 0.0
        for _ in range(written):
            token = answer.logits[:, -1:].argmax(-1)
            answer, seconds = _timed(model, token, answer.past_key_values, wait, name)
            writing += seconds
    return reading, writing


def _timed(
    model: nn.Module, ids: torch.Tensor, cache: Any, wait: Callable[[], object], name: str
) -> tuple[Any, float]:
    """What a model answers to tokens that follow those in its cache, and the seconds it takes."""
    wait()
    start = time.perf_counter()
    try:
        answer = model(input_ids=ids, past_key_values=cache, use_cache=True)
    except (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError) as error:
        raise EvaluationError(_cannot_write(name, one_line(error)[:200])) from error
    wait()
    seconds = time.perf_counter() - start
    if getattr(answer, "logits", None) is None or getattr(answer, "past_key_values", None) is None:
        raise EvaluationError(_cannot_write(name, "it answers without logits, or keeps no cache"))
    return answer, seconds


def _cannot_write(name: str, why: str) -> str:
    return (
        f"{name}: cannot write text: {why}; tokens per second are for the classes that transformers calls "
        "…ForCausalLM or …LMHeadModel: leave --generate out"
    )
