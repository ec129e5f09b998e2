"""From one checkpoint to a smaller file."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.analysis import AnalysisSettings, analyze
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.graph import GraphCheckpoint
from rmt_compress.checkpoints.keys import SUFFIXES, TORCH_SUFFIXES
from rmt_compress.checkpoints.writers import check_suffix
from rmt_compress.compression import LayerOutcome
from rmt_compress.compression.checking import check_plan
from rmt_compress.errors import CheckpointError, OutputError, SettingsError
from rmt_compress.networks.evaluation import file_size
from rmt_compress.outputs import check_output, replacing
from rmt_compress.plan import Plan
from rmt_compress.planning.making import make_plan
from rmt_compress.planning.settings import PlanSettings
from rmt_compress.progress import Progress
from rmt_compress.pruning.result import PruneResult
from rmt_compress.saving.folders import CONFIG, check_folder_output, is_folder_output, source_folder, write_folder
from rmt_compress.saving.writing import write_compressed
from rmt_compress.wording import printable

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.checkpoints.beside import Carried
    from rmt_compress.plan import Layout


_SWEEP_SECONDS = 25.0
_SWEEP_POINTS = 8
_SWEEP_LAYERS = 6
_LEAST_SAMPLES = 300


def default_output(source: Path) -> Path:
    """The source's name with ``.pruned`` before its suffix.

    Of a folder or an index it lies beside the folder: a safetensors file, or where the folder is a Hugging Face
    model, with a ``config.json``, another folder, ``…-pruned``.
    """
    if (folder := source_folder(source)) is not None:
        folder = folder.resolve()
        name = f"{folder.name}-pruned" if (folder / CONFIG).is_file() else f"{folder.name}.pruned.safetensors"
        return folder.parent / name
    return source.with_name(f"{source.stem}.pruned{source.suffix}")


def prune(
    source: str | Path,
    output: str | Path | None = None,
    *,
    analysis: AnalysisSettings | None = None,
    plan: PlanSettings | Plan | None = None,
    layout: Layout = "factorized",
    save_plan: Path | None = None,
    data: str | None = None,
    arch: str | None = None,
    fold_batchnorm: bool = False,
    trust: bool = False,
    weights: str | None = None,
    carry_over: bool = False,
    dry_run: bool = False,
    force: bool = False,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> PruneResult:
    """Cut the noise out of a checkpoint and write a smaller one.

    Everything that can be refused is refused before the first weight is read.

    Args:
        source: the checkpoint.
        output: the file to write, or, of a folder, the folder; None for `default_output`.
        analysis: settings of the analysis.
        plan: how to decide, or decisions ready to be carried out, in which case nothing is analysed.
        layout: ``factorized`` or ``dense``.
        save_plan: where to write the plan as JSON.
        data: a data set to measure accuracy before and after on; also draws accuracy against the weights kept.
        arch: the network, where the file does not say; needed with `data` and `fold_batchnorm` only.
        fold_batchnorm: judge and cut weights with the scale of the batch norm behind them; see `batchnorm`.
        trust: see `open_checkpoint`.
        weights: see `open_checkpoint`.
        carry_over: whether to write what else a training checkpoint holds into the output too (`.pt` and its like).
        dry_run: decide, write nothing but the plan.
        force: overwrite outputs.
        jobs: layers analysed at once.
        progress: called with (done, total, name) while analysing and while writing.

    Raises:
        RmtCompressError: bad input, a plan that does not suit, an output that must not or cannot be written.
    """
    path = Path(source)
    with open_checkpoint(path, trust=trust, weights=weights) as opened:
        graph = opened if isinstance(opened, GraphCheckpoint) else None
        target = default_output(path) if output is None else Path(output)
        to_folder = is_folder_output(path, target)
        if output is None and graph is not None and not graph.holds(layout) and target.suffix not in SUFFIXES:
            target = target.with_suffix(".safetensors")
        if opened.manifest is not None:
            again = f", or multiply the factors again first: rmt-compress export {path} -o dense{path.suffix}"
            raise CheckpointError(f"{path}: is compressed already; prune the original{'' if graph else again}")
        checkpoint = _folded(opened, arch) if fold_batchnorm else opened
        if not dry_run and to_folder:
            check_folder_output(path, target, force=force)
        elif not dry_run:
            if graph is None or not graph.writes_own_format(target, layout):
                check_suffix(target)
                if graph is not None and data is not None:
                    alone = "a state dict does not run by itself; leave out --data, or add --layout dense"
                    raise SettingsError([f"{target}: {alone}"])
            check_output(target, force=force, inputs=checkpoint.files)
        if save_plan is not None:
            check_output(save_plan, force=force, inputs=checkpoint.files)
        carried = _carried(opened, target) if carry_over else None
        measure = (
            None
            if data is None
            else _Measurement(opened, path, target, data, arch, folded=fold_batchnorm, trust=trust, force=force)
        )
        result = _plan(checkpoint, path, analysis or AnalysisSettings(), plan, jobs, progress)
        if save_plan is not None:
            with replacing(save_plan) as temporary:
                temporary.write_text(result.plan.to_json(), encoding="utf-8")
            result = replace(result, written=(("plan", (str(save_plan),)),))
        if dry_run or not result.changes:
            return result
        outcomes: list[LayerOutcome] = []
        beside = carried.entries if carried else None
        write = partial(write_folder, source=path) if to_folder else partial(write_compressed, carried=beside)
        file = write(
            checkpoint,
            result.plan,
            target,
            layout=layout,
            architecture=arch,
            outcomes=outcomes,
            progress=progress,
        )
    result = replace(
        result,
        output=str(target),
        outcomes=tuple(outcomes),
        bytes_out=file.bytes,
        notes=(*result.notes, *file.notes, *(_carried_notes(carried) if carried else ())),
    )
    return result if measure is None else measure.of(result, progress)


def _carried(checkpoint: Checkpoint, target: Path) -> Carried:
    """What the file holds beside its weights.

    Raises:
        OutputError: the output cannot hold it.
    """
    if target.suffix not in TORCH_SUFFIXES or isinstance(checkpoint, GraphCheckpoint):
        raise OutputError(f"{target}: only a .pt, .pth, .bin or .ckpt file has room for more than weights")
    return checkpoint.carried()


def _carried_notes(carried: Carried) -> list[str]:
    notes = [f"carried over as it was: {', '.join(carried.entries) or 'nothing'}"]
    notes += [f"{name} was left out: {why}" for name, why in carried.left]
    return [printable(note) for note in notes]


def _plan(
    checkpoint: Checkpoint,
    path: Path,
    settings: AnalysisSettings,
    plan: PlanSettings | Plan | None,
    jobs: int | None,
    progress: Progress | None,
) -> PruneResult:
    analysis = None
    if isinstance(plan, Plan):
        check_plan(plan, checkpoint.layers())
    else:
        analysis = analyze(checkpoint, **asdict(settings), jobs=jobs, progress=progress)
        plan = make_plan(analysis, **asdict(plan or PlanSettings(gof=settings.gof)))
    return PruneResult(
        source=str(path),
        output=None,
        analysis=analysis,
        plan=plan,
        outcomes=(),
        notes=checkpoint.notes,
        bytes_in=file_size(checkpoint),
    )


def _folded(checkpoint: Checkpoint, arch: str | None) -> Checkpoint:
    from rmt_compress.networks.batchnorm import FoldedCheckpoint
    from rmt_compress.networks.loading import load_model

    if isinstance(checkpoint, GraphCheckpoint):
        raise SettingsError(
            [f"{checkpoint.path}: carries its own graph; --fold-batchnorm is for state dicts of a known network"]
        )
    return FoldedCheckpoint(checkpoint, load_model(checkpoint, arch=arch))


class _Measurement:
    """What ``--data`` adds; data and network are opened first, so that a mistake is told before any work."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        source: Path,
        target: Path,
        data: str,
        arch: str | None,
        *,
        folded: bool,
        trust: bool,
        force: bool,
    ) -> None:
        from rmt_compress.data import load_data
        from rmt_compress.networks.batchnorm import fold_batchnorm
        from rmt_compress.networks.loading import load_model
        from rmt_compress.reporting.sweep_files import check_sweep_outputs

        self.stem = target.with_name(f"{target.stem}.sweep")
        check_sweep_outputs([self.stem], force=force, inputs=(source,))
        self.dataset = load_data(data, split="test", allow_partial=True)
        self.arch = arch
        self.checkpoint = checkpoint
        self.trust = trust
        model = load_model(checkpoint, arch=arch)
        self.model = fold_batchnorm(model) if folded else model

    def _smaller(self, output: str) -> nn.Module:
        from rmt_compress.checkpoints.pytorch.pickled_modules import PickledModuleFile
        from rmt_compress.networks.loading import load_model
        from rmt_compress.saving.loading import load

        if self.arch is None and isinstance(self.checkpoint, PickledModuleFile):
            return load(output, load_model(self.checkpoint)).eval()
        return load_model(open_checkpoint(output, trust=self.trust), arch=self.arch)

    def of(self, result: PruneResult, progress: Progress | None) -> PruneResult:
        """The result with both networks measured, and accuracy against rank drawn beside the output."""
        from rmt_compress.networks.evaluation import compare
        from rmt_compress.reporting.sweep_files import write_sweep
        from rmt_compress.sweep import SweepTarget, sweep_rank

        assert result.output is not None
        smaller = self._smaller(result.output)
        after, before = compare(
            smaller,
            self.model,
            self.dataset,
            paths=(result.output, self.checkpoint),
            progress=progress and (lambda done, total, _: progress(done, total, "accuracy")),
        )
        written = result.written
        analysis = result.analysis or analyze(self.model)
        notes = [*result.notes, *self.dataset.notes]
        if analysis.analyzed:
            # So many samples that the whole sweep takes less than half a minute.
            trials = _SWEEP_POINTS * min(_SWEEP_LAYERS, len(analysis.analyzed))
            samples = int(1000 * _SWEEP_SECONDS / (before.latency_ms["128"] / 128) / trials)
            dataset = self.dataset.thinned(max(samples, _LEAST_SAMPLES))
            target = SweepTarget(self.model, analysis, dataset, path=result.source)
            sweep = sweep_rank(target, points=_SWEEP_POINTS, progress=progress)
            if len(dataset) < len(self.dataset):
                notes.append(
                    f"accuracy against rank was asked of {len(dataset):,} samples, of which the network as it is "
                    f"gets {sweep.accuracy:.2%} right; rmt-compress sweep asks all of them"
                )
            files = write_sweep(sweep, self.stem)
            written = (*written, ("accuracy against rank", tuple(str(file) for file in files)))
        return replace(result, before=before, after=after, notes=tuple(notes), written=written)
