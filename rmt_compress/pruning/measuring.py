"""What ``--data`` adds to `prune`: both networks measured, and score against rank drawn beside the output."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.analysis.analyzing import analyze_with
from rmt_compress.analysis.settings import AnalysisSettings
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.graph_network import GraphNetwork
from rmt_compress.networks.calibration.affordable import ASKED, affordable
from rmt_compress.networks.computing_types import computing_type
from rmt_compress.networks.evaluation import compare, move
from rmt_compress.networks.file_names import file_names
from rmt_compress.networks.loading import load_model
from rmt_compress.networks.pixel_statistics import unnormalized_samples
from rmt_compress.networks.wreck import against_original
from rmt_compress.pruning.certifying import certify, check_certifiable
from rmt_compress.reporting.sweep_files import check_sweep_outputs, write_sweep
from rmt_compress.saving.reloading import load
from rmt_compress.sweep import SweepTarget, sweep_rank

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.analysis import Analysis
    from rmt_compress.certificates.certificate import Certificate
    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.networks.evaluation import Evaluation
    from rmt_compress.networks.tasks.task import Task
    from rmt_compress.progress import Progress
    from rmt_compress.pruning.result import PruneResult

_SWEEP_SECONDS = 25.0
_SWEEP_POINTS = 8
_SWEEP_LAYERS = 6
_LEAST_SAMPLES = 300
_FIRST_SAMPLES = 8


def check_sweep(target: Path, *, source: Path, force: bool) -> None:
    """Refuse files of the sweep that would overwrite something."""
    check_sweep_outputs([_stem(target)], force=force, inputs=(source,))


class Measurement:
    """What both networks are asked, opened before any work is done, so that a mistake is told at once.

    Args:
        checkpoint: what is pruned.
        model: the network that it is.
        task: what both are asked.
        arch: the network, as in `prune`.
        trust: as in `prune`.
        dtype: the type that both compute in; None for that of `load_model`.
        certifies: whether to certify how far the cut can move the answers.
        device: where `model` is and the smaller one is to run, graphs apart; None for the CPU.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: nn.Module,
        task: Task,
        *,
        arch: str | None,
        trust: bool,
        dtype: str | None = None,
        certifies: bool = False,
        device: str | torch.device | None = None,
    ) -> None:
        self._arch = arch
        self._dtype = dtype
        self._checkpoint = checkpoint
        self._trust, self._device = trust, device
        self._model = model
        self._task = task
        self._pixels = unnormalized_samples(model, task.samples)
        if task.samples is not None:
            # What cannot be asked is told before anything is written.
            task.of(task.samples.thinned(_FIRST_SAMPLES)).score(model, name=str(checkpoint.path))
        self._certifies = certifies
        if certifies:
            check_certifiable(model, task, str(checkpoint.path))

    def _smaller(self, target: Path) -> nn.Module:
        smaller = self._loaded(target)
        if self._device is not None and not isinstance(smaller, GraphNetwork):
            move(smaller, self._device)
        return smaller

    def _loaded(self, target: Path) -> nn.Module:
        original = self._checkpoint
        if self._arch is None and not original.has_graph and (own := original.own_network()) is not None:
            small = load(target, own).eval()
            return small if self._dtype is None else small.to(computing_type(original, self._dtype))
        smaller = open_checkpoint(target, trust=self._trust)
        return load_model(smaller, arch=self._arch, dtype=self._dtype)

    def _wreck(self, before: Evaluation, after: Evaluation, target: Path, *, within: bool) -> str | None:
        words = against_original(after.score, before.score)
        if words is None:
            return None
        samples = self._task.samples
        data = "DATA" if samples is None else shlex.quote(samples.name)
        back = f"rmt-compress finetune {shlex.quote(str(target))} --data {data}"
        less = "allow it more (--keep, --macs)" if within else "cut less (--keep-bulk 0.5, --rule energy:0.99)"
        return f"{words}; {less} or win it back: {back}"

    def of(
        self, result: PruneResult, target: Path, progress: Progress | None, *, sweeps: bool = True
    ) -> PruneResult:
        """The result with both networks measured; `target` is what was written.

        `sweeps` is whether the score against the rank is drawn too.
        """
        smaller = self._smaller(target)
        after, before = compare(
            smaller,
            self._model,
            self._task,
            paths=(target, self._checkpoint),
            progress=progress and (lambda done, total, _: progress(done, total, "score")),
        )
        samples = self._task.samples
        notes = (*result.notes, *(samples.notes if samples is not None else ()))
        wreck = self._wreck(before, after, target, within=result.budget is not None)
        result = replace(result, before=before, after=after, notes=notes, wreck=wreck)
        if self._pixels is not None:
            result = replace(result, warnings=(*result.warnings, f"{self._checkpoint.path}: {self._pixels}"))
        if self._certifies:
            result = replace(result, certificate=self._certificate(smaller, result, progress))
        analysis = self._analysis_of_the_model(result)
        if not sweeps or not analysis.analyzed:
            return result
        task = self._thinned(before, _SWEEP_POINTS * min(_SWEEP_LAYERS, len(analysis.analyzed)))
        swept = SweepTarget(self._model, analysis, task, path=result.source)
        sweep = sweep_rank(swept, points=_SWEEP_POINTS, progress=progress)
        if sweep.samples < before.score.samples:
            notes += (
                f"the sweep was asked of {sweep.samples:,} samples, of which the network as it is has "
                f"{sweep.metric.called(sweep.score)}; rmt-compress sweep asks all of them",
            )
        files = tuple(str(file) for file in write_sweep(sweep, _stem(target)))
        written = (*result.written, (f"{task.metric.name} against rank", files))
        return replace(result, notes=notes, written=written, sweep=sweep)

    def _certificate(self, smaller: nn.Module, result: PruneResult, progress: Progress | None) -> Certificate:
        """On so many samples as take some seconds."""
        samples = self._task.samples
        assert samples is not None
        # Every cut layer is measured alone too, in float64.
        runs = 3 + sum(decision.changes for decision in result.plan.layers)
        task = self._task.of(samples.thinned(affordable(self._model, self._task, ASKED / runs)))
        return certify(
            self._model,
            smaller,
            task,
            name=str(self._checkpoint.path),
            progress=progress and (lambda done, total, _: progress(done, total, "certificate")),
        )

    def _analysis_of_the_model(self, result: PruneResult) -> Analysis:
        """The file's analysis; of a class that has other names than its file (ViT in transformers 5) its own."""
        found = result.analysis
        names = {name for name, _ in self._model.named_parameters(remove_duplicate=False)}
        if found is not None and all(layer.layer.stored in names for layer in found.analyzed):
            return found
        settings = AnalysisSettings() if found is None else found.settings
        # Globs are of the file's names.
        own = analyze_with(self._model, replace(settings, include=(), exclude=(), treat_as=()))
        return file_names(self._model, self._checkpoint).analysis(own)

    def _thinned(self, measured: Evaluation, trials: int) -> Task:
        """The task on so many samples that the whole sweep takes less than half a minute."""
        task, samples = self._task, self._task.samples
        if samples is None or samples.count is None:
            return task
        size, milliseconds = list(measured.latency_ms.items())[-1]
        count = int(1000 * _SWEEP_SECONDS / (milliseconds / int(size)) / trials)
        return task.of(samples.thinned(min(samples.count, max(count, _LEAST_SAMPLES))))


def _stem(target: Path) -> Path:
    return target.with_name(f"{target.stem}.sweep")
