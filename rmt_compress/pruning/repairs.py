"""The network that a plan makes, before it is written: run, and repaired."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints.graph_network import GraphNetwork
from rmt_compress.compression import compress
from rmt_compress.errors import SettingsError
from rmt_compress.networks.calibration.statistics import batch_norms, renew_statistics
from rmt_compress.networks.file_names import SAME_NAMES, FileNames
from rmt_compress.networks.repair.repairing import repair_blocks
from rmt_compress.networks.replacing import replaced, tried
from rmt_compress.progress import phase

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.decomposition.moments import Moments
    from rmt_compress.networks.calibration.statistics import Seen
    from rmt_compress.networks.calibration_settings import CalibrationSettings
    from rmt_compress.networks.tasks.task import Score as TaskScore
    from rmt_compress.networks.tasks.task import Task
    from rmt_compress.plan import Plan
    from rmt_compress.planning.margins import Judgement
    from rmt_compress.planning.searching import Score, Trial
    from rmt_compress.progress import Progress


@dataclass(frozen=True, eq=False)
class CarriedOut:
    """A plan carried out on a network that runs.

    Attributes:
        model: a module with thin layers; of a graph the graph itself.
        values: of a graph the tensors that stand in it while it runs as the plan makes it.
    """

    model: nn.Module
    values: Mapping[str, torch.Tensor]

    @contextmanager
    def network(self) -> Iterator[nn.Module]:
        """The network as the plan makes it."""
        with replaced(self.model, self.values) as small:
            yield small


def carried_out(
    model: nn.Module,
    checkpoint: Checkpoint,
    plan: Plan,
    moments: Moments | None,
    names: FileNames,
    device: torch.device | None = None,
) -> CarriedOut:
    """What a plan for a checkpoint makes of its network; the network itself stays as it is.

    Weights are decomposed where a module has them, those of a graph on `device`, by default the CPU.
    """
    if not isinstance(model, GraphNetwork):
        return CarriedOut(compress(model, names.plan(plan), names.moments_in_network(moments)), {})
    changed = {decision.tensor for decision in plan.layers if decision.changes}
    biases = {layer.bias for layer in checkpoint.layers() if layer.tensor in changed}
    dense: dict[str, Any] = compress(checkpoint, plan, moments, layout="dense", device=device)
    return CarriedOut(model, {name: dense[name] for name in model._parameters if name in changed | biases})


def scored_trials(
    model: nn.Module,
    inputs: Iterable[Any],
    task: Task,
    judge: Callable[[TaskScore], float | Judgement],
    *,
    renews: bool,
    uncut: Mapping[str, Seen] | None = None,
    batch_size: int | None = None,
    names: FileNames = SAME_NAMES,
) -> Score:
    """What a search asks of the networks that it tries: their score by a task, `model` being as it was behind it.

    Args:
        model: the network.
        inputs: what batch-norm statistics are estimated with.
        task: what is asked.
        judge: from its score to the number that counts.
        renews: whether a cut network's statistics are estimated anew first.
        uncut: see `renew_statistics`.
        batch_size: samples at once; None for the task's own.
        names: what the tensors of a trial are called in the network.
    """
    values = {name: parameter.data for name, parameter in model.named_parameters(remove_duplicate=False)}

    def score(trial: Trial) -> float | Judgement:
        trial = names.trial(trial)
        # The cut has the file's types, which the network need not compute in, and is where it was decomposed.
        tensors = {name: tensor.to(values.get(name, tensor)) for name, tensor in trial.tensors.items()}
        with tried(model, replace(trial, tensors=tensors)) as cut:
            renewed = renew_statistics(cut, inputs, uncut=uncut) if renews and trial.rule else None
            try:
                return judge(task.score(cut, batch_size=batch_size))
            finally:
                if renewed is not None:
                    renewed.undo()

    return score


@dataclass(frozen=True, eq=False)
class Repairs:
    """What a repair has changed.

    Attributes:
        values: by their names in the state dict of the network as the plan makes it.
        notes: remarks for the user.
    """

    values: dict[str, torch.Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@phase("repairing")
def repair(
    result: CarriedOut,
    original: nn.Module,
    inputs: Iterable[Any],
    settings: CalibrationSettings,
    *,
    uncut: Mapping[str, Seen] | None = None,
    progress: Progress | None = None,
) -> Repairs:
    """Repair a network in place, as the settings ask for.

    Args:
        result: the network as the plan makes it.
        original: as it was.
        inputs: of calibration.
        settings: which repair.
        uncut: see `renew_statistics`.
        progress: told of every step.

    Raises:
        SettingsError: a graph, whose blocks cannot be trained.
    """
    small = result.model
    if settings.mends == "none":
        return Repairs()
    if isinstance(small, GraphNetwork):
        if settings.mends == "blocks":
            raise SettingsError(["repair blocks trains layers of a module; this file is a graph that only runs"])
        return Repairs()
    notes = []
    values: dict[str, torch.Tensor] = {}
    norms = bool(batch_norms(small))
    if norms:
        renew_statistics(small, inputs, uncut=uncut)
        count = len(batch_norms(small))
        notes.append(f"estimated the statistics of {count} batch norm{'s' * (count > 1)} anew")
    if settings.mends == "blocks":
        report = repair_blocks(small, original, inputs, seed=settings.seed, progress=progress)
        values |= report.tensors
        kept = sum(block.kept for block in report.blocks)
        notes.append(
            f"trained {kept} of {len(report.blocks)} blocks in {report.seconds:.0f} s: the last one's error on "
            f"inputs held out is {report.after:.3g}, {report.before:.3g} before"
        )
        if norms and kept:
            renew_statistics(small, inputs, uncut=uncut)
    for path, norm in batch_norms(small).items():
        values |= {f"{path}.{name}": buffer.clone() for name, buffer in norm.named_buffers(recurse=False)}
    return Repairs(values, tuple(notes))
