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
from rmt_compress.analysis.sent_layers import analyze_there, stays_on_device
from rmt_compress.analysis.settings import AnalysisSettings, Flips, Noise, Quantiles
from rmt_compress.analysis.threads import analyze_all, default_jobs
from rmt_compress.analysis.unfitted import SkippedLayer
from rmt_compress.errors import SettingsError
from rmt_compress.layers.layer import Layer
from rmt_compress.layers.treating import matches, treated
from rmt_compress.progress import PartOf, Progress, phase
from rmt_compress.settings.sizes import bytes_in
from rmt_compress.wording import listed

if TYPE_CHECKING:
    import torch

    from rmt_compress.analysis.cluster import Scheduler
    from rmt_compress.analysis.finished import FinishedLayers
    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.checkpoints.journal import Say
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
        jobs: layers worked on at once; None for one per core, at most 8, and no more than fit in memory
            together.
        device: where large weights are decomposed: each is read, copied there and given up again; None: where it
            is, a file's on the CPU. Those of min(rows, columns) below 768 are on the CPU in any case.
        scheduler: address, scheduler file or client of a Dask cluster, whose workers then read and analyse the
            layers of a file; they need to see it under the same path.
        max_memory: bytes the whole program may take, or a size such as ``"4GB"``; layers that do not fit are read
            in blocks. None: see `rmt_compress.analysis.memory_budget`.
        resume: a file that finished layers are kept in; an interrupted analysis goes on behind those that stand
            there.
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
    return analyze_with(
        source,
        settings,
        jobs=jobs,
        device=device,
        scheduler=scheduler,
        max_memory=max_memory,
        resume=resume,
        progress=progress,
    )


def analyze_with(
    source: Source,
    settings: AnalysisSettings,
    *,
    jobs: int | None = None,
    device: str | torch.device | None = None,
    scheduler: Scheduler | None = None,
    max_memory: int | str | None = None,
    resume: str | PathLike[str] | None = None,
    say: Say | None = None,
    progress: Progress | None = None,
) -> Analysis:
    """`analyze`, its settings in one object; `say` is told what was found in `resume`, in one sentence."""
    from rmt_compress.checkpoints import open_checkpoint
    from rmt_compress.checkpoints.free_memory import give_back_at_once
    from rmt_compress.checkpoints.moved import moved

    if scheduler is not None:
        _check_scheduled(jobs, device, max_memory)
    with open_checkpoint(source) as checkpoint:
        layers = treated(checkpoint.layers(), settings.treat_as)
        _check_globs(settings, layers)
        most = None if max_memory is None else bytes_in(max_memory, "max-memory")
        if most is not None:
            give_back_at_once()
        with ExitStack() as stack:
            finished = None
            if resume is not None:
                from rmt_compress.analysis.finished import FinishedLayers

                finished = FinishedLayers(
                    Path(resume), checkpoint, settings, str(device or "cpu"), say or _log.info
                )
                stack.callback(finished.close)
            results = _analyze_layers(
                moved(checkpoint, device), layers, settings, jobs, scheduler, most, finished, progress
            )
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
    jobs: int | None,
    scheduler: Scheduler | None,
    max_memory: int | None,
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
    found = _found(work, known, checkpoint, settings, jobs, scheduler, max_memory)
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
    jobs: int | None,
    scheduler: Scheduler | None,
    max_memory: int | None,
) -> Iterator[tuple[Layer, LayerAnalysis]]:
    """The layers that are not known yet, as they are done, wherever that is."""
    from rmt_compress.checkpoints.moved import on_cpu

    if scheduler is not None:
        from rmt_compress.analysis.cluster import analyze_on_cluster

        unknown = [layer for layer in work if layer.tensor not in known]
        return analyze_on_cluster(unknown, checkpoint, settings, scheduler) if unknown else iter(())
    jobs = jobs or default_jobs()
    there = [layer for layer in work if stays_on_device(layer, checkpoint)]
    here = [layer for layer in work if not stays_on_device(layer, checkpoint)]
    budget = memory_budget(here, on_cpu(checkpoint), settings, max_memory)
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


def _check_scheduled(jobs: int | None, device: str | torch.device | None, max_memory: int | str | None) -> None:
    problems = []
    if jobs is not None:
        problems.append(
            "jobs is for this machine: with a scheduler its workers have the threads they were started with"
        )
    if max_memory is not None:
        problems.append("max-memory is for this machine: that of a worker is given when it is started")
    if device is not None and str(device) != "cpu":
        problems.append(f"device {device} is for this machine: the workers of a scheduler compute on their CPUs")
    if problems:
        raise SettingsError(problems)


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
