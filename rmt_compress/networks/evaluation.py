"""What a network costs and what it is worth: its score, size on disk, multiply-adds, measured milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints.state_dicts import find_ties
from rmt_compress.data.samples import Samples
from rmt_compress.errors import SettingsError
from rmt_compress.layers.counting import is_buffer
from rmt_compress.networks.generation_speed import GenerationSettings, GenerationSpeed, measure_generation
from rmt_compress.networks.latency import Latency, measure_latency
from rmt_compress.networks.measurement import bytes_moved, count_macs, example_inputs, peak_memory
from rmt_compress.networks.tasks.choosing import agreement_beside, task_for
from rmt_compress.networks.tasks.task import Score, Task
from rmt_compress.progress import Progress, phase
from rmt_compress.wording import one_line

if TYPE_CHECKING:
    from rmt_compress.checkpoints import Checkpoint

    CheckpointPath = str | PathLike[str] | Checkpoint

    import torch
    from torch import nn

__all__ = ["Evaluation", "compare", "evaluate", "file_size", "move", "score"]


@dataclass(frozen=True)
class Evaluation:
    """One network on one task, with what it costs.

    Attributes:
        path: its file; None for a live model.
        score: how well it does.
        parameters: entries of its parameters, shared ones once; buffers are not counted, see
            `rmt_compress.layers.counting`.
        nonzeros: those that are not 0.
        bytes: on disk; None for a live model.
        macs: multiply-adds of the Linear and convolution layers for one sample; None without samples.
        latency: milliseconds of one forward pass by batch size; empty where not measured.
        bytes_moved: what the layers read and write for one sample, weights too; None without samples.
        peak_memory: most bytes alive on the way through the network for one sample; None without samples.
        agreement: how far it answers as the network it is compared with; None where there is none.
        generation: tokens per second of reading and of writing; None where that was not asked.
    """

    path: str | None
    score: Score
    parameters: int
    nonzeros: int
    bytes: int | None
    macs: int | None
    latency: Latency
    bytes_moved: int | None = None
    peak_memory: int | None = None
    agreement: Score | None = None
    generation: GenerationSpeed | None = None

    @property
    def latency_ms(self) -> dict[str, float]:
        """Batch size -> median milliseconds of one forward pass in eager mode."""
        return self.latency.eager

    def to_json(self) -> dict[str, Any]:
        """The object of `evaluate --json`, accuracies as fractions."""
        agreement = {} if self.agreement is None else {"agreement": dict(self.agreement.details)}
        return {
            "path": self.path,
            **self.score.to_json(),
            "parameters": self.parameters,
            "nonzeros": self.nonzeros,
            "bytes": self.bytes,
            "macs": self.macs,
            "bytes_moved": self.bytes_moved,
            "peak_memory": self.peak_memory,
            "latency_ms": dict(self.latency.eager),
            **({"latency_graph_ms": dict(self.latency.graph)} if self.latency.graph else {}),
            **({"why_no_graph": self.latency.why_no_graph} if self.latency.why_no_graph else {}),
            **({} if self.generation is None else {"generation": self.generation.to_json()}),
            **agreement,
        }


def evaluate(
    model: nn.Module,
    task: Task | Samples,
    *,
    path: CheckpointPath | None = None,
    batch_size: int | None = None,
    latency: bool = True,
    generation: GenerationSettings | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure one network where it is; its mode, its weights and their gradients stay as they are.

    Args:
        model: the network.
        task: what it is asked; of data alone the task they are made for.
        path: the file it came from, or that file opened, for `Evaluation.path` and `Evaluation.bytes`.
        batch_size: samples per forward pass while scoring; None for the task's own.
        latency: whether to measure milliseconds too.
        generation: how many tokens to write, for tokens per second of a causal language model; None for none.
        progress: called with (samples done, samples in all, "").

    Raises:
        EvaluationError: the model does not take these inputs, its outputs are not what the task is about, or it
            cannot write.
        DataError: the data end in something that is none.
        SettingsError: the data suit no task.
    """
    return _evaluate([model], [path], as_task(task, model), batch_size, latency, generation, progress)[0]


def compare(
    model: nn.Module,
    against: nn.Module,
    task: Task | Samples,
    *,
    paths: tuple[CheckpointPath | None, CheckpointPath | None] = (None, None),
    batch_size: int | None = None,
    latency: bool = True,
    generation: GenerationSettings | None = None,
    progress: Progress | None = None,
) -> tuple[Evaluation, Evaluation]:
    """Measure two networks; their runs alternate, so that a machine's other work meets both alike.

    `paths` are those of both; everything else is as in `evaluate`. The first one's `Evaluation.agreement` says how
    far it answers as the second.
    """
    asked = as_task(task, against)
    both = [model, against]
    first, second = _evaluate(both, list(paths), asked, batch_size, latency, generation, progress)
    return first, second


def score(
    model: nn.Module,
    task: Task | Samples,
    *,
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
    name: str = "the model",
) -> Score:
    """How well a network does alone, see `Task.score`; of data the task they are made for."""
    return as_task(task, model).score(model, batch_size=batch_size, progress=progress, name=name)


def as_task(task: Task | Samples, model: nn.Module) -> Task:
    """A task as it is; of data the one that they and the network are made for."""
    return task_for(task, model) if isinstance(task, Samples) else task


@phase("evaluating")
def _evaluate(
    models: Sequence[nn.Module],
    paths: Sequence[CheckpointPath | None],
    task: Task,
    batch_size: int | None,
    latency: bool,
    generation: GenerationSettings | None,
    progress: Progress | None,
) -> list[Evaluation]:
    from rmt_compress.layers.zeroing import count_nonzero

    samples = task.samples
    names = [None if path is None else str(getattr(path, "path", path)) for path in paths]
    together = agreement_beside(task, models[1]) if len(models) > 1 else None
    count = (samples.count if samples is not None else None) or 0
    total = count * (len(models) + (together is not None))
    # First, since a network that cannot write is to say so before it is asked for minutes.
    speeds = _generation(models, names, generation)
    runs: list[tuple[Task, int]] = [(task, index) for index in range(len(models))]
    runs += [(together, 0)] if together is not None else []
    scores = []
    for turn, (each, index) in enumerate(runs):

        def advance(done: int, before: int = turn * count) -> None:
            if progress is not None:
                progress(before + done, max(total, before + done), "")

        called = names[index] or "the model"
        scores.append(each.score(models[index], batch_size=batch_size, progress=advance, name=called))
    agreement = scores.pop() if together is not None else None
    timings = measure_latency(models, task) if latency and samples is not None else [Latency() for _ in models]
    examples = [None if samples is None else example_inputs(model, task, 1) for model in models]
    return [
        Evaluation(
            path=name,
            score=outcome,
            parameters=sum(tensor.numel() for tensor in _parameters(model)),
            nonzeros=sum(count_nonzero(tensor) for tensor in _parameters(model)),
            bytes=None if path is None else file_size(path),
            macs=None if samples is None else count_macs(model, example),
            latency=timing,
            bytes_moved=None if samples is None else bytes_moved(model, example),
            peak_memory=None if samples is None else peak_memory(model, example),
            agreement=agreement if model is models[0] else None,
            generation=speed,
        )
        for model, path, name, outcome, timing, example, speed in zip(
            models, paths, names, scores, timings, examples, speeds, strict=True
        )
    ]


def _generation(
    models: Sequence[nn.Module], names: Sequence[str | None], asked: GenerationSettings | None
) -> Sequence[GenerationSpeed | None]:
    if asked is None or asked.generate is None:
        return [None for _ in models]
    return measure_generation(models, prompt=asked.prompt, written=asked.generate, names=names)


def _parameters(model: nn.Module) -> list[torch.Tensor]:
    """What is counted of a network: what would be counted of a file of it."""
    import torch

    from rmt_compress.checkpoints.graph_network import GraphNetwork

    if isinstance(model, GraphNetwork):
        given = dict(model.named_parameters())
        # Quantized weights are none of its parameters, but are counted.
        checkpoint = model.checkpoint
        state = {name: given[name] if name in given else checkpoint.read(name) for name in checkpoint.tensors}
        ties = checkpoint.ties
    else:
        state = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, torch.Tensor)}
        ties = find_ties(state)
    others = {other for names in ties.values() for other in names}
    return [
        tensor
        for name, tensor in state.items()
        if name not in others and not is_buffer(name, str(tensor.dtype).removeprefix("torch."))
    ]


def file_size(source: CheckpointPath) -> int:
    """Bytes on disk of a checkpoint: of its file, or of all its shards."""
    from rmt_compress.checkpoints import open_checkpoint

    with open_checkpoint(source) as checkpoint:
        return sum(file.stat().st_size for file in checkpoint.files)


def move(model: nn.Module, device: str | torch.device) -> None:
    """Move a model in place, if there is such a device."""
    import torch

    try:
        model.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise SettingsError([f"cannot run on device {str(device)!r}: {one_line(error)}"]) from error
