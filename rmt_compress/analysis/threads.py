"""In which order layers are analysed, several at once, and with how many threads each."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from rmt_compress.analysis.in_blocks import analyze_in_blocks
from rmt_compress.analysis.memory_budget import MemoryBudget, memory_budget
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
    work: Sequence[Layer],
    checkpoint: Checkpoint,
    settings: AnalysisSettings,
    jobs: int,
    *,
    budget: MemoryBudget | None = None,
    done: Container[str] = (),
) -> Iterator[tuple[Layer, LayerAnalysis]]:
    """Analyse layers, `jobs` at once, and yield each as it is done.

    A layer that is much larger than the others would keep the rest of the workers waiting. Such layers come
    first, one by one with all threads, or, where the others are enough to fill that time, the largest has its Gram
    matrix formed with all threads and its eigenvalues found beside the others. So do those that have no room in
    memory beside another.

    Args:
        work: the layers.
        checkpoint: what they are read from.
        settings: of the analysis.
        jobs: the most that are in work at once.
        budget: the memory they may take; None for that of no `max_memory`.
        done: tensors of the layers that are finished already. They count in the plan, so that the others go the way
            they would have gone beside them, to the last bit.
    """
    from rmt_compress.decomposition.blas_threads import blas_threads

    if budget is None:
        budget = memory_budget(work, checkpoint, settings, None)
    largest_first = sorted(work, key=lambda layer: sum(_work(layer)), reverse=True)
    large = [layer for layer in largest_first if budget.alone(layer)]
    work = [layer for layer in largest_first if not budget.alone(layer)]
    jobs = budget.at_once(work, jobs)
    run = partial(_analyze, checkpoint=checkpoint, settings=settings, in_blocks=budget.in_blocks)
    if not large and all(map(suits_numpy, work)):
        tasks = [(layer, partial(run, layer)) for layer in work if layer.tensor not in done]
        with blas_threads(1, scipy=settings.noise != "mp"):
            yield from _at_once(tasks, jobs, checkpoint)
        return
    import torch

    from rmt_compress.decomposition.kernels import TorchKernels

    threads = torch.get_num_threads()
    each = max(1, threads // jobs)
    alone, ahead = _plan([_work(layer) for layer in work], jobs, threads)
    one_by_one = [layer for layer in (*large, *work[:alone]) if layer.tensor not in done]
    together = [layer for layer in work[alone:] if layer.tensor not in done]
    following = dict(pairwise([*one_by_one, *together]))
    # With one thread for numpy's BLAS: OpenBLAS runs no two calls with several threads side by side.
    kernels = TorchKernels(numpy_from=0)
    try:
        with blas_threads(threads):
            for layer in one_by_one:
                if layer in following:
                    checkpoint.expect(following[layer].stored)
                yield layer, run(layer, kernels if threads == 1 else None)
            first = [
                (layer, _gram_ahead(layer, checkpoint, settings))
                for layer in together[:1]
                if ahead and layer is work[alone] and layer.tensor not in budget.in_blocks
            ]
        rest = [(layer, partial(run, layer, kernels)) for layer in together[len(first) :]]
        if first or rest:
            with blas_threads(1):
                # OpenMP, and torch with it, counts threads per thread.
                begin = partial(torch.set_num_threads, each)
                yield from _at_once([*first, *rest], jobs, checkpoint, begin)
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
    layer: Layer,
    kernels: TorchKernels | None = None,
    *,
    checkpoint: Checkpoint,
    settings: AnalysisSettings,
    in_blocks: Container[str] = (),
) -> LayerAnalysis:
    if layer.pair is not None:
        return analyze_pair(layer, layer.pair, checkpoint.read(layer.tensor), checkpoint.read(layer.pair.second))
    if layer.tensor in in_blocks:
        from rmt_compress.decomposition.kernels import TorchKernels

        return analyze_in_blocks(layer, checkpoint, settings, kernels or TorchKernels())
    if suits_numpy(layer):
        return analyze_layer(layer, checkpoint.weight_array(layer), settings, NumpyKernels())
    return analyze_layer(layer, checkpoint.weight(layer), settings, kernels)


def analyze_beside_others(layer: Layer, checkpoint: Checkpoint, settings: AnalysisSettings) -> LayerAnalysis:
    """Analyse one layer as those are that others are worked on beside; numpy's BLAS is to be kept to one thread."""
    if suits_numpy(layer):
        return _analyze(layer, checkpoint=checkpoint, settings=settings)
    from rmt_compress.decomposition.kernels import TorchKernels

    return _analyze(layer, TorchKernels(numpy_from=0), checkpoint=checkpoint, settings=settings)


def _gram_ahead(layer: Layer, checkpoint: Checkpoint, settings: AnalysisSettings) -> Callable[[], LayerAnalysis]:
    if KINDS[layer.kind].stacked or suits_numpy(layer):  # its Gram matrices are small ones
        return partial(_analyze, layer, checkpoint=checkpoint, settings=settings)
    tasks = [LayerTask(layer, checkpoint.weight(layer), settings)]
    tasks[0].form_gram()
    # Taken out of the list, the weight is given back as soon as its layer is done.
    return lambda: tasks.pop().finish()


def _at_once(
    tasks: Sequence[_Task], jobs: int, checkpoint: Checkpoint, begin: Callable[[], None] | None = None
) -> Iterator[tuple[Layer, LayerAnalysis]]:
    """Do tasks, `jobs` at once, and yield the result of each as it is done; `begin` is what a worker does first."""
    with ThreadPoolExecutor(jobs, initializer=begin) as pool:
        groups = list(_groups(tasks))
        # Each tells what whoever is free next is going to read.
        nexts = [*groups[jobs:], *[[]] * jobs]
        futures = [
            pool.submit(_one_by_one, group, coming, checkpoint)
            for group, coming in zip(groups, nexts, strict=False)
        ]
        try:
            for future in as_completed(futures):
                yield from future.result()
        finally:
            pool.shutdown(cancel_futures=True)


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


def _one_by_one(
    group: Sequence[_Task], coming: Sequence[_Task], checkpoint: Checkpoint
) -> list[tuple[Layer, LayerAnalysis]]:
    for layer, _ in coming:
        checkpoint.expect(layer.stored)
    return [(layer, analysis()) for layer, analysis in group]
