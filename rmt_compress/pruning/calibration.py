"""Which inputs a network is calibrated with, and which choose among its cuts: data, or what it makes itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rmt_compress.data import Samples, Targets
from rmt_compress.data.in_memory import InMemory
from rmt_compress.errors import SettingsError
from rmt_compress.networks.calibration.affordable import ASKED, affordable, worth_seeing
from rmt_compress.networks.calibration.made_up import MadeUp, make_inputs
from rmt_compress.networks.calibration.statistics import batch_norms, seen_statistics
from rmt_compress.networks.calibration.told_apart import not_told_apart
from rmt_compress.networks.calibration_settings import SELF, CalibrationSettings
from rmt_compress.networks.tasks.agreement import Agreement
from rmt_compress.networks.tasks.choosing import agreement_of
from rmt_compress.networks.tasks.questions import source_for
from rmt_compress.progress import phase

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.networks.calibration.statistics import Seen
    from rmt_compress.networks.tasks.questions import Question
    from rmt_compress.networks.tasks.task import Task
    from rmt_compress.progress import Progress
    from rmt_compress.pruning.result import Verified

_HELD_BACK = 4
"""Every so many of the inputs that a network has made choose among its cuts; the others calibrate."""
_FEW = 256
"""Images and vectors that a network has made all choose among cuts of one size where they are no more: 24 took the
third best of fifteen rules for the ResNet, all 96 the best (docs/calibration.md)."""
_MANY, _MANY_WINDOWS = 2048, 32
"""Of so many samples that choose, a quarter says which cuts are worth asking all."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """Inputs as the network is called with them, to be gone through as often as wanted.

    Attributes:
        task: whose samples they are.
        batch_size: so many at a time; None for the task's own number.
    """

    task: Task
    batch_size: int | None = None

    def __iter__(self) -> Iterator[Any]:
        samples = self.task.samples
        assert samples is not None
        for batch in samples.batches(self.batch_size or self.task.batch_size):
            yield self.task.inputs(batch)

    def __len__(self) -> int:
        samples = self.task.samples
        assert samples is not None
        return math.ceil((samples.count or 0) / (self.batch_size or self.task.batch_size))


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a network is calibrated with, and asked while a cut is chosen.

    Attributes:
        inputs: for moments and batch-norm statistics.
        selection: the task that candidates are asked.
        verified: ``measured`` where candidates are asked about data, ``synthetic`` about inputs the network made.
        notes: what the inputs are, one sentence each.
        record: the same as plain JSON.
        made: the inputs that the network has made itself, those that choose among them; None where it made none.
    """

    inputs: Inputs
    selection: Task
    verified: Verified
    notes: tuple[str, ...]
    record: dict[str, Any]
    made: MadeUp | None = None

    def part(self) -> Calibration | None:
        """The same with a quarter of the data, for a first look at many cuts; None where they are few."""
        samples = self.selection.samples
        count = 0 if samples is None else samples.count or 0
        if samples is None or count < (_MANY_WINDOWS if samples.targets == "tokens" else _MANY):
            return None
        inputs = self.inputs
        if self.made is None:
            seen = inputs.task.samples
            assert seen is not None
            inputs = Inputs(inputs.task.of(seen.thinned(max(1, (seen.count or 0) // 4)))) if seen.count else inputs
        return replace(self, inputs=inputs, selection=self.selection.of(samples.thinned(count // 4)))

    def of_one_size(self, model: nn.Module) -> Calibration:
        """The same, to choose among cuts of one size, where nothing but their order matters; asked while uncut.

        Those that calibrate choose too where the network has made few inputs: that it has been fitted to them makes
        every cut look better, and hardly changes which is best.
        """
        if self.made is None or self.verified != "synthetic":
            return self
        samples = in_memory(self.made)
        if samples.targets == "tokens" or samples.count > _FEW:
            return self
        return replace(self, selection=agreement_of(samples, model).remembered())

    def seen_uncut(self, model: nn.Module) -> dict[str, Seen] | None:
        """What the batch norms of the uncut network see of inputs that it made itself; None of data."""
        return None if self.made is None else seen_statistics(model, self.inputs)


@phase("choosing inputs to calibrate with")
def calibration_for(
    model: nn.Module,
    question: Question | None,
    settings: CalibrationSettings,
    checkpoint: Checkpoint,
    *,
    kept: MadeUp | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """The inputs that `settings` ask for.

    Args:
        model: the network, uncut.
        question: what it is asked about data; None without data.
        settings: which inputs, and how many.
        checkpoint: the file or folder the network comes from.
        kept: what the network has made before, which takes the place of what it would make.
        progress: told while the network makes inputs.

    Raises:
        DataError: no such data, too few, or the network cannot make its own.
    """
    has_data = question is not None and question.has_data
    asked = None
    if has_data:
        assert question is not None
        task = question.part("selection")
        assert task.samples is not None
        asked = task.of(task.samples.thinned(settings.selection_samples or affordable(model, task, ASKED)))
    if settings.calibrate == SELF or (settings.calibrate is None and not has_data):
        return _made_by_the_network(model, asked, settings, kept, progress)
    # A part of the very data that choose and score is one that does neither.
    if settings.calibrate is not None and not (question is not None and settings.calibrate == question.data):
        source, _ = source_for(settings.calibrate, model, checkpoint, settings.data)
        samples = source.part("train") if source.comes_in == "splits" else source.whole()
    else:
        assert question is not None
        task = question.part("calibration")
        assert task.samples is not None
        samples = task.samples
    seen = asked.of(samples) if asked is not None else agreement_of(samples, model)
    samples = samples.thinned(settings.calibration_samples or worth_seeing(model, seen))
    seen = asked.of(samples) if asked is not None else agreement_of(samples, model)
    if asked is None:
        # Of one set that only calibrates, every fourth sample chooses.
        seen, asked = _divided(samples, model)
    assert seen.samples is not None
    assert asked.samples is not None
    note = f"calibrated with {said(seen.samples)}; candidates were asked {said(asked.samples)}"
    verified: Verified = "measured" if has_data else "synthetic"
    record = {"inputs": samples.name, "samples": seen.samples.count, "asked": asked.samples.count}
    return Calibration(Inputs(seen), asked, verified, (note,), record)


def statistics_inputs(model: nn.Module, question: Question, settings: CalibrationSettings) -> Inputs | None:
    """Inputs of the calibration part of the data for statistics after cuts; None without batch norms.

    Args:
        model: the network, uncut.
        question: what it is asked about data.
        settings: how many inputs.

    Raises:
        SettingsError: there are no data.
    """
    if not batch_norms(model):
        return None
    if not question.has_data:
        raise SettingsError(["repair statistics needs inputs: add --data"])
    task = question.part("calibration")
    assert task.samples is not None
    count = settings.calibration_samples or worth_seeing(model, task)
    return Inputs(task.of(task.samples.thinned(count)))


def _made_by_the_network(
    model: nn.Module,
    asked: Task | None,
    settings: CalibrationSettings,
    kept: MadeUp | None,
    progress: Progress | None,
) -> Calibration:
    made = kept or make_inputs(
        model,
        shape=settings.shape,
        count=settings.calibration_samples,
        seed=settings.seed,
        progress=progress,
    )
    samples = in_memory(made)
    where = ", kept with the moments" if kept is not None else ""
    note = f"calibrated with {samples.count} inputs that the network made itself ({made.kind}{where})"
    notes = tuple(filter(None, (note, not_told_apart(model, made.batches))))
    record = {"inputs": SELF, "kind": made.kind, **made.record}
    if asked is not None:
        return Calibration(Inputs(agreement_of(samples, model)), asked, "measured", notes, record, made)
    seen, asked = _divided(samples, model)
    return Calibration(Inputs(seen), asked, "synthetic", notes, record, made)


def in_memory(made: MadeUp) -> InMemory:
    """Inputs that a network has made, as samples; whole numbers are text."""
    inputs = _joined(made.batches)
    first = inputs
    while isinstance(first, Mapping | tuple | list):
        first = next(iter(first.values())) if isinstance(first, Mapping) else first[0]
    targets: Targets = "none" if first.is_floating_point() else "tokens"
    return InMemory(inputs, targets=targets, name=made.kind, part="calibration")


def _divided(samples: Samples, model: nn.Module) -> tuple[Agreement, Agreement]:
    """Most of the samples, and every fourth of them for choosing: agreement with the network as it is."""
    import torch

    inputs = _joined([batch.inputs for batch in samples.batches(64)])
    count = InMemory(inputs).count
    chosen = torch.arange(count) % _HELD_BACK == _HELD_BACK - 1
    if not chosen.any():
        chosen[-1:] = True
    kept = ~chosen if bool((~chosen).any()) else chosen
    seen = InMemory(_rows(inputs, kept), name=samples.name, part="calibration", targets=samples.targets)
    asked = InMemory(_rows(inputs, chosen), name=samples.name, part="selection", targets=samples.targets)
    return agreement_of(seen, model), agreement_of(asked, model)


def said(samples: Samples) -> str:
    """How many samples of what, in words."""
    what = "window" if samples.targets == "tokens" else "sample"
    count = f"{samples.count:,} {what}s" if samples.count else f"{what}s"
    return f"{count} of {samples.name}" + (f" ({samples.part})" if samples.part != "test" else "")


def _joined(batches: Any) -> Any:
    """Inputs of several batches as one."""
    import torch

    first = batches[0]
    if isinstance(first, Mapping):
        return {key: torch.cat([batch[key] for batch in batches]) for key in first}
    if isinstance(first, tuple | list):
        return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
    return torch.cat(list(batches))


def _rows(inputs: Any, which: Any) -> Any:
    if isinstance(inputs, Mapping):
        return {key: _rows(value, which) for key, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(_rows(value, which) for value in inputs)
    return inputs[which]
