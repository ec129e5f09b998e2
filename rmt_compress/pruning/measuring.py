"""What ``--data`` adds to `prune`: both networks measured, and accuracy against rank drawn beside the output."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.analysis import analyze
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.data import load_data
from rmt_compress.networks.batchnorm import fold_batchnorm
from rmt_compress.networks.evaluation import compare
from rmt_compress.networks.loading import load_model
from rmt_compress.reporting.sweep_files import check_sweep_outputs, write_sweep
from rmt_compress.saving.reloading import load
from rmt_compress.sweep import SweepTarget, sweep_rank

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.progress import Progress
    from rmt_compress.pruning.result import PruneResult

_SWEEP_SECONDS = 25.0
_SWEEP_POINTS = 8
_SWEEP_LAYERS = 6
_LEAST_SAMPLES = 300


def check_sweep(target: Path, *, source: Path, force: bool) -> None:
    """Refuse files of the sweep that would overwrite something."""
    check_sweep_outputs([_stem(target)], force=force, inputs=(source,))


class Measurement:
    """Data and network, opened before any work is done, so that a mistake is told at once.

    The arguments are those of `prune`; `folded` says whether batch norms are.
    """

    def __init__(self, checkpoint: Checkpoint, data: str, arch: str | None, *, folded: bool, trust: bool) -> None:
        self._dataset = load_data(data, split="test", allow_partial=True)
        self._arch = arch
        self._checkpoint = checkpoint
        self._trust = trust
        model = load_model(checkpoint, arch=arch)
        self._model = fold_batchnorm(model) if folded else model

    def _smaller(self, target: Path) -> nn.Module:
        original = self._checkpoint
        if self._arch is None and not original.has_graph and (own := original.own_network()) is not None:
            return load(target, own).eval()
        return load_model(open_checkpoint(target, trust=self._trust), arch=self._arch)

    def of(self, result: PruneResult, target: Path, progress: Progress | None) -> PruneResult:
        """The result with both networks measured, and accuracy against rank drawn; `target` is what was written."""
        after, before = compare(
            self._smaller(target),
            self._model,
            self._dataset,
            paths=(target, self._checkpoint),
            progress=progress and (lambda done, total, _: progress(done, total, "accuracy")),
        )
        result = replace(result, before=before, after=after, notes=(*result.notes, *self._dataset.notes))
        analysis = result.analysis or analyze(self._model)
        if not analysis.analyzed:
            return result
        # So many samples that the whole sweep takes less than half a minute.
        trials = _SWEEP_POINTS * min(_SWEEP_LAYERS, len(analysis.analyzed))
        samples = int(1000 * _SWEEP_SECONDS / (before.latency_ms["128"] / 128) / trials)
        dataset = self._dataset.thinned(max(samples, _LEAST_SAMPLES))
        swept = SweepTarget(self._model, analysis, dataset, path=result.source)
        sweep = sweep_rank(swept, points=_SWEEP_POINTS, progress=progress)
        notes = result.notes
        if len(dataset) < len(self._dataset):
            notes += (
                f"accuracy against rank was asked of {len(dataset):,} samples, of which the network as it is "
                f"gets {sweep.accuracy:.2%} right; rmt-compress sweep asks all of them",
            )
        files = tuple(str(file) for file in write_sweep(sweep, _stem(target)))
        return replace(result, notes=notes, written=(*result.written, ("accuracy against rank", files)))


def _stem(target: Path) -> Path:
    return target.with_name(f"{target.stem}.sweep")
