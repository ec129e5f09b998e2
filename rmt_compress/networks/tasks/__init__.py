"""What a network is asked to do, and how well it does it: one module per kind of task."""

from __future__ import annotations

from rmt_compress.networks.tasks.choosing import task_for
from rmt_compress.networks.tasks.opening import Question, open_task
from rmt_compress.networks.tasks.settings import TASKS, TaskSettings
from rmt_compress.networks.tasks.task import Metric, Score, Task

__all__ = ["TASKS", "Metric", "Question", "Score", "Task", "TaskSettings", "open_task", "task_for"]
