"""Which task a network is asked, as settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from rmt_compress.data.settings import DataSettings
from rmt_compress.networks.tasks.task import TaskKind
from rmt_compress.object_reference import is_reference
from rmt_compress.settings.declaring import held, setting
from rmt_compress.settings.validation import problems_of, refuse
from rmt_compress.wording import did_you_mean

DType = Literal["float32", "float16", "bfloat16", "float64", "stored"]
TASKS = tuple(kind for kind in get_args(TaskKind) if kind != "custom")
_PANEL = "Data"


@dataclass(frozen=True)
class TaskSettings:
    """What decides how a network is asked and judged.

    Attributes:
        data: how data are read.
        task: one of `TASKS`, or ``package.module:callable``, `callable(model) -> float`; None for the task that
            data and network are made for.
        higher_is_better: direction of a callable's score.
        dtype: the type that the network computes in, see `rmt_compress.networks.loading.load_model`.

    Raises:
        SettingsError: there is no such task or type.
    """

    data: DataSettings = held(DataSettings)
    task: str | None = setting(
        None,
        f"What is asked: {', '.join(TASKS)}, or package.module:callable that scores a model; by default what data "
        "and network are made for.",
        metavar="TASK",
        panel=_PANEL,
    )
    higher_is_better: bool = setting(
        True,
        "Direction of the score of a callable.",
        flags=("--higher-is-better/--lower-is-better",),
        panel=_PANEL,
    )
    dtype: DType | None = setting(
        None,
        "Type that the network computes in while it is asked; stored: that of its file. By default float32, "
        "whatever the file holds, or what the code of the network says.",
        panel=_PANEL,
    )

    @property
    def asks_itself(self) -> bool:
        """Whether the task is a callable, which needs no data."""
        return self.task is not None and is_reference(self.task)

    def __post_init__(self) -> None:
        problems = problems_of(self)
        if self.task is not None and self.task not in TASKS and not is_reference(self.task):
            hint = did_you_mean(self.task, TASKS)
            problems.append(
                f"no task is called {self.task!r}{hint}; there are {', '.join(TASKS)}, and module:callable"
            )
        refuse(problems)
