"""Our side of a comparison in a process of its own, answering as `weightwatcher_worker.py` does.

Reads the name of a network per line, "exact" before it where every singular value is asked for; answers one JSON
line: seconds, seconds of processor time, number of layers.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version

import networks

import rmt_compress


def measure(line: str) -> dict[str, float]:
    """One analysis."""
    model = networks.build(line.split()[-1])
    start, processor = time.perf_counter(), time.process_time()
    analysis = rmt_compress.analyze(model, exact=line.startswith("exact "))
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    return {"seconds": seconds, "processor_seconds": processor, "layers": len(analysis.analyzed)}


def main() -> None:
    """Answer until the input ends."""
    measure("tiny")  # imports what it imports on first use
    print(json.dumps({"version": version("rmt-compress")}), flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(line.strip())), flush=True)


if __name__ == "__main__":
    main()
