"""How many samples are worth looking at: what takes some seconds, the same number on every machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmt_compress.networks.measurement import count_macs, example_inputs

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.networks.tasks.task import Task

ASKED = 3e11
"""Multiply-adds of one evaluation: so many samples are asked, some seconds on a few cores, whatever the machine."""
SEEN, SEEN_OF_TEXT = 2e11, 5e11
"""Those of calibration, which also goes back through the network. Text gets more: what a cut of a language model
costs then depends less on which windows were seen (docs/calibration.md)."""
_LEAST, _MOST = 128, 8192
_LEAST_WINDOWS, _MOST_WINDOWS = 16, 512


def affordable(model: nn.Module, task: Task, work: float) -> int:
    """How many samples so many multiply-adds are: 128 to 8,192, of text 16 to 512 windows.

    Args:
        model: the network.
        task: on the samples.
        work: multiply-adds.
    """
    assert task.samples is not None
    macs = count_macs(model, example_inputs(model, task, 1))
    text = task.samples.targets == "tokens"
    least, most = (_LEAST_WINDOWS, _MOST_WINDOWS) if text else (_LEAST, _MOST)
    return max(least, min(most, int(work / max(1, macs))))


def worth_seeing(model: nn.Module, task: Task) -> int:
    """How many samples of a task calibrate."""
    assert task.samples is not None
    return affordable(model, task, SEEN_OF_TEXT if task.samples.targets == "tokens" else SEEN)
