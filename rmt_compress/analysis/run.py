"""Analysing a checkpoint, several layers at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatchcase
from itertools import chain
from typing import TYPE_CHECKING

from rmt_compress import spectrum
from rmt_compress.analysis.records import Analysis, AnalysisSettings, LayerAnalysis
from rmt_compress.errors import SettingsError
from rmt_compress.layers.matrix_view import DEFAULT_MIN_SIZE, Layer, as_matrix
from rmt_compress.layers.pairs import effective_rank, pair_singular_values

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.checkpoints.opening import Source

Progress = Callable[[int, int, str], None]

# Every job holds a tensor and its Gram matrix: on a machine of many cores memory would go before time is won.
MOST_JOBS = 8


def analyze(
    source: Source,
    *,
    alpha: float = 0.25,
    beta: float = 0.1,
    gof: float = 0.1,
    quantiles: spectrum.QuantileRule = "midpoint",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    min_size: int = DEFAULT_MIN_SIZE,
    embeddings: bool = False,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Analysis:
    """Find signal and noise in every weight of a checkpoint.

    Args:
        source: a path, a state dict, an `nn.Module` or an open `Checkpoint`.
        alpha: see `AnalysisSettings`, as for all settings up to `embeddings`.
        beta: chance that pure noise shows a spike.
        gof: largest fit error of a layer that fits.
        quantiles: ``midpoint`` or ``paper``.
        include: globs of layer names to analyse.
        exclude: globs of layer names to leave out.
        min_size: least min(rows, columns).
        embeddings: analyse embedding tables too.
        jobs: layers worked on at once; None for one per core, at most 8. Each holds one tensor
            in memory.
        progress: called with (layers done, layers in all, name) after each layer, from the calling thread.

    Raises:
        CheckpointError: the source cannot be read.
        SettingsError: a setting is out of range, or a glob matches nothing.
    """
    from rmt_compress.checkpoints import open_checkpoint

    settings = AnalysisSettings(
        alpha=alpha,
        beta=beta,
        gof=gof,
        quantiles=quantiles,
        include=tuple(include),
        exclude=tuple(exclude),
        min_size=min_size,
        embeddings=embeddings,
    )
    with open_checkpoint(source) as checkpoint:
        layers = checkpoint.layers()
        _check_globs(settings, layers)
        results = _analyze_layers(checkpoint, layers, settings, jobs or min(_cores(), MOST_JOBS), progress)
        return Analysis(
            path=None if checkpoint.path is None else str(checkpoint.path),
            format=checkpoint.format,
            notes=checkpoint.notes,
            settings=settings,
            layers=tuple(results),
        )


def analyze_layer(layer: Layer, weight: torch.Tensor, settings: AnalysisSettings) -> LayerAnalysis:
    """Analyse one weight that is already in memory, of the layer's shape, on any device."""
    from rmt_compress.layers.torch_kernels import TorchKernels

    try:
        values = spectrum.singular_values(as_matrix(layer, weight), TorchKernels(), alpha=settings.alpha)
        rows, columns = layer.matrix or (0, 0)
        n = max(rows, columns)
        fit = spectrum.fit_bulk(
            values**2 / n, n, alpha=settings.alpha, beta=settings.beta, quantiles=settings.quantiles
        )
    except spectrum.NonFiniteError:
        bad = int((~weight.isfinite()).sum())
        return LayerAnalysis(layer, reason=f"{bad:,} of its entries are NaN or Inf", finite=False)
    except spectrum.DegenerateSpectrumError as error:
        return LayerAnalysis(layer, reason=str(error))
    return LayerAnalysis(layer, fit=fit, singular_values=values, settings=settings)


def analyze_pair(layer: Layer, down: torch.Tensor, up: torch.Tensor) -> LayerAnalysis:
    """What can be said of a product of two factors: how many of its directions it uses; it has no bulk to fit."""
    try:
        values = pair_singular_values(down, up)
    except spectrum.NonFiniteError:
        bad = sum(int((~factor.isfinite()).sum()) for factor in (down, up))
        return LayerAnalysis(layer, reason=f"{bad:,} of its factors' entries are NaN or Inf", finite=False)
    rows, columns = layer.matrix or (0, 0)
    reason = (
        f"already factorized: rank {len(values)} of {rows}×{columns}, effective rank {effective_rank(values):.3g}"
    )
    if not values[0]:
        reason = f"already factorized: rank {len(values)} of {rows}×{columns}, but the product is zero"
    return LayerAnalysis(layer, reason=reason, singular_values=values)


def _analyze_one(layer: Layer, checkpoint: Checkpoint, settings: AnalysisSettings) -> LayerAnalysis:
    if layer.pair is not None:
        return analyze_pair(layer, checkpoint.read(layer.tensor), checkpoint.read(layer.pair.second))
    return analyze_layer(layer, checkpoint.weight(layer), settings)


def _analyze_layers(
    checkpoint: Checkpoint,
    layers: Sequence[Layer],
    settings: AnalysisSettings,
    jobs: int,
    progress: Progress | None,
) -> list[LayerAnalysis]:
    results: dict[str, LayerAnalysis] = {}
    work = []
    for layer in layers:
        if (reason := _left_out(layer, settings)) is not None:
            results[layer.tensor] = LayerAnalysis(layer, reason=reason, left_out=True)
        elif (reason := layer.skip_reason(min_size=settings.min_size, embeddings=settings.embeddings)) is not None:
            results[layer.tensor] = LayerAnalysis(layer, reason=reason)
        else:
            work.append(layer)
    if not work:
        return [results[layer.tensor] for layer in layers]

    import torch

    # The largest first, so that no long layer is left for the end. One that outweighs its share of all work would
    # keep the other workers waiting: such layers come one by one, each with all threads.
    work.sort(key=_cost, reverse=True)
    remaining, large = sum(map(_cost, work)), 0
    while large < len(work) and (jobs == 1 or _cost(work[large]) * jobs > remaining):
        remaining -= _cost(work[large])
        large += 1
    threads = torch.get_num_threads()
    try:
        finished = chain(
            _in_turn(work[:large], checkpoint, settings), _at_once(work[large:], checkpoint, settings, jobs)
        )
        for done, (layer, result) in enumerate(finished, start=1):
            results[layer.tensor] = result
            if progress is not None:
                progress(done, len(work), layer.name)
    finally:
        torch.set_num_threads(threads)
    return [results[layer.tensor] for layer in layers]


def _cost(layer: Layer) -> float:
    """Multiply-adds of Gram matrix and eigenvalues, about."""
    rows, columns = layer.matrix or (1, 1)
    if layer.pair is not None:  # two QR decompositions
        return 2 * layer.shape[0] ** 2 * (rows + columns)
    p, n = min(rows, columns), max(rows, columns)
    return p**2 * n + 4 / 3 * p**3


def _in_turn(
    work: Sequence[Layer], checkpoint: Checkpoint, settings: AnalysisSettings
) -> Iterator[tuple[Layer, LayerAnalysis]]:
    for layer in work:
        yield layer, _analyze_one(layer, checkpoint, settings)


def _at_once(
    work: Sequence[Layer], checkpoint: Checkpoint, settings: AnalysisSettings, jobs: int
) -> Iterator[tuple[Layer, LayerAnalysis]]:
    if not work:
        return
    import torch

    # As many BLAS threads in all as torch would use for one layer: OpenMP counts them per thread.
    threads = max(1, torch.get_num_threads() // jobs)
    with ThreadPoolExecutor(jobs, initializer=torch.set_num_threads, initargs=(threads,)) as pool:

        def one(layer: Layer) -> LayerAnalysis:
            return _analyze_one(layer, checkpoint, settings)

        futures = {pool.submit(one, layer): layer for layer in work}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _left_out(layer: Layer, settings: AnalysisSettings) -> str | None:
    if settings.include and not any(_matches(layer, glob) for glob in settings.include):
        return "not among the included layers"
    if any(_matches(layer, glob) for glob in settings.exclude):
        return "excluded"
    return None


def _matches(layer: Layer, glob: str) -> bool:
    # A name may have brackets in it (in_proj_weight[q]), which a glob reads as a choice of characters.
    return any(name == glob or fnmatchcase(name, glob) for name in (layer.name, layer.tensor, *layer.aliases))


def _check_globs(settings: AnalysisSettings, layers: Sequence[Layer]) -> None:
    names = [layer.name for layer in layers if layer.kind != "vector"]
    listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    problems = [
        f"'{glob}' matches no layer; the layers are {listed or 'none'}"
        for glob in (*settings.include, *settings.exclude)
        if not any(_matches(layer, glob) for layer in layers)
    ]
    if problems:
        raise SettingsError(problems)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
