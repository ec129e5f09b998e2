"""WeightWatcher in an environment of its own, and processes, its and ours, that analyse networks on request."""

from __future__ import annotations

import json
import os
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


# What `make bench` sets to 1: processes without it take as many threads as they would anywhere.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Analyses:
    """A running worker, with everything imported and called once.

    Args:
        python: that runs it.
        worker: the script.
        own_threads: whether it takes the threads that it takes by itself, else as many as this process may.

    Attributes:
        version: of what it runs.
    """

    def __init__(self, python: str | Path, worker: str, *, own_threads: bool = False) -> None:
        left_out = _THREADS if own_threads else ()
        self._worker = worker
        self._process = subprocess.Popen(
            [python, HERE / worker],
            env={name: value for name, value in os.environ.items() if name not in left_out},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.version: str = self._answer()["version"]

    def run(self, network: str) -> tuple[float, float]:
        """Time of the analysis of the network called `network`.

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
                f"{self._worker} ended with status {self._process.wait()}; run it by hand to see why"
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


def weightwatcher(*, own_threads: bool = False) -> Analyses:
    """`WeightWatcher(model=…).analyze(mp_fit=True)`."""
    return Analyses(python_with_weightwatcher(), "weightwatcher_worker.py", own_threads=own_threads)


def ours(*, own_threads: bool = False) -> Analyses:
    """`rmt_compress.analyze(model)`; of "exact NETWORK" with every singular value."""
    return Analyses(sys.executable, "analyze_worker.py", own_threads=own_threads)
