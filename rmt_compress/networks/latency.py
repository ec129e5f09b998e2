"""Milliseconds of a forward pass: by the clock, on CUDA by events and in a CUDA graph too.

Several networks are timed in turns, so that a machine's other work meets all alike. Of a small batch on a GPU the
time goes into launching kernels, of which two thin layers need twice as many: in eager mode split layers may be
slower where in a graph, which is launched as one, they are faster. Both are given.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rmt_compress.networks.calling import call, main_output, without_cache
from rmt_compress.networks.measurement import evaluation_mode, example_inputs, placement
from rmt_compress.wording import one_line

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.networks.tasks.task import Task

BATCHES = (1, 128)
TEXT_BATCHES = (1, 8)
"""Of windows of text, each of which holds hundreds of tokens."""
SECONDS = 0.7
"""Time spent per model and batch size; at least `LEAST_RUNS` runs whatever they take."""
LEAST_RUNS, MOST_RUNS, WARM_UP = 5, 300, 3
_EXACT = 1e-6

Run = Callable[[], float]
"""One forward pass; its seconds come back."""
Timer = Callable[["Sequence[tuple[nn.Module, Any]]"], list[float]]
"""Seconds of a forward pass of each of several networks with their inputs."""


@dataclass(frozen=True)
class Latency:
    """Median milliseconds of one forward pass by batch size.

    Attributes:
        eager: as torch runs a network by itself.
        graph: in a CUDA graph; empty elsewhere, and where the network cannot be captured in one.
        why_no_graph: why it cannot; None where it was, or was not tried.
    """

    eager: dict[str, float] = field(default_factory=dict)
    graph: dict[str, float] = field(default_factory=dict)
    why_no_graph: str | None = None


def measure_latency(
    models: Sequence[nn.Module], task: Task, *, batches: Sequence[int] | None = None
) -> list[Latency]:
    """One `Latency` per model, of the first inputs of a task's samples; their runs alternate.

    `batches` are sizes of batches; None for 1 and 128, of text 1 and 8.
    """
    import torch

    result = [Latency() for _ in models]
    text = task.samples is not None and task.samples.targets == "tokens"
    for size in batches or (TEXT_BATCHES if text else BATCHES):
        with torch.inference_mode():
            examples = [example_inputs(model, task, size) for model in models]
            runs: list[Run] = [_eager(model, inputs) for model, inputs in zip(models, examples, strict=True)]
        owners = list(range(len(models)))
        for index, (model, inputs) in enumerate(zip(models, examples, strict=True)):
            captured = _captured(model, inputs)
            if isinstance(captured, str):
                result[index] = Latency(result[index].eager, result[index].graph, captured)
            elif captured is not None:
                runs.append(captured)
                owners.append(index)
        for turn, seconds in enumerate(_in_turns(runs)):
            found = result[owners[turn]]
            (found.eager if turn < len(models) else found.graph)[str(size)] = 1000 * statistics.median(seconds)
    return result


def seconds_in_turns(
    networks: Sequence[tuple[nn.Module, Any]], *, spent: float | None = None, faster_half: bool = False
) -> list[float]:
    """Median seconds of a forward pass of each network with its inputs, in eager mode; their runs alternate.

    Where torch computes with one thread of a processor, it is that thread's own time: the same as by the clock on
    an idle machine, and the same again on a busy one.

    Args:
        networks: each with what it is called with.
        spent: seconds for each, None for `SECONDS`; there are some runs of each whatever they take.
        faster_half: whether only the faster half of the runs counts, which is steadier where few are made: other
            programs make a run longer, and none shorter.
    """
    found = _in_turns([_eager(model, inputs, _own_time(model)) for model, inputs in networks], spent)
    return [statistics.median(sorted(times)[: -(-len(times) // 2)] if faster_half else times) for times in found]


def _in_turns(runs: Sequence[Run], spent: float | None = None) -> list[list[float]]:
    """Seconds of all runs of each; one first, then another."""
    import torch

    times: list[list[float]] = [[] for _ in runs]
    deadline = time.perf_counter() + (SECONDS if spent is None else spent) * len(runs)
    with torch.inference_mode():
        for turn in range(-WARM_UP, MOST_RUNS):
            if turn >= LEAST_RUNS and time.perf_counter() > deadline:
                break
            for index in range(len(runs))[:: 1 if turn % 2 else -1]:
                seconds = runs[index]()
                if turn >= 0:
                    times[index].append(seconds)
    return times


def _own_time(model: nn.Module) -> Callable[[], float]:
    """The clock that other programs meddle with least."""
    import torch

    alone = placement(model)[0].type == "cpu" and torch.get_num_threads() == 1
    # Windows counts the time of threads in steps of many milliseconds.
    exact = time.get_clock_info("thread_time").resolution < _EXACT
    return time.thread_time if alone and exact else time.perf_counter


def _eager(model: nn.Module, inputs: Any, clock: Callable[[], float] = time.perf_counter) -> Run:
    import torch

    device = placement(model)[0]
    if device.type == "cuda":
        return _by_events(device, lambda: _forward(model, inputs))
    wait: Callable[[], object] = getattr(torch, device.type).synchronize

    def run() -> float:
        wait()
        start = clock()
        _forward(model, inputs)
        wait()
        return clock() - start

    return run


def _forward(model: nn.Module, inputs: Any) -> object:
    with evaluation_mode(model), without_cache(model):
        return call(model, inputs)


def _by_events(device: Any, work: Callable[[], object]) -> Run:
    """Seconds between two events on the device's own clock, around `work`."""
    import torch

    def run() -> float:
        with torch.cuda.device(device):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            work()
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end)) / 1000

    return run


def _captured(model: nn.Module, inputs: Any) -> Run | str | None:
    """A forward pass in a CUDA graph, why there can be none, or None where there is no CUDA."""
    import torch

    device = placement(model)[0]
    if device.type != "cuda":
        return None
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.device(device), torch.no_grad(), evaluation_mode(model), without_cache(model):
            # Libraries choose their kernels, and ask for memory, in the first passes: on a stream aside.
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    outputs = call(model, inputs)
            torch.cuda.current_stream().wait_stream(aside)
            eager = main_output(outputs)
            with torch.cuda.graph(graph):
                kept = call(model, inputs)
    # What a network does on the way, a look at a value on the host above all, may raise anything.
    except Exception as error:
        torch.cuda.synchronize()
        return f"no CUDA graph can be made of it: {one_line(error)[:120]}"
    graph.replay()
    torch.cuda.synchronize()
    again = main_output(kept)
    if eager is not None and again is not None and not torch.allclose(eager, again, rtol=1e-2, atol=1e-3):
        return "its CUDA graph does not compute the same"

    def replay(held: object = kept) -> None:
        """The outputs are held: they live in the graph's own memory."""
        graph.replay()

    return _by_events(device, replay)
