"""How the cuts of a network are asked what they are worth while a plan is searched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rmt_compress.networks.calibration.statistics import batch_norms
from rmt_compress.networks.file_names import SAME_NAMES, FileNames
from rmt_compress.networks.tasks.agreement import Agreement
from rmt_compress.planning.margins import Judgement
from rmt_compress.planning.searching import Asking, Trial
from rmt_compress.pruning.drop import Drop, judged, lasting
from rmt_compress.pruning.repairs import scored_trials

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.networks.calibration.statistics import Seen
    from rmt_compress.networks.tasks.task import Score as TaskScore
    from rmt_compress.networks.tasks.task import Task
    from rmt_compress.planning.searching import Score
    from rmt_compress.pruning.calibration import Calibration


@dataclass(frozen=True, eq=False)
class Renewal:
    """How batch-norm statistics of a cut network are estimated anew before it is asked.

    Attributes:
        renews: whether they are at all.
        uncut: what the uncut network sees of inputs that it has made itself; None of data.
    """

    renews: bool = False
    uncut: Mapping[str, Seen] | None = None

    @classmethod
    def of(cls, model: nn.Module, calibration: Calibration) -> Renewal:
        """For a network with batch norms; nothing for others."""
        if not batch_norms(model):
            return cls()
        return cls(True, calibration.seen_uncut(model))


def asking_for(
    model: nn.Module,
    calibration: Calibration,
    renewal: Renewal,
    *,
    drop: Drop | None = None,
    names: FileNames = SAME_NAMES,
) -> Asking:
    """What a search asks of cuts: the task of the calibration, of many samples a part first.

    Args:
        model: the network, uncut.
        calibration: its inputs renew statistics, its selection task is asked.
        renewal: of statistics.
        drop: by how much the score may fall; None to choose among cuts of one size.
        names: what the tensors of a trial are called in the network.
    """

    def score_of(calibration: Calibration) -> Score:
        selection = lasting(calibration.selection)
        return scored_trials(
            model,
            calibration.inputs,
            selection,
            judged if drop is not None else _of_one_size,
            renews=renewal.renews,
            uncut=renewal.uncut,
            names=names,
        )

    if drop is None:
        choosing = calibration.of_one_size(model)
        part = choosing.part()
        return Asking(score_of(choosing), None if part is None else score_of(part))
    ask = score_of(calibration)

    def score(trial: Trial) -> Judgement | float:
        """Of the network as it is what has been asked already."""
        return judged(drop.whole) if not trial.rule else ask(trial)

    return Asking(score, None, None if drop.fresh is None else drop.fresh.samples)


def _of_one_size(score: TaskScore) -> Judgement:
    """What is compared among cuts of one size: of agreement its divergence, less noisy than equal answers are."""
    if score.task == "agreement" and score.loss is not None:
        return Judgement(-score.loss)
    return judged(score)


def compared(task: Task, drop: Drop | None) -> str:
    """What the scores of candidates are, in words."""
    if drop is None and isinstance(task, Agreement) and not task.embeddings:
        return "negative divergence"
    return task.metric.name
