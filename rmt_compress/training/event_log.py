"""The log of a run: one JSON line per event, on disk before the run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rmt_compress.errors import OutputError, TrainingError
from rmt_compress.networks.tasks.task import Metric
from rmt_compress.outputs import replacing

Event = dict[str, Any]
"""``event`` is one of

``epoch``     an epoch of training and what the test set says of it; number 0 is the network before any
``cycle``     a cut, after the epoch whose number it carries
``sparsify``  small weights set to zero after the last epoch
``end``       why the run ended, and what it leaves
"""


def metric_of(event: Event) -> Metric:
    """What the ``test_score`` of an event is."""
    return Metric(**event["score"])


class EventLog:
    """A file of JSON lines that several runs may share, and the events of one of them in memory.

    Without a path nothing is kept on disk. The run's name is written into every line, where it has one; `listener`
    is called with every new event.
    """

    def __init__(self, path: Path | None, run: str = "", listener: Callable[[Event], None] | None = None) -> None:
        self._path = path
        self._run = run
        self._listener = listener
        self.events: list[Event] = []

    def add(self, event: Event) -> None:
        """Write an event."""
        event = {**({"run": self._run} if self._run else {}), **event}
        self.events.append(event)
        if self._path is not None:
            try:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n")
            except OSError as error:
                raise OutputError(f"{self._path}: cannot be written: {error.strerror}") from error
        if self._listener is not None:
            self._listener(event)

    def forget(self) -> None:
        """Remove the file of a run from which nothing can be gone on, unless other runs are in it too."""
        if self._path is not None and self._path.exists() and len(read_lines(self._path)) == len(self.events):
            self._path.unlink()

    def take_up(self, count: int) -> None:
        """Go on after the first `count` events of this run; what was written after them leaves the file."""
        if self._path is None:
            return
        lines, own = [], []
        for line in read_lines(self._path):
            if line.get("run", "") == self._run:
                own.append(line)
                if len(own) > count:
                    continue
            lines.append(line)
        if len(own) < count:
            raise TrainingError(
                f"{self._path}: holds {len(own)} events of a run that had written {count}; resume with the log the "
                "run has written, or begin anew with --force"
            )
        self.events = own[:count]
        with replacing(self._path) as temporary:
            temporary.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")


def read_lines(path: Path) -> list[Event]:
    """The events in a log; a last line cut short by a kill is left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):
            lines.pop()
        events = [json.loads(line) for line in lines]
    except (OSError, ValueError, RecursionError) as error:
        raise TrainingError(f"{path}: cannot be read as the log of a run: {error}") from error
    if not all(isinstance(event, dict) and "event" in event for event in events):
        raise TrainingError(f"{path}: is not the log of a run")
    return events


def of_kind(events: Iterable[Event], kind: str) -> list[Event]:
    """The events of one kind, in their order."""
    return [event for event in events if event["event"] == kind]
