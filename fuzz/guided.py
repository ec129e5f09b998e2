"""`python -m fuzz.guided READER --executions N`: the readers that are Python throughout, under atheris.

libFuzzer keeps what reaches new branches of the package, and changes it further by `fuzz.mutating`, which keeps a
file's structure. atheris is no dependency: it is installed in a virtual environment of its own (`pip install
atheris`), from which this is run. It sees no memory and no child processes; `python -m fuzz` does.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from random import Random

READERS = ("safetensors", "objects", "plan", "idx", "cifar", "text", "table", "journal")
_LARGEST = 1 << 18


def main() -> int:
    """Fuzz one reader; exit status 1 where anything failed."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.guided", description=__doc__)
    parser.add_argument("reader", choices=READERS, help="which reader")
    parser.add_argument("--executions", type=int, default=10_000, help="inputs (default 10,000)")
    parser.add_argument("--seed", type=int, default=1, help="of the random changes (default 1)")
    parser.add_argument("--record", action="store_true", help="put the figures into fuzz/guided.json")
    asked = parser.parse_args()
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["rmt_compress"]):
        from fuzz import readers
        from rmt_compress.errors import RmtCompressError

        chosen = readers.READERS[asked.reader]
        seeds = [(case, entry) for case, entry in chosen.seeds() if len(case) == 1 or not entry]
        from fuzz.forks import import_readers, write

        import_readers()
    from fuzz.mutating.cases import by_kind

    # One file changes; what else is in the folder stays.
    case, entry = seeds[0]
    name = entry or min(case)
    failed: Counter[str] = Counter()
    done = accepted = 0

    def one(data: bytes) -> None:
        nonlocal done, accepted
        write({**case, name: data}, place)
        try:
            chosen.read(place / entry if entry else place)
            accepted += 1
        except RmtCompressError:
            pass
        # Whatever is no error of ours is what is looked for.
        except Exception as error:
            failed[f"{type(error).__name__}: {error}"[:200]] += 1
        done += 1
        if done >= asked.executions:
            if asked.record:
                _record(asked.reader, done, accepted, len(failed))
            print(
                f"{asked.reader}: {done:,} inputs under atheris, {accepted:,} of them read as whole; {dict(failed)}"
            )
            sys.stdout.flush()
            shutil.rmtree(folder, ignore_errors=True)
            # libFuzzer goes on for ever, or ends the process itself.
            os._exit(bool(failed))

    def changed(data: bytes, most: int, seed: int) -> bytes:
        return by_kind(name, data, Random(seed))[:most]

    with tempfile.TemporaryDirectory(prefix="fuzz-guided-") as folder:
        place, kept = Path(folder, "input"), Path(folder, "kept")
        kept.mkdir()
        for number, (own, _) in enumerate(seeds):
            (kept / str(number)).write_bytes(own.get(name, next(iter(own.values()))))
        limits = (
            "-timeout=10",
            "-rss_limit_mb=4096",
            f"-max_len={_LARGEST}",
            f"-seed={asked.seed}",
            "-verbosity=0",
        )
        atheris.Setup([sys.argv[0], *limits, str(kept)], one, custom_mutator=changed)
        atheris.Fuzz()
    return 0


def _record(reader: str, executions: int, accepted: int, failed: int) -> None:
    from fuzz.report import GUIDED

    runs = json.loads(GUIDED.read_text()) if GUIDED.exists() else {}
    runs[reader] = {"executions": executions, "accepted": accepted, "failed": failed}
    GUIDED.write_text(json.dumps({name: runs[name] for name in READERS if name in runs}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
