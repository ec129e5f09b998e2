"""Analysing large layers on devices: one reads the next there while others are worked on.

A thread of its own reads the layer that comes next, whose copy goes beside what is computed, and the noise of one
layer is fitted on the CPU while the device is at another. Layers that a device gains nothing for are left to the
CPU's workers, `rmt_compress.analysis.threads`, wherever their weights are. Several devices go through their layers
side by side.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from threading import Event
from typing import TYPE_CHECKING

from rmt_compress.analysis.one_layer import analyze_layer
from rmt_compress.analysis.records import LayerAnalysis
from rmt_compress.analysis.settings import AnalysisSettings
from rmt_compress.layers.layer import Layer

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints.base import Checkpoint

_Done = tuple[Layer, LayerAnalysis]

# Layers that are worked on at once: while the noise of one is fitted the device has another. Each is in its memory,
# beside the one that comes next.
_AT_ONCE = 2


class _Read:
    """A weight on its device, or on the way there."""

    def __init__(self, layer: Layer, checkpoint: Checkpoint) -> None:
        import torch

        device = torch.device(checkpoint.place(layer.stored))
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
        with torch.cuda.stream(self._stream):
            self._weight = checkpoint.weight(layer)

    def weight(self) -> torch.Tensor:
        """The weight; what the calling thread does next waits for its copy."""
        import torch

        if self._stream is not None:
            here = torch.cuda.current_stream(self._stream.device)
            here.wait_stream(self._stream)
            self._weight.record_stream(here)
        return self._weight


def stays_on_device(layer: Layer, checkpoint: Checkpoint) -> bool:
    """Whether a layer is analysed on another device than the CPU: its weight is read onto one, and large enough."""
    if checkpoint.place(layer.stored) == "cpu" or layer.pair is not None or layer.matrix is None:
        return False
    from rmt_compress.decomposition.devices import worth_sending

    return worth_sending(*layer.matrix, directions=False)


def analyze_there(
    work: Sequence[Layer], checkpoint: Checkpoint, settings: AnalysisSettings, jobs: int
) -> Iterator[_Done]:
    """Analyse layers where their weights are read to, the largest first, and yield each as it is done.

    Args:
        work: the layers, none of them a product of two factors.
        checkpoint: what they are read from.
        settings: of the analysis.
        jobs: the most that are worked on at once, on each device.
    """
    shares: dict[str, list[Layer]] = {}
    for layer in sorted(work, key=lambda layer: -layer.parameters):
        shares.setdefault(checkpoint.place(layer.stored), []).append(layer)
    _settle(shares)
    found = [partial(_on_one, share, checkpoint, settings, jobs) for share in shares.values()]
    return found[0]() if len(found) == 1 else _beside(found)


def _beside(shares: Sequence[Callable[[], Iterator[_Done]]]) -> Iterator[_Done]:
    """What some iterators give, each run by a thread of its own, as it comes."""
    done: SimpleQueue[_Done | None] = SimpleQueue()
    stopped = Event()

    def run(share: Callable[[], Iterator[_Done]]) -> None:
        try:
            for each in share():
                done.put(each)
                if stopped.is_set():
                    return
        except BaseException:
            # The others stop behind what they are at.
            stopped.set()
            raise
        finally:
            done.put(None)

    with ThreadPoolExecutor(len(shares)) as pool:
        futures = [pool.submit(run, share) for share in shares]
        try:
            left = len(futures)
            while left:
                each = done.get()
                if each is None:
                    left -= 1
                else:
                    yield each
        finally:
            stopped.set()
        for future in futures:
            future.result()


def _on_one(
    work: Sequence[Layer], checkpoint: Checkpoint, settings: AnalysisSettings, jobs: int
) -> Iterator[_Done]:
    """`analyze_there` of layers of one device."""
    running: deque[tuple[Layer, Future[LayerAnalysis]]] = deque()
    with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(min(jobs, _AT_ONCE)) as working:
        coming = [reading.submit(_Read, layer, checkpoint) for layer in work[:1]]
        try:
            for layer, following in zip(work, [*work[1:], None], strict=True):
                read = coming.pop().result()
                if following is not None:
                    coming.append(reading.submit(_Read, following, checkpoint))
                running.append((layer, working.submit(_analyzed, layer, read, settings)))
                del read
                if len(running) == _AT_ONCE:
                    done, future = running.popleft()
                    yield done, future.result()
            yield from ((layer, future.result()) for layer, future in running)
        finally:
            working.shutdown(cancel_futures=True)


def _settle(places: Collection[str]) -> None:
    """Wait for what still changes weights that live on a GPU: the stream that reads them knows nothing of it."""
    import torch

    for device in map(torch.device, places):
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()


def _analyzed(layer: Layer, read: _Read, settings: AnalysisSettings) -> LayerAnalysis:
    from rmt_compress.decomposition.kernels import TorchKernels

    return analyze_layer(layer, read.weight(), settings, TorchKernels(doubted=True))
