"""What a network costs and what it is worth: accuracy, loss, size on disk, multiply-adds, measured milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints.state_dicts import find_ties
from rmt_compress.errors import EvaluationError, SettingsError
from rmt_compress.layers.counting import is_buffer
from rmt_compress.networks.loading import load_model
from rmt_compress.networks.measurement import (
    as_inputs,
    count_macs,
    evaluation_mode,
    first_inputs,
    measure_latency,
    placement,
)
from rmt_compress.progress import Progress
from rmt_compress.wording import one_line, times

if TYPE_CHECKING:
    from rmt_compress.checkpoints import Checkpoint

    CheckpointPath = str | PathLike[str] | Checkpoint

    import torch
    from torch import nn

    from rmt_compress.data import Dataset

__all__ = ["Evaluation", "Score", "compare", "count_macs", "evaluate", "load_model", "move", "score"]

BATCH_SIZE = 64
"""Larger batches are no faster on a CPU: a third of a convolutional network's time went into giving the memory of
its outputs back to the system and taking it again, 4.2 s at 256 for 2.7 s at 64."""
TOP5_CLASSES = 20
"""With fewer classes the right one is among five by luck too often."""


@dataclass(frozen=True)
class Score:
    """How a network answers on one data set.

    Attributes:
        samples: how many were asked.
        accuracy: share of samples whose largest output is the right class.
        top5: share whose right class is among the five largest outputs; None below `TOP5_CLASSES` classes.
        loss: mean cross-entropy of the outputs taken as logits.
        dead_outputs: outputs with one and the same value for every sample. A ReLU after the last layer can kill
            an output, and its class is lost for good.
        never_predicted: classes of the data set that are no sample's largest output.
    """

    samples: int
    accuracy: float
    top5: float | None
    loss: float
    dead_outputs: int
    never_predicted: int


@dataclass(frozen=True)
class Evaluation:
    """One network on one data set, with what it costs.

    Attributes:
        path: its file; None for a live model.
        score: how it answers.
        parameters: entries of its parameters, shared ones once; buffers are not counted, see
            `rmt_compress.layers.counting`.
        nonzeros: those that are not 0.
        bytes: on disk; None for a live model.
        macs: multiply-adds of the Linear and convolution layers for one sample.
        latency_ms: batch size -> median milliseconds of one forward pass; empty where not measured.
    """

    path: str | None
    score: Score
    parameters: int
    nonzeros: int
    bytes: int | None
    macs: int
    latency_ms: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """The object of `evaluate --json`, accuracies as fractions."""
        return {
            "path": self.path,
            **asdict(self.score),
            "parameters": self.parameters,
            "nonzeros": self.nonzeros,
            "bytes": self.bytes,
            "macs": self.macs,
            "latency_ms": dict(self.latency_ms),
        }


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    *,
    path: CheckpointPath | None = None,
    batch_size: int = BATCH_SIZE,
    device: str | torch.device | None = None,
    latency: bool = True,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure one network; its mode, its weights and their gradients stay as they are.

    Args:
        model: takes inputs (N, …) of the data set and returns logits (N, classes).
        dataset: what it is asked.
        path: the file it came from, or that file opened, for `Evaluation.path` and `Evaluation.bytes`.
        batch_size: samples per forward pass while scoring.
        device: where to run; the model is moved there and stays. None: where it is.
        latency: whether to measure milliseconds too.
        progress: called with (samples done, samples in all, "").

    Raises:
        EvaluationError: the model does not take these inputs, or does not return such logits.
        SettingsError: no such device.
    """
    (result,) = _evaluate([model], [path], dataset, batch_size, device, latency, progress)
    return result


def compare(
    model: nn.Module,
    against: nn.Module,
    dataset: Dataset,
    *,
    paths: tuple[CheckpointPath | None, CheckpointPath | None] = (None, None),
    batch_size: int = BATCH_SIZE,
    device: str | torch.device | None = None,
    latency: bool = True,
    progress: Progress | None = None,
) -> tuple[Evaluation, Evaluation]:
    """Measure two networks; their runs alternate, so that a machine's other work meets both alike.

    `paths` are those of both; everything else is as in `evaluate`.
    """
    first, second = _evaluate([model, against], list(paths), dataset, batch_size, device, latency, progress)
    return first, second


def score(
    model: nn.Module,
    dataset: Dataset,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int], None] | None = None,
    name: str = "the model",
) -> Score:
    """Ask `model`, where it is, every sample of `dataset`, in evaluation mode; errors call it `name`.

    `progress` is called with the number of samples done; the errors are those of `evaluate`.
    """
    import torch
    from torch.nn import functional

    device, dtype = placement(model)
    correct = among_five = done = 0
    loss = 0.0
    lowest = highest = predicted = None
    with evaluation_mode(model), torch.inference_mode():
        for inputs, classes in dataset.batches(batch_size):
            outputs = _logits(model, as_inputs(inputs, device, dtype), dataset, name).double()
            labels = classes.to(device)
            right = outputs.gather(1, labels[:, None])
            answers = outputs.argmax(1)
            correct += int((answers == labels).sum())
            among_five += int(((outputs > right).sum(1) < 5).sum())
            loss += float(functional.cross_entropy(outputs, labels, reduction="sum"))
            low, high = outputs.amin(0), outputs.amax(0)
            lowest = low if lowest is None else torch.minimum(lowest, low)
            highest = high if highest is None else torch.maximum(highest, high)
            counts = torch.bincount(answers, minlength=outputs.shape[1])
            predicted = counts if predicted is None else predicted + counts
            done += len(labels)
            if progress is not None:
                progress(done)
    assert lowest is not None
    assert highest is not None
    assert predicted is not None
    return Score(
        samples=done,
        accuracy=correct / done,
        top5=among_five / done if dataset.classes >= TOP5_CLASSES else None,
        loss=loss / done,
        dead_outputs=int((lowest == highest).sum()) if done > 1 else 0,
        never_predicted=int((predicted[: dataset.classes] == 0).sum()),
    )


def _evaluate(
    models: Sequence[nn.Module],
    paths: Sequence[CheckpointPath | None],
    dataset: Dataset,
    batch_size: int,
    device: str | torch.device | None,
    latency: bool,
    progress: Progress | None,
) -> list[Evaluation]:
    from rmt_compress.layers.zeroing import count_nonzero

    total = len(dataset) * len(models)
    names = [None if path is None else str(getattr(path, "path", path)) for path in paths]
    scores = []
    for index, model in enumerate(models):
        if device is not None:
            move(model, device)

        def advance(done: int, before: int = index * len(dataset)) -> None:
            if progress is not None:
                progress(before + done, total, "")

        called = names[index] or "the model"
        scores.append(score(model, dataset, batch_size=batch_size, progress=advance, name=called))
    timings = measure_latency(models, dataset) if latency else [{} for _ in models]
    return [
        Evaluation(
            path=name,
            score=outcome,
            parameters=sum(tensor.numel() for tensor in _parameters(model)),
            nonzeros=sum(count_nonzero(tensor) for tensor in _parameters(model)),
            bytes=None if path is None else file_size(path),
            macs=count_macs(model, first_inputs(model, dataset, 1)),
            latency_ms=timing,
        )
        for model, path, name, outcome, timing in zip(models, paths, names, scores, timings, strict=True)
    ]


def _parameters(model: nn.Module) -> list[torch.Tensor]:
    """What is counted of a network: what would be counted of a file of it."""
    import torch

    from rmt_compress.checkpoints.graph_network import GraphNetwork

    if isinstance(model, GraphNetwork):
        state: dict[str, torch.Tensor] = {**dict(model.named_parameters())}
        ties = model.checkpoint.ties
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


def _logits(model: nn.Module, inputs: torch.Tensor, dataset: Dataset, name: str) -> torch.Tensor:
    """The outputs (N, classes) of one batch, or the error that says what they are instead."""
    import torch

    shape = times(inputs.shape[1:], scalar="one number")
    try:
        outputs = model(inputs)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise EvaluationError(
            f"{name} cannot take inputs of {shape} from {dataset.name}, {len(inputs)} at once: {one_line(error)}"
        ) from error
    outputs = getattr(outputs, "logits", outputs)
    if not isinstance(outputs, torch.Tensor):
        raise EvaluationError(f"{name} returns a {type(outputs).__name__}, not a tensor of logits (N, classes)")
    if outputs.ndim != 2 or len(outputs) != len(inputs) or outputs.shape[1] < dataset.classes:
        raise EvaluationError(
            f"{name} returns {'×'.join(map(str, outputs.shape))} numbers for {len(inputs)} inputs of "
            f"{dataset.name}, which has {dataset.classes} classes; (N, {dataset.classes}) are needed"
        )
    if outputs.isnan().any():
        bad = int(outputs.isnan().any(1).sum())
        raise EvaluationError(
            f"{name} returns NaN for {bad} of {len(inputs)} inputs of {dataset.name}; look at its weights with "
            "rmt-compress analyze"
        )
    return outputs


def move(model: nn.Module, device: str | torch.device) -> None:
    """Move a model in place, if there is such a device."""
    import torch

    try:
        model.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise SettingsError([f"cannot run on device {str(device)!r}: {one_line(error)}"]) from error
