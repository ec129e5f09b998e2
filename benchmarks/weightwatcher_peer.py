"""WeightWatcher in an environment of its own, and a process in it that analyses networks on request."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE / ".venv-weightwatcher"
# torch as in constraints.txt: an unpinned one brings gigabytes.
REQUIREMENTS = ("torch==2.13.0", "weightwatcher==0.7.7")


def python_with_weightwatcher() -> Path:
    """The Python of the peer's environment, which is made on first use."""
    python = ENVIRONMENT / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    marker = ENVIRONMENT / "requirements"
    if not marker.exists() or marker.read_text() != "\n".join(REQUIREMENTS):
        print(f"installing {' '.join(REQUIREMENTS)} into {ENVIRONMENT} …", file=sys.stderr)
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
        marker.write_text("\n".join(REQUIREMENTS))
    return python


class WeightWatcherProcess:
    """A running `weightwatcher_worker.py`, with everything imported and called once.

    Attributes:
        version: WeightWatcher's own.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [python_with_weightwatcher(), HERE / "weightwatcher_worker.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.version: str = self._answer()["version"]

    def run(self, network: str) -> tuple[float, float]:
        """Time of `WeightWatcher(model=…).analyze(mp_fit=True)` on the network called `network`.

        Returns:
            (seconds, seconds of processor time of all threads).
        """
        assert self._process.stdin is not None
        self._process.stdin.write(network + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        return float(answer["seconds"]), float(answer["processor_seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"weightwatcher_worker.py ended with status {self._process.wait()}; run it by hand to see why"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
