"""Analysing layers that are not on the CPU: those of one shape together, the next ones copied meanwhile.

A small matrix costs a GPU less than the call that it takes: so the Gram matrices and eigenvalues of layers of one
shape are found in one call, as many as memory has room for. A thread of its own reads the layers that come next,
whose copies go beside what is computed, and the noise is fitted on the CPU while the GPU is at the next ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rmt_compress.analysis.one_layer import analyze_layer, analyze_pair
from rmt_compress.analysis.records import LayerAnalysis
from rmt_compress.analysis.settings import AnalysisSettings
from rmt_compress.checkpoints.free_memory import free_memory
from rmt_compress.layers.kinds import KINDS
from rmt_compress.layers.layer import Layer, as_matrix

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.decomposition.stacked_values import FoundValues

# Entries of all Gram matrices of one call. Of 16 matrices of p = 1024 each fills a GPU by itself, and more together
# would only have the others wait.
_ENTRIES = 2**24
# Of the memory that is free: what is computed with, beside the layers that come next.
_SHARE = 0.4
# Where nobody says how much is free.
_BYTES = 2**30


@dataclass(frozen=True)
class _Together:
    """Layers that are worked on in one call, all on one device."""

    layers: tuple[Layer, ...]
    device: torch.device


class _Read:
    """Weights on their device, or on the way there."""

    def __init__(self, group: _Together, checkpoint: Checkpoint) -> None:
        import torch

        self._stream: torch.cuda.Stream | None = None
        if group.device.type == "cuda":
            self._stream = torch.cuda.Stream(group.device)  # type: ignore[no-untyped-call]  # torch gives it no types
        with torch.cuda.stream(self._stream):
            self._weights = [_weights(layer, checkpoint) for layer in group.layers]

    def weights(self) -> list[list[torch.Tensor]]:
        """Those of each layer, two where it is a product of two factors; what follows waits for their copies."""
        import torch

        if self._stream is not None:
            here = torch.cuda.current_stream(self._stream.device)
            here.wait_stream(self._stream)
            for weight in (each for weights in self._weights for each in weights):
                weight.record_stream(here)
        return self._weights


def on_another_device(layer: Layer, checkpoint: Checkpoint) -> bool:
    """Whether a layer's weight is read onto another device than the CPU."""
    return _place(layer, checkpoint) != "cpu"


def analyze_together(
    work: Sequence[Layer],
    checkpoint: Checkpoint,
    settings: AnalysisSettings,
    jobs: int,
    *,
    entries: int = _ENTRIES,
) -> Iterator[tuple[Layer, LayerAnalysis]]:
    """Analyse layers where their weights are, and yield each as it is done.

    Args:
        work: the layers, in any order.
        checkpoint: what they are read from.
        settings: of the analysis.
        jobs: layers whose noise is fitted at once.
        entries: of all Gram matrices of one call.
    """
    groups = _groups(work, checkpoint, entries)
    _settle({group.device for group in groups})
    with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(jobs) as fitting:
        coming: list[Future[_Read]] = [reading.submit(_Read, group, checkpoint) for group in groups[:1]]
        fitted: list[tuple[Layer, Future[LayerAnalysis]]] = []
        try:
            for place, group in enumerate(groups):
                weights = coming.pop().result().weights()
                coming += [reading.submit(_Read, each, checkpoint) for each in groups[place + 1 : place + 2]]
                values = _values(group.layers, weights, settings)
                # One group beside the one that comes: more would be kept in memory.
                yield from ((layer, future.result()) for layer, future in fitted)
                fitted = [
                    (layer, fitting.submit(_fitted, layer, own, settings, found))
                    for layer, own, found in zip(group.layers, weights, values, strict=True)
                ]
                del weights
            yield from ((layer, future.result()) for layer, future in fitted)
        except BaseException:
            fitting.shutdown(cancel_futures=True)
            raise


def _settle(devices: Collection[torch.device]) -> None:
    """Wait for what still changes weights that live on a GPU: the stream that reads them knows nothing of it."""
    import torch

    for device in devices:
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()


def _place(layer: Layer, checkpoint: Checkpoint) -> str:
    return checkpoint.place(layer.stored)


def _groups(work: Sequence[Layer], checkpoint: Checkpoint, entries: int) -> list[_Together]:
    """Layers of one shape, type and device together, the largest shapes first; stacks and pairs by themselves."""
    import torch

    alike: dict[tuple[object, ...], list[Layer]] = defaultdict(list)
    for number, layer in enumerate(work):
        by_itself = layer.pair is not None or KINDS[layer.kind].stacked
        key = number if by_itself else tuple(sorted(layer.matrix or ()))
        alike[(_place(layer, checkpoint), layer.dtype, key)].append(layer)
    groups: list[_Together] = []
    for (place, *_), layers in alike.items():
        device = torch.device(str(place))
        most = _most_together(layers[0], device, entries)
        groups += [_Together(tuple(layers[i : i + most]), device) for i in range(0, len(layers), most)]
    return sorted(groups, key=lambda group: -group.layers[0].parameters)


def _most_together(layer: Layer, device: torch.device, entries: int) -> int:
    """How many layers like this one the device has room for."""
    from rmt_compress.decomposition.devices import free_bytes

    p, n = sorted(layer.matrix or (1, 1))
    free = free_bytes(device) if device.type == "cuda" else free_memory()
    room = _SHARE * (_BYTES if free is None else free)
    # The weight and the copy that is multiplied; the Gram matrix and what its eigenvalues are found with.
    needed = (8 + 8) * p * n + 24 * p * p
    return max(1, min(int(room / needed), entries // (p * p)))


def _weights(layer: Layer, checkpoint: Checkpoint) -> list[torch.Tensor]:
    if layer.pair is not None:
        return [checkpoint.read(layer.tensor), checkpoint.read(layer.pair.second)]
    return [checkpoint.weight(layer)]


def _values(
    layers: Sequence[Layer], weights: Sequence[Sequence[torch.Tensor]], settings: AnalysisSettings
) -> list[list[FoundValues]]:
    """The singular values of every matrix of every layer; none of pairs, which have another road."""
    import torch

    from rmt_compress.decomposition.stacked_values import stacked_singular_values

    first = layers[0]
    if first.pair is not None:
        return [[]]
    if KINDS[first.kind].stacked:
        (stack,) = weights[0]
        matrices = as_matrix(first, stack)
        parts = torch.split(matrices, _most_together(first, stack.device, _ENTRIES))
        return [
            [found for part in parts for found in stacked_singular_values(part.unbind(0), alpha=settings.alpha)]
        ]
    matrices_of = [as_matrix(layer, weight) for layer, (weight,) in zip(layers, weights, strict=True)]
    return [[found] for found in stacked_singular_values(matrices_of, alpha=settings.alpha)]


def _fitted(
    layer: Layer, weights: Sequence[torch.Tensor], settings: AnalysisSettings, values: Sequence[FoundValues]
) -> LayerAnalysis:
    if layer.pair is not None:
        return analyze_pair(layer, layer.pair, *weights)
    return analyze_layer(layer, weights[0], settings, values=values)
