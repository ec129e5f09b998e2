"""WeightWatcher's side of the benchmark: run by the Python of its own environment, see `weightwatcher_peer.py`.

Reads the name of a network per line, analyses it, answers one JSON line: seconds, seconds of processor time,
number of layers.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
import warnings
from pathlib import Path

import networks


def main() -> None:
    """Answer until the input ends."""
    warnings.simplefilter("ignore")
    answers = sys.stdout
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        import weightwatcher

        logging.getLogger("weightwatcher").setLevel(logging.ERROR)

        def measure(name: str) -> dict[str, float]:
            model = networks.build(name)
            start, processor = time.perf_counter(), time.process_time()
            details = weightwatcher.WeightWatcher(model=model).analyze(mp_fit=True)
            seconds, processor = time.perf_counter() - start, time.process_time() - processor
            return {"seconds": seconds, "processor_seconds": processor, "layers": len(details)}

        measure("tiny")  # whatever is set up on the first call is not the peer's fault
        print(json.dumps({"version": weightwatcher.__version__}), file=answers, flush=True)
        for line in sys.stdin:
            print(json.dumps(measure(line.strip())), file=answers, flush=True)


if __name__ == "__main__":
    main()
