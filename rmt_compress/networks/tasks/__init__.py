"""What a network is asked to do, and how well it does it: one module per kind of task."""

from __future__ import annotations

from rmt_compress.networks.tasks.choosing import TASKS, task_for
from rmt_compress.networks.tasks.task import Metric, Score, Task

__all__ = ["TASKS", "Metric", "Score", "Task", "task_for"]
