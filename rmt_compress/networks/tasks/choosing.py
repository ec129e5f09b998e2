"""Which task a network and its data make, where the user does not say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rmt_compress.errors import SettingsError
from rmt_compress.networks.tasks.agreement import Agreement
from rmt_compress.networks.tasks.classification import Classification
from rmt_compress.networks.tasks.custom import CustomTask
from rmt_compress.networks.tasks.language import CausalLanguage, MaskedLanguage
from rmt_compress.networks.tasks.regression import Regression
from rmt_compress.networks.tasks.settings import TaskSettings
from rmt_compress.networks.tasks.task import Metric, Task
from rmt_compress.object_reference import load_callable

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.data.samples import Samples

_MASKED_HEADS = ("ForMaskedLM", "ForPreTraining")


def task_for(
    samples: Samples | None,
    model: nn.Module,
    asked: TaskSettings | None = None,
    *,
    reference: nn.Module | None = None,
    mask_token: int | None = None,
) -> Task:
    """The task that `asked` names, else the one that data and network are made for.

    Args:
        samples: what the network is asked; None where a callable asks by itself.
        model: the network, as it was before any compression.
        asked: which task, and the direction of a callable's score.
        reference: the network to agree with, for data without labels; None for `model` itself.
        mask_token: the tokenizer's, for masked language modelling.

    Raises:
        SettingsError: no such callable, or the data are not made for the task.
    """
    asked = asked or TaskSettings()
    if asked.task is not None and asked.asks_itself:
        return CustomTask(_function(asked.task), Metric(asked.task, "", asked.higher_is_better), samples)
    if samples is None:
        raise SettingsError(["a task needs data: add --data"])
    kind = asked.task or _natural(samples, model)
    if kind == "agreement":
        return agreement_of(samples, reference or model)
    wanted = {"classification": "classes", "regression": "numbers", "causal": "tokens", "masked": "tokens"}[kind]
    if samples.targets != wanted:
        has = {"classes": "classes", "numbers": "numbers", "tokens": "text", "none": "no labels"}[samples.targets]
        needs = {"classes": "a class for every sample", "numbers": "numbers to predict", "tokens": "text"}[wanted]
        raise SettingsError([f"{samples.name}: has {has}, and {kind} needs {needs}"])
    if kind == "classification":
        return Classification(samples)
    if kind == "regression":
        return Regression(samples)
    if kind == "causal":
        return CausalLanguage(samples, halves=_encoder_decoder(model))
    if mask_token is None:
        raise SettingsError(
            [
                f"{samples.name}: masked language modelling needs the token that stands for a masked one, which "
                "the tokenizer in a Hugging Face folder knows: put its files there, or ask for --task agreement"
            ]
        )
    return MaskedLanguage(samples, mask_token, asked.data.seed)


def agreement_beside(task: Task, reference: nn.Module) -> Agreement | None:
    """How far another network answers as `reference`, asked what `task` asks; None where that is the task."""
    if task.samples is None or isinstance(task, Agreement | CustomTask):
        return None
    return replace(agreement_of(task.samples, reference), prepared=task.inputs)


def agreement_of(samples: Samples, reference: nn.Module) -> Agreement:
    """Whether a network answers as `reference` about these samples."""
    halves = samples.targets == "tokens" and _encoder_decoder(reference)
    prepared = CausalLanguage(samples, halves=True).inputs if halves else None
    return Agreement(samples, reference, embeddings=_embeds(reference), prepared=prepared)


def _natural(samples: Samples, model: nn.Module) -> str:
    if samples.targets == "classes":
        return "classification"
    if samples.targets == "numbers":
        return "regression"
    if samples.targets == "none" or _embeds(model):
        return "agreement"
    return "masked" if type(model).__name__.endswith(_MASKED_HEADS) else "causal"


def _embeds(model: nn.Module) -> bool:
    """Whether a transformers model has no head: its outputs are embeddings."""
    import sys

    # No network of transformers is about where the package was never imported.
    transformers: Any = sys.modules.get("transformers")
    if transformers is None or not isinstance(model, transformers.PreTrainedModel):
        return False
    return type(model).__name__.endswith("Model") and not type(model).__name__.endswith("LMHeadModel")


def _encoder_decoder(model: nn.Module) -> bool:
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def _function(reference: str) -> Callable[[nn.Module], float]:
    try:
        return load_callable(reference)
    except ImportError as error:
        raise SettingsError([f"task {reference}: {error}"]) from error
