"""Where an analysis runs, and within what: nothing of it changes what is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from rmt_compress.errors import SettingsError
from rmt_compress.settings.declaring import setting
from rmt_compress.settings.sizes import bytes_in
from rmt_compress.settings.validation import problems_of, refuse


@dataclass(frozen=True)
class RunSettings:
    """How an analysis is carried out; names every problem at once.

    Attributes:
        jobs: layers worked on at once; None for one per core, at most 8, and no more than fit in memory together.
        device: where large weights are decomposed: each is read, copied there and given up again; None: where it
            is, a file's on the CPU. Those of min(rows, columns) below 768 are on the CPU in any case. Several
            names, with commas between them, share the layers of the analysis; what follows it takes the first.
        scheduler: address, scheduler file or client (`distributed.Client`) of a Dask cluster, whose workers then
            read and analyse the layers of a file; they need to see it under the same path.
        max_memory: bytes the whole program may take, or a size such as ``"4GB"``; layers that do not fit are read
            in blocks. None: see `rmt_compress.analysis.memory_budget`.
        resume: a file that finished layers are kept in; an interrupted analysis goes on behind those that stand
            there.
        say: told in a sentence what was found in `resume`; None for the log.

    Raises:
        SettingsError: something is out of range, or is for this machine where a scheduler is named.
    """

    jobs: int | None = setting(
        None, "Layers analysed at once; by default one per core.", within="[1, inf)", minimum=1
    )
    device: str | None = setting(
        None,
        "Where to compute: cpu (the default), cuda, cuda:1 …; of several (cuda:0,cuda:1) each analyses its share "
        "of the layers, and the rest is done on the first.",
    )
    # Of a client no name is at hand: its library is an extra, and takes long to load.
    scheduler: str | PathLike[str] | Any | None = setting(
        None,
        "Analyse on the workers of a Dask cluster, which see the file under the same path: the address of its "
        "scheduler (tcp://HOST:8786), or its scheduler file.",
        metavar="ADDRESS",
    )
    max_memory: int | str | None = setting(
        None,
        "The most memory the program may take, such as 4GB: as many layers are in work at once as fit, and one "
        "that does not fit alone is read in blocks. By default layers take three times the largest weight in "
        "float32 together, or 800 MB.",
        metavar="SIZE",
    )
    resume: Path | None = setting(
        None,
        "Keep every finished layer in this file; interrupted, the same command goes on behind them. What analyze "
        "has kept, prune takes.",
        metavar="FILE",
    )
    say: Callable[[str], None] | None = setting(None)

    def __post_init__(self) -> None:
        problems = problems_of(self)
        if self.scheduler is not None:
            problems += self._for_this_machine()
        try:
            _ = self.most_bytes
        except SettingsError as error:
            problems += error.problems
        refuse(problems)

    @property
    def most_bytes(self) -> int | None:
        """`max_memory` in bytes."""
        return None if self.max_memory is None else bytes_in(self.max_memory, "max-memory")

    def _for_this_machine(self) -> list[str]:
        """What cannot be asked of the workers of a scheduler."""
        problems = []
        if self.jobs is not None:
            problems.append(
                "jobs is for this machine: with a scheduler its workers have the threads they were started with"
            )
        if self.max_memory is not None:
            problems.append("max-memory is for this machine: that of a worker is given when it is started")
        if self.device is not None and self.device != "cpu":
            problems.append(
                f"device {self.device} is for this machine: the workers of a scheduler compute on their CPUs"
            )
        return problems
