"""Analysing a checkpoint, several layers at once."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.analysis.memory_budget import memory_budget
from rmt_compress.analysis.records import Analysis, LayerAnalysis
from rmt_compress.analysis.run_settings import RunSettings
from rmt_compress.analysis.sent_layers import analyze_there, stays_on_device
from rmt_compress.analysis.settings import AnalysisSettings, Flips, Noise, Quantiles
from rmt_compress.analysis.threads import analyze_all, default_jobs
from rmt_compress.analysis.unfitted import SkippedLayer
from rmt_compress.errors import SettingsError
from rmt_compress.layers.layer import Layer
from rmt_compress.layers.treating import matches, treated
from rmt_compress.progress import PartOf, Progress, phase
from rmt_compress.wording import listed

if TYPE_CHECKING:
    import torch

    from rmt_compress.analysis.cluster import Scheduler
    from rmt_compress.analysis.finished import FinishedLayers
    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.checkpoints.opening import Source

_log = logging.getLogger(__name__)


def analyze(
    source: Source,
    *,
    alpha: float = AnalysisSettings.alpha,
    beta: float = AnalysisSettings.beta,
    gof: float = AnalysisSettings.gof,
    quantiles: Quantiles = AnalysisSettings.quantiles,
    noise: Noise = AnalysisSettings.noise,
    flips: Flips = AnalysisSettings.flips,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    min_size: int = AnalysisSettings.min_size,
    treat_as: Sequence[str] = (),
    embeddings: bool = False,
    exact: bool = False,
    jobs: int | None = None,
    device: str | torch.device | None = None,
    scheduler: Scheduler | None = None,
    max_memory: int | str | None = None,
    resume: str | PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Analysis:
    """Find signal and noise in every weight of a checkpoint.

    Args:
        source: a path, a state dict, an `nn.Module` or an open `Checkpoint`.
        alpha: see `AnalysisSettings`, as for all settings up to `exact`.
        beta: chance that pure noise shows a spike.
        gof: largest fit error of a layer that fits.
        quantiles: ``midpoint``, ``spiked`` or ``paper``.
        noise: ``mp``, ``equalized``, ``signflip``, ``general`` or ``all``.
        flips: ``upper`` or ``pairwise``.
        include: globs of layer names to analyse.
        exclude: globs of layer names to leave out.
        min_size: least min(rows, columns).
        treat_as: ``KIND:GLOB`` for layers whose kind nothing else tells.
        embeddings: analyse embedding tables too.
        exact: approximate no spectrum.
        jobs: see `RunSettings`, as for all up to `resume`.
        device: where large weights are decomposed.
        scheduler: of a Dask cluster whose workers analyse.
        max_memory: bytes the whole program may take, or a size such as ``"4GB"``.
        resume: a file that finished layers are kept in, for a run that goes on behind them.
        progress: called with (layers done, layers in all, name) after each layer, from the calling thread.

    Raises:
        CheckpointError: the source cannot be read.
        ClusterError: the scheduler does not answer, or its workers cannot do their part.
        OutputError: `resume` cannot be written, or is another file.
        SettingsError: a setting is out of range, a glob matches nothing, there is no such device, or a layer does
            not fit in `max_memory`.
    """
    settings = AnalysisSettings(
        alpha=alpha,
        beta=beta,
        gof=gof,
        quantiles=quantiles,
        noise=noise,
        flips=flips,
        include=tuple(include),
        exclude=tuple(exclude),
        min_size=min_size,
        treat_as=tuple(treat_as),
        embeddings=embeddings,
        exact=exact,
    )
    running = RunSettings(
        jobs=jobs,
        device=None if device is None else str(device),
        scheduler=scheduler,
        max_memory=max_memory,
        resume=None if resume is None else Path(resume),
    )
    return analyze_with(source, settings, running, progress=progress)


def analyze_with(
    source: Source,
    settings: AnalysisSettings,
    running: RunSettings | None = None,
    *,
    progress: Progress | None = None,
) -> Analysis:
    """`analyze`, its settings in two objects."""
    from rmt_compress.checkpoints import open_checkpoint
    from rmt_compress.checkpoints.free_memory import give_back_at_once
    from rmt_compress.checkpoints.moved import moved

    running = running or RunSettings()
    with open_checkpoint(source) as checkpoint:
        layers = treated(checkpoint.layers(), settings.treat_as)
        _check_globs(settings, layers)
        if running.max_memory is not None:
            give_back_at_once()
        with ExitStack() as stack:
            finished = None
            if running.resume is not None:
                from rmt_compress.analysis.finished import FinishedLayers

                finished = FinishedLayers(
                    running.resume, checkpoint, settings, running.device or "cpu", running.say or _log.info
                )
                stack.callback(finished.close)
            near = moved(checkpoint, running.device)
            results = _analyze_layers(near, layers, settings, running, finished, progress)
        return Analysis(
            path=None if checkpoint.path is None else str(checkpoint.path),
            format=checkpoint.format,
            notes=checkpoint.notes,
            settings=settings,
            layers=tuple(results),
            source=source,
        )


@phase("analysing")
def _analyze_layers(
    checkpoint: Checkpoint,
    layers: Sequence[Layer],
    settings: AnalysisSettings,
    running: RunSettings,
    finished: FinishedLayers | None,
    progress: Progress | None,
) -> list[LayerAnalysis]:
    results: dict[str, LayerAnalysis] = {}
    work = []
    for layer in layers:
        if (reason := _left_out(layer, settings)) is not None:
            results[layer.tensor] = SkippedLayer(layer, reason, left_out=True)
        elif (reason := layer.skip_reason(min_size=settings.min_size, embeddings=settings.embeddings)) is not None:
            results[layer.tensor] = SkippedLayer(layer, reason)
        else:
            work.append(layer)
    known = {} if finished is None else finished.known(work)
    results |= known
    found = _found(work, known, checkpoint, settings, running)
    sizes = {layer.tensor: layer.nbytes for layer in work}
    so_far, in_all = sum(sizes[tensor] for tensor in known), sum(sizes.values())
    if known and progress is not None:
        progress(len(known), len(work), PartOf("", so_far, in_all))
    for done, (layer, result) in enumerate(found, start=len(known) + 1):
        results[layer.tensor] = result
        if finished is not None:
            finished.add(result)
        so_far += sizes[layer.tensor]
        if progress is not None:
            progress(done, len(work), PartOf(layer.name, so_far, in_all))
    return [results[layer.tensor] for layer in layers]


def _found(
    work: Sequence[Layer],
    known: Container[str],
    checkpoint: Checkpoint,
    settings: AnalysisSettings,
    running: RunSettings,
) -> Iterator[tuple[Layer, LayerAnalysis]]:
    """The layers that are not known yet, as they are done, wherever that is."""
    from rmt_compress.checkpoints.moved import on_cpu

    if running.scheduler is not None:
        from rmt_compress.analysis.cluster import analyze_on_cluster

        unknown = [layer for layer in work if layer.tensor not in known]
        return analyze_on_cluster(unknown, checkpoint, settings, running.scheduler) if unknown else iter(())
    jobs = running.jobs or default_jobs()
    there = [layer for layer in work if stays_on_device(layer, checkpoint)]
    here = [layer for layer in work if not stays_on_device(layer, checkpoint)]
    budget = memory_budget(here, on_cpu(checkpoint), settings, running.most_bytes)
    unknown = [layer for layer in there if layer.tensor not in known]
    # Of no work not even torch is needed.
    return chain(
        analyze_there(unknown, checkpoint, settings, jobs) if unknown else (),
        analyze_all(here, on_cpu(checkpoint), settings, jobs, budget=budget, done=known)
        if any(layer.tensor not in known for layer in here)
        else (),
    )


def _left_out(layer: Layer, settings: AnalysisSettings) -> str | None:
    if settings.include and not any(matches(layer, glob) for glob in settings.include):
        return "not among the included layers"
    if any(matches(layer, glob) for glob in settings.exclude):
        return "excluded"
    return None


def _check_globs(settings: AnalysisSettings, layers: Sequence[Layer]) -> None:
    names = [layer.name for layer in layers if layer.kind != "vector"]
    known = listed(names)
    problems = [
        f"'{glob}' matches no layer; the layers are {known or 'none'}"
        for glob in (*settings.include, *settings.exclude)
        if not any(matches(layer, glob) for layer in layers)
    ]
    if problems:
        raise SettingsError(problems)
