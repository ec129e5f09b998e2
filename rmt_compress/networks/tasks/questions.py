"""From what the user typed after ``--data`` and ``--task`` to a task that a network can be asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints.keys import PIXELS_KEY
from rmt_compress.data import DataSettings, Source, flattened, open_samples
from rmt_compress.data.sources import may_hold_text
from rmt_compress.errors import DataError, SettingsError
from rmt_compress.networks.calling import call, placed, without_cache
from rmt_compress.networks.configured import context_length, vocabulary_size
from rmt_compress.networks.huggingface import model_folder, tokenizer_of
from rmt_compress.networks.measurement import evaluation_mode, placement
from rmt_compress.networks.tasks.choosing import task_for
from rmt_compress.networks.tasks.settings import TaskSettings

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.checkpoints import Checkpoint
    from rmt_compress.data.samples import Part, Samples
    from rmt_compress.networks.tasks.task import Task


class Question:
    """Data and network brought together: a task on each part of the data.

    Args:
        data: what was typed after ``--data``; None for a callable that asks by itself.
        model: the network, as it was before any compression.
        checkpoint: the file it comes from, which may say what it expects of pixels; None for none.
        settings: how data are read, and which task is asked.

    Raises:
        DataError: there are no such data, or the file's record of its pixels is damaged.
        SettingsError: neither data nor a callable.
        MissingDependencyError: a package is needed to read them.
    """

    def __init__(
        self,
        data: str | None,
        model: nn.Module,
        checkpoint: Checkpoint | None = None,
        settings: TaskSettings | None = None,
    ) -> None:
        self.data = data
        self._settings = settings or TaskSettings()
        self._model = model
        self.pixels = self._settings.data.or_as(_remembered(checkpoint))
        self._mask_token: int | None = None
        self._source: Source | None = None
        if data is not None:
            self._source, self._mask_token = source_for(data, model, checkpoint, self.pixels)
        elif not self._settings.asks_itself:
            raise SettingsError(["nothing to ask the network: add --data, or --task package.module:callable"])

    @property
    def has_data(self) -> bool:
        """Whether there are data, and not only a callable that asks by itself."""
        return self._source is not None

    def part(self, part: Part) -> Task:
        """The task on a part of the data; see `Source.part`."""
        return self._task(None if self._source is None else self._source.part(part))

    def held_out(self) -> Task:
        """The task on all that training does not see; see `Source.held_out`."""
        return self._task(None if self._source is None else self._source.held_out())

    def whole(self) -> Task:
        """The task on all that may be scored where nothing calibrates or chooses; see `Source.whole`."""
        return self._task(None if self._source is None else self._source.whole())

    @property
    def remembered(self) -> dict[str, str]:
        """What a file of this network is to remember of its pixels, as text for its metadata."""
        pixels = self.pixels.to_json()
        return {PIXELS_KEY: json.dumps(pixels)} if pixels else {}

    def _task(self, samples: Samples | None) -> Task:
        if samples is not None and samples.targets != "tokens":
            samples = _as_taken(samples, self._model)
        return task_for(samples, self._model, self._settings, mask_token=self._mask_token)


def source_for(
    data: str, model: nn.Module, checkpoint: Checkpoint | None, settings: DataSettings
) -> tuple[Source, int | None]:
    """Data as a network reads them, text by the tokenizer of its folder; and the token of masked places.

    Windows are no longer than what the network takes at once. A cell of a table is a text of its own, which the
    tokenizer puts its marks around and cuts; windows are pieces of one.

    Args:
        data: as after ``--data``.
        model: the network.
        checkpoint: the file or folder it comes from; None for none.
        settings: how data are read.
    """
    folder = None if checkpoint is None else model_folder(checkpoint)
    tokenizer = None
    if folder is not None and may_hold_text(data):
        tokenizer = tokenizer_of(folder, trust=checkpoint is not None and checkpoint.trusted)
    if (context := context_length(model)) is not None and context < settings.sequence_length:
        settings = replace(settings, sequence_length=context)
    length = None if data.startswith("text:") else settings.sequence_length

    def encode(text: str) -> Any:
        assert tokenizer is not None
        if length is None:
            return tokenizer.encode(text, add_special_tokens=False)
        return tokenizer.encode(text, truncation=True, max_length=length)

    source = open_samples(
        data,
        settings,
        folder=folder,
        tokenizer=None if tokenizer is None else encode,
        vocabulary=_vocabulary(model),
    )
    return source, None if tokenizer is None else tokenizer.mask_token_id


def open_task(
    data: str | None,
    model: nn.Module,
    checkpoint: Checkpoint | None = None,
    settings: TaskSettings | None = None,
    *,
    limit: int | None = None,
) -> Task:
    """What a network is asked where nothing is chosen by the answer; see `Question` for arguments and errors.

    `limit` is the most samples that are asked.
    """
    task = Question(data, model, checkpoint, settings).whole()
    if limit is None or task.samples is None:
        return task
    return task.of(task.samples.thinned(limit))


def _remembered(checkpoint: Checkpoint | None) -> DataSettings:
    text = checkpoint.metadata.get(PIXELS_KEY) if checkpoint is not None else None
    if text is None:
        return DataSettings()
    try:
        stored: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            "what the file remembers of its pixels is no JSON; say it again with --mean and --std"
        ) from error
    return DataSettings.from_json(stored)


def _vocabulary(model: nn.Module) -> int | None:
    """How many tokens a network knows, as far as it says."""
    from torch import nn

    from rmt_compress.checkpoints.graph_network import GraphNetwork

    if (known := vocabulary_size(model)) is not None:
        return known
    if isinstance(model, GraphNetwork):
        return model.vocabulary
    return next((module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)), None)


def _as_taken(samples: Samples, model: nn.Module) -> Samples:
    """Images flattened for a network that takes rows and does not flatten them itself."""
    import torch
    from torch import nn

    batch = next(iter(samples.batches(1)), None)
    if batch is None or isinstance(batch.inputs, Mapping | tuple | list) or batch.inputs.ndim < 3:
        return samples
    first = next((module for module in model.modules() if isinstance(module, nn.Linear)), None)
    if first is None or first.in_features != batch.inputs[0].numel():
        return samples
    device, dtype = placement(model)
    with evaluation_mode(model), without_cache(model), torch.inference_mode():
        try:
            call(model, placed(batch.inputs, device, dtype))
        # What a network makes of inputs it was not made for may be any error; that of the flat ones is told later.
        except Exception:
            return flattened(samples)
    return samples
