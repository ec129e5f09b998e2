"""Peak memory of `rmt-compress analyze FOLDER --json`, or of `prune`, as one JSON object.

    python benchmarks/memory.py FOLDER [--jobs N] [--prune OUT]

Deliberately free of heavy imports: on Linux the peak of a new process starts at the size of the one that made it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MEGABYTE = 1e6


def measure(command: list[str]) -> dict[str, float]:
    """Run a command to its end.

    Returns:
        ``peak_megabytes`` resident (10⁶ bytes), ``seconds``, and ``layers``, the number it analysed.

    Raises:
        SystemExit: the command failed; its standard error is passed on.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            sys.exit(f"{' '.join(command)}: status {process.returncode}\n{errors.read().decode()}")
        layers = json.load(output)["totals"]["layers_analyzed"]
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_megabytes": usage.ru_maxrss * unit / MEGABYTE, "seconds": seconds, "layers": layers}


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jobs", type=int, help="passed on; by default as the program chooses")
    parser.add_argument("--prune", type=Path, metavar="OUT", help="prune the checkpoint into this file instead")
    arguments = parser.parse_args()
    task = ["prune", "-o", str(arguments.prune)] if arguments.prune else ["analyze"]
    command = [sys.executable, "-m", "rmt_compress", *task, str(arguments.folder), "--json"]
    if arguments.jobs:
        command += ["--jobs", str(arguments.jobs)]
    print(json.dumps(measure(command)))


if __name__ == "__main__":
    main()
