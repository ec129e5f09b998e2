"""In which order layers are analysed, several at once, and with how many threads each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from rmt_compress.analysis.one_layer import LayerTask, analyze_layer, analyze_pair
from rmt_compress.analysis.records import LayerAnalysis
from rmt_compress.analysis.settings import AnalysisSettings
from rmt_compress.analysis.without_torch import suits_numpy
from rmt_compress.layers.kinds import KINDS
from rmt_compress.layers.layer import Layer
from rmt_compress.spectrum import NumpyKernels

if TYPE_CHECKING:
    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.decomposition.kernels import TorchKernels

# Every job holds a tensor and its Gram matrix: on a machine of many cores memory would go before time is won.
MOST_JOBS = 8

# What t threads are worth for the eigenvalues of one matrix: t^0.4, 1.3 for two. Half of a tridiagonal reduction
# waits for memory: two threads were measured at 1.3 to 1.6, the less right behind a Gram matrix, whose threads
# still spin. For the Gram matrix itself they are worth nearly t.
_EIGENVALUE_THREADS = 0.4

# What a worker is given at a time, in the units of `_Work`: some 4 ms. Given 200 layers of 128 × 256 one by one,
# the workers and the thread that waits for them took a tenth more. Never more than eight layers: of tiny ones the
# reading, which is not in the units, takes longer than the work.
_LEAST_WORK = 1e8
_MOST_TOGETHER = 8

_Task = tuple[Layer, Callable[[], LayerAnalysis]]


class _Work(NamedTuple):
    """What one layer takes on one thread, in units of about the time of a multiplication and an addition."""

    gram: float
    eigenvalues: float

    def time(self, gram_threads: int, threads: int) -> float:
        return self.gram / gram_threads + self.eigenvalues / float(threads**_EIGENVALUE_THREADS)


def default_jobs() -> int:
    """One for each core, at most `MOST_JOBS`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_JOBS)


def analyze_all(
    work: Sequence[Layer], checkpoint: Checkpoint, settings: AnalysisSettings, jobs: int
) -> Iterator[tuple[Layer, LayerAnalysis]]:
    """Analyse layers, `jobs` at once, and yield each as it is done.

    A layer that is much larger than the others would keep the rest of the workers waiting. Such layers come
    first, one by one with all threads, or, where the others are enough to fill that time, the largest has its Gram
    matrix formed with all threads and its eigenvalues found beside the others.
    """
    from rmt_compress.decomposition.blas_threads import blas_threads

    work = sorted(work, key=lambda layer: sum(_work(layer)), reverse=True)
    if all(map(suits_numpy, work)):
        with blas_threads(1, scipy=settings.noise != "mp"):
            yield from _at_once([(layer, partial(_analyze, layer, checkpoint, settings)) for layer in work], jobs)
        return
    import torch

    from rmt_compress.decomposition.kernels import TorchKernels

    threads = torch.get_num_threads()
    each = max(1, threads // jobs)
    alone, ahead = _plan([_work(layer) for layer in work], jobs, threads)
    try:
        with blas_threads(threads):
            for layer in work[:alone]:
                yield layer, _analyze(layer, checkpoint, settings)
            first = [(layer, _gram_ahead(layer, checkpoint, settings)) for layer in work[alone : alone + ahead]]
        # One thread for numpy's BLAS: OpenBLAS runs no two calls with several threads side by side.
        kernels = TorchKernels(numpy_from=0)
        rest = [(layer, partial(_analyze, layer, checkpoint, settings, kernels)) for layer in work[alone + ahead :]]
        if first or rest:
            with blas_threads(1):
                # OpenMP, and torch with it, counts threads per thread.
                yield from _at_once([*first, *rest], jobs, partial(torch.set_num_threads, each))
    finally:
        torch.set_num_threads(threads)


def _plan(work: Sequence[_Work], jobs: int, threads: int) -> tuple[int, bool]:
    """How many layers, the largest first, to analyse alone, and whether to form the next Gram matrix ahead."""
    if jobs == 1:
        return len(work), False
    each = max(1, threads // jobs)

    def plan_from(alone: int) -> tuple[float, int, bool]:
        before = sum(layer.time(threads, threads) for layer in work[:alone])
        times = [layer.time(1, each) for layer in work[alone:]]
        if not times:
            return before, alone, False
        together = max(times[0], sum(times) / jobs)
        gram, first = work[alone].gram, times[0] - work[alone].gram
        ahead = gram / threads + max(first, (sum(times) - gram) / jobs)
        # It costs memory, so it has to be worth something.
        return before + min(together, ahead), alone, ahead < 0.98 * together

    # No more than some layers can each be much larger than all that follow.
    _, alone, ahead = min(plan_from(alone) for alone in range(min(len(work), 4 * jobs) + 1))
    return alone, ahead


def _work(layer: Layer) -> _Work:
    rows, columns = layer.matrix or (1, 1)
    if layer.pair is not None:  # two QR decompositions
        return _Work(0, 2 * layer.shape[0] ** 2 * (rows + columns))
    stacked = layer.matrices
    p, n = min(rows, columns), max(rows, columns)
    # Half of a product of p·p·n. The 4/3·p³ of a tridiagonal reduction run at a fraction of a product's speed, its
    # eigenvalues take some p² slow steps more; 500·p² suits what was measured for p from 128 to 3000.
    return _Work(stacked * p**2 * n / 2, stacked * (4 / 3 * p**3 + 500 * p**2))


def _analyze(
    layer: Layer, checkpoint: Checkpoint, settings: AnalysisSettings, kernels: TorchKernels | None = None
) -> LayerAnalysis:
    if layer.pair is not None:
        return analyze_pair(layer, layer.pair, checkpoint.read(layer.tensor), checkpoint.read(layer.pair.second))
    if suits_numpy(layer):
        return analyze_layer(layer, checkpoint.weight_array(layer), settings, NumpyKernels())
    return analyze_layer(layer, checkpoint.weight(layer), settings, kernels)


def _gram_ahead(layer: Layer, checkpoint: Checkpoint, settings: AnalysisSettings) -> Callable[[], LayerAnalysis]:
    if KINDS[layer.kind].stacked or suits_numpy(layer):  # its Gram matrices are small ones
        return partial(_analyze, layer, checkpoint, settings)
    tasks = [LayerTask(layer, checkpoint.weight(layer), settings)]
    tasks[0].form_gram()
    # Taken out of the list, the weight is given back as soon as its layer is done.
    return lambda: tasks.pop().finish()


def _at_once(
    tasks: Sequence[_Task], jobs: int, begin: Callable[[], None] | None = None
) -> Iterator[tuple[Layer, LayerAnalysis]]:
    """Do tasks, `jobs` at once, and yield the result of each as it is done; `begin` is what a worker does first."""
    with ThreadPoolExecutor(jobs, initializer=begin) as pool:
        futures = [pool.submit(_one_by_one, group) for group in _groups(tasks)]
        try:
            for future in as_completed(futures):
                yield from future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _groups(tasks: Sequence[_Task]) -> Iterator[list[_Task]]:
    """Tasks in their order, so many together that handing them to a worker costs little beside their work."""
    group: list[_Task] = []
    for task in tasks:
        group.append(task)
        if len(group) == _MOST_TOGETHER or sum(sum(_work(layer)) for layer, _ in group) >= _LEAST_WORK:
            yield group
            group = []
    if group:
        yield group


def _one_by_one(group: Sequence[_Task]) -> list[tuple[Layer, LayerAnalysis]]:
    return [(layer, analysis()) for layer, analysis in group]
