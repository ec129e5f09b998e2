"""A cut certified on data: two networks, a task, and the bounds between them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from rmt_compress.certificates.certificate import Certificate
from rmt_compress.certificates.network_graph import NetworkGraph
from rmt_compress.certificates.tally import Tally
from rmt_compress.certificates.telescoping import Telescope
from rmt_compress.checkpoints.graph_network import GraphNetwork
from rmt_compress.compression import compress
from rmt_compress.data.samples import Samples
from rmt_compress.errors import CertificateError, PlanError, SettingsError
from rmt_compress.networks.calling import placed, sizes
from rmt_compress.networks.evaluation import as_task, move
from rmt_compress.networks.measurement import example_inputs, placement
from rmt_compress.networks.tasks.asking import asked
from rmt_compress.plan import Plan
from rmt_compress.progress import phase

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.data.samples import Batch
    from rmt_compress.decomposition.moments import Moments
    from rmt_compress.networks.tasks.task import Task
    from rmt_compress.progress import Progress

_TOGETHER = 64
"""Samples at once: the values of all steps are kept, in float64."""


@phase("certifying")
def certify(
    model: nn.Module,
    cut: Plan | nn.Module,
    task: Task | Samples,
    moments: Moments | None = None,
    *,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    name: str | None = None,
    progress: Progress | None = None,
) -> Certificate:
    """How far a cut can move the answers of a classifier on given samples, at most (BSSZ24 Lemma 5.1).

    The bounds come from the original network's own activations and the norms of what is left; the cut network is
    asked too, and what it answers stands beside them. All is computed in float64, on copies.

    Args:
        model: the network, (N, …) -> (N, classes): Linear, convolutions, batch norms, activations, pools, sums, as
            torch.fx traces it.
        cut: the plan that cuts it, or the network that has been made of it already.
        task: what is asked: a classification, or data with one class per sample.
        moments: those that the plan was made with, for one of a calibrated basis.
        batch_size: samples at once; None for 64.
        device: where to run; None: where the model is.
        name: what errors call the network, its file perhaps; None: its class.
        progress: called with (samples done, samples in all, "").

    Raises:
        CertificateError: a module is not known to keep differences within bounds, the network has no graph, or one
            of the two holds NaN or Inf.
        SettingsError: the task is no classification of whole samples.
        PlanError: the plan does not suit the network, or changes nothing of it.
        EvaluationError: the network does not take these inputs.
    """
    import torch

    question = as_task(task, model)
    whole = _in_double(model, device)
    example, samples = _example(whole, question, name)
    smaller = compress(whole, cut, moments) if isinstance(cut, Plan) else _in_double(cut, device)
    _check_finite(whole, name or type(model).__name__)
    _check_finite(smaller, "the cut network")
    graph = NetworkGraph(whole, smaller, example, name)
    if not graph.cuts:
        raise PlanError("the cut changes no layer of this network: there is nothing to certify")
    tally = Tally(Telescope(graph), smaller)
    place, dtype = placement(whole)
    done = 0
    for batch in samples.batches(batch_size or _TOGETHER):
        labels = _labels(batch, samples)
        with torch.inference_mode():
            inputs = placed(question.inputs(batch), place, dtype)
            _check_classes(graph.run(inputs)[graph.result] if not done else None, labels, samples)
            tally.add(inputs, labels.to(place))
        done += len(labels)
        if progress is not None:
            progress(done, max(done, samples.count or done), "")
    if not done:
        raise SettingsError([f"{samples.name}: holds no samples to certify the cut on"])
    return tally.certificate(f"{done:,} {samples.part} samples of {samples.name}")


def check_certifiable(model: nn.Module, task: Task, name: str | None = None) -> None:
    """Refuse a network or a task that no cut can be certified of; raises what `certify` does."""
    whole = _in_double(model, None)
    NetworkGraph(whole, whole, _example(whole, task, name)[0], name)


def _example(model: nn.Module, task: Task, name: str | None) -> tuple[torch.Tensor, Samples]:
    """Three samples that the network is asked, and all of them."""
    import torch

    samples = task.samples
    if samples is None or task.kind != "classification":
        raise SettingsError([f"certificates are for classification, not for {task.kind}: give data with classes"])
    example, name = example_inputs(model, task, 3), name or type(model).__name__
    if not isinstance(example, torch.Tensor):
        raise CertificateError(f"{name}: takes {sizes(example)}; certificates are for one input")
    # What cannot be asked is said in the usual words.
    with torch.inference_mode():
        asked(model, example, samples, name)
    return example, samples


def _in_double(model: nn.Module, device: str | torch.device | None) -> nn.Module:
    """A copy that computes in float64, in evaluation mode."""
    if isinstance(model, GraphNetwork):
        raise CertificateError(
            f"{model.checkpoint.path}: carries its own graph, of which no bounds are known; certify the PyTorch "
            "network that it was made of"
        )
    found = copy.deepcopy(model).double().eval()
    if device is not None:
        if str(device).partition(":")[0] == "mps":
            raise SettingsError(["device: mps knows no float64, which certificates are computed in; take cpu"])
        move(found, device)
    return found


def _check_finite(model: nn.Module, called: str) -> None:
    """Refuse numbers that no bound holds of; what comes of them need not show in an answer."""
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise CertificateError(
                f"{called}: NaN or Inf in {name}, so no bound holds; rmt-compress analyze shows its weights"
            )


def _labels(batch: Batch, samples: Samples) -> torch.Tensor:
    targets = batch.targets
    if targets is None or targets.is_floating_point() or targets.ndim != 1:
        raise SettingsError([f"{samples.name}: certificates need one class per sample"])
    return targets.long()


def _check_classes(answers: torch.Tensor | None, labels: torch.Tensor, samples: Samples) -> None:
    """Refuse answers of another form than (N, classes), at the first batch."""
    if answers is None:
        return
    needed = max(samples.classes or 0, int(labels.max()) + 1)
    if answers.ndim != 2 or answers.shape[1] < max(needed, 2):
        raise SettingsError(
            [
                f"{samples.name}: has {needed} classes, and the network answers {sizes(answers)} numbers for each; "
                "give the data that it was made for"
            ]
        )
