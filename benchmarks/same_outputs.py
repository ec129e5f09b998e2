"""Whether two checkouts of this project do the same: stdout, stderr, exit status and files, byte by byte.

    python benchmarks/same_outputs.py OLD                      # against the working tree this script stands in
    python benchmarks/same_outputs.py OLD NEW                  # folders, or git revisions of this repository
    python benchmarks/same_outputs.py OLD --only 'prune *'     # only cases that match; repeatable

Every case of `compared_cases.py` runs once with each checkout, both at the same time, each in a fresh folder with
copies of the inputs it names. The inputs are made once, and carry the same time stamps; the sample models are
those of OLD. What may differ between two runs of one checkout is in `VARYING`, nothing else; the version is the
installed package's and so the same for both. Threads are fixed at one. Exit status 1 when something differs. Real
data is looked for under $RMT_COMPRESS_DATA, else ../shared/data, and the networks in models/ beside it; cases
that need what is not there are left out, and counted.

To be quick, each side forks its commands from one process that has imported the libraries, but nothing of ours.
"""

from __future__ import annotations

import argparse
import difflib
import fnmatch
import importlib
import json
import logging
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

from compared_cases import LIBRARY_START, cases, make_inputs, missing, needed

REPOSITORY = Path(__file__).resolve().parents[1]


def _numbers_blanked(found: re.Match[str]) -> str:
    return re.sub(r": [-+\d.e]+", ": *", found[0])


def _widths_blanked(found: re.Match[str]) -> str:
    return re.sub(r" +$", "", re.sub(r"  +|─+", " ", found[0]), flags=re.MULTILINE)


VARYING: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    # Milliseconds of a forward pass, in JSON and in the table's row with its change ("1.2× faster", "no gain").
    (r'"latency_ms": \{[^{}]*\}', _numbers_blanked),
    # Their digits may also be what makes a column as wide as it is ("0.0512 ms"), in such a table and no other.
    (r"(?ms)\A.*^ *time, batch of \d+ .*\Z", _widths_blanked),
    (r"(?m)^( *time, batch of \d+ ).*$", r"\1*"),
    # Seconds of training, cutting and testing: finetune's JSON and log; `elapsed` is their sum at the end.
    (r'"seconds": \{[^{}]*\}', _numbers_blanked),
    (r'"elapsed": [-+\d.e]+', '"elapsed": *'),
    # The same as the last two columns of finetune's table, behind "fewer" (a share) and "not zero" (a count).
    (r"(?m)(\d% +[\d,]+) +\d+ +[\d.]+% *$", r"\1 *"),
)
"""What two runs of one checkout do not agree on, in text; applied to nothing that holds other bytes."""


PRELOADED = (
    *(
        "torch",
        "torch.export",
        "torch.onnx",
        "scipy.linalg",
        "scipy.special",
        "scipy.optimize",
        "safetensors.torch",
    ),
    *("typer", "rich.table", "pydantic", "onnx", "onnxscript", "sklearn.datasets", "accelerate"),
    *("sklearn.model_selection", "matplotlib.backends.backend_agg", "matplotlib.figure", "threadpoolctl"),
)


def serve() -> None:
    """Run what stdin asks for, each line a command in a fork of this process, and answer with its exit status."""
    for name in PRELOADED:
        importlib.import_module(name)
    for line in sys.stdin:
        folder, step, out, err = json.loads(line)
        if child := os.fork():
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
            continue
        for number, (path, flags) in enumerate(((os.devnull, os.O_RDONLY), (out, os.O_WRONLY), (err, os.O_WRONLY))):
            os.dup2(os.open(path, flags | (os.O_CREAT if number else 0)), number)
        os.chdir(folder)
        sys.path[0] = folder
        status = run_step(step)
        sys.stdout.flush()
        sys.stderr.flush()
        # Libraries that are shut down at exit wait for threads that the fork does not have.
        os._exit(status)


def run_step(step: str) -> int:
    """Run one command in this process, as a process of its own would; its exit status."""
    try:
        if step.startswith("python "):
            sys.argv = ["-c"]
            exec(LIBRARY_START + step.removeprefix("python "), {"__name__": "__main__"})
        else:
            sys.argv = ["rmt-compress", *shlex.split(step)]
            runpy.run_module("rmt_compress", run_name="__main__", alter_sys=True)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException as error:
        # Whatever a process would end with; without the traceback, whose lines may move.
        print("".join(traceback.format_exception_only(error)), file=sys.stderr)
        return 1
    return 0


class Side(threading.Thread):
    """One checkout, running every case.

    Attributes:
        results: case -> what it left: the name of a stream or file -> its bytes.
        seconds: case -> its time.
    """

    def __init__(self, checkout: Path, todo: list[str], inputs: Path, root: Path, data: Path | None) -> None:
        super().__init__(daemon=True)
        root.mkdir()
        self.results: dict[str, dict[str, bytes]] = {}
        self.seconds: dict[str, float] = {}
        self._checkout, self._todo, self._inputs, self._root = checkout, todo, inputs, root
        env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
        env |= {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
        env |= {"COLUMNS": "100", "TERM": "dumb", "PYTHONHASHSEED": "0", "PYTHONPATH": str(checkout), "TZ": "UTC"}
        env |= {"PYTHONPYCACHEPREFIX": str(root / "pycache")}
        if data is not None:
            env["RMT_COMPRESS_DATA"] = str(data)
        command = [sys.executable, "-c", "import importlib.util as u; print(u.find_spec('rmt_compress').origin)"]
        found = subprocess.run(command, env=env, capture_output=True, text=True, check=True, cwd=root).stdout
        if not Path(found.strip()).resolve().is_relative_to(checkout.resolve()):
            sys.exit(f"{checkout} holds no rmt_compress: {found.strip()} would be run")
        self._server = subprocess.Popen(
            [sys.executable, __file__, "--serve"], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self) -> None:
        """Run the cases in turn."""
        for case in self._todo:
            start = time.perf_counter()
            if not (self._checkout / "rmt_compress").is_dir():
                print(f"{self._checkout} has gone, and an installed rmt_compress would be run", file=sys.stderr)
                break
            self.results[case] = self._left_by(case)
            self.seconds[case] = time.perf_counter() - start
        self._server.communicate()

    def _left_by(self, case: str) -> dict[str, bytes]:
        folder = self._root / "case"
        folder.mkdir()
        for name in {"nets.py", *needed(case, self._inputs)}:
            source, target = self._inputs / name, folder / name
            shutil.copytree(source, target) if source.is_dir() else shutil.copy2(source, target)
        left = {}
        streams = (self._root / "stdout", self._root / "stderr")
        # Steps of the library hold `;` of their own, without the space before it.
        for number, step in enumerate(case.split(" ; "), start=1):
            if step.startswith("#"):
                continue
            assert self._server.stdin is not None
            assert self._server.stdout is not None
            print(json.dumps([str(folder), step, *map(str, streams)]), file=self._server.stdin, flush=True)
            left[f"step {number}, exit status"] = self._server.stdout.readline().encode()
            for stream in streams:
                left[f"step {number}, {stream.name}"] = stream.read_bytes()
                stream.unlink()
        for path in sorted(folder.rglob("*")):
            name = f"{path.relative_to(folder)} (mode {path.stat().st_mode:o})"
            left[name] = b"" if path.is_dir() else path.read_bytes()
        shutil.rmtree(folder)
        # Both roots are equally long.
        return {name: content.replace(bytes(self._root), b"ROOT") for name, content in left.items()}


def difference(name: str, old: bytes | None, new: bytes | None) -> list[str]:
    """What to say of one stream or file: nothing where both sides agree."""
    if old is None or new is None:
        return [f"{name}: only in {'NEW' if old is None else 'OLD'}"]
    if old == new:
        return []
    try:
        texts = [side.decode() for side in (old, new)]
    except UnicodeDecodeError:
        first = next(
            (at for at, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new))
        )
        return [f"{name}: {len(old):,} and {len(new):,} bytes, the first difference at byte {first:,}"]
    for pattern, replacement in VARYING:
        texts = [re.sub(pattern, replacement, text) for text in texts]
    before, after = (text.splitlines() for text in texts)
    lines = list(difflib.unified_diff(before, after, lineterm="", n=1))
    if not lines and texts[0] != texts[1]:
        lines = ["only the line ends differ"]
    return [f"{name}:", *(f"    {line[:300]}" for line in lines[2:16])] if lines else []


def checkout(named: str, folder: Path) -> Path:
    """A folder as it is; a git revision in a temporary worktree."""
    if Path(named).is_dir():
        return Path(named).resolve()
    command = ["git", "-C", str(REPOSITORY), "worktree", "add", "--quiet", "--detach", str(folder), named]
    subprocess.run(command, check=True)
    return folder


def compare(sides: tuple[Side, Side], todo: list[str]) -> int:
    """Run both sides, report every case, and count those that differ."""
    for side in sides:
        side.start()
    different = 0
    for case in todo:
        while not all(case in side.seconds for side in sides):
            time.sleep(0.05)
            # In this order: a side that has just come to its end has noted everything.
            if any(not side.is_alive() and case not in side.seconds for side in sides):
                sys.exit("a side has ended early; see above")
        old, new = (side.results.pop(case) for side in sides)
        found = [line for name in {**old, **new} for line in difference(name, old.get(name), new.get(name))]
        different += bool(found)
        seconds = max(side.seconds[case] for side in sides)
        print(f"{'DIFFERENT' if found else 'same'} {seconds:.1f} s  {case}", *found, sep="\n    ", flush=True)
    return different


def main() -> None:
    """Compare and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="a checkout, or a git revision")
    parser.add_argument("new", nargs="?", default=str(REPOSITORY), help="the same; by default this working tree")
    parser.add_argument("--only", metavar="GLOB", action="append", help="only such cases; repeatable")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="copy the inputs here")
    options = parser.parse_args()
    named = Path(os.environ.get("RMT_COMPRESS_DATA", REPOSITORY.parent / "shared" / "data")).resolve()
    data = named if named.is_dir() else None
    wanted = [case for case in cases() if any(fnmatch.fnmatch(case, glob) for glob in options.only or ["*"])]
    with tempfile.TemporaryDirectory(prefix="same-", ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        try:
            old, new = (checkout(getattr(options, side), root / f"checkout-{side}") for side in ("old", "new"))
            inputs = root / "inputs"
            inputs.mkdir()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch, about its own older formats
                logging.disable(logging.WARNING)
                make_inputs(inputs, old / "sample_models", data)
            if options.keep:
                shutil.copytree(inputs, options.keep)
            todo = [case for case in wanted if not missing(case, inputs, data)]
            sides = tuple(
                Side(path, todo, inputs, root / name, data) for path, name in ((old, "old"), (new, "new"))
            )
            different = compare((sides[0], sides[1]), todo)
        finally:
            for path in root.glob("checkout-*"):
                subprocess.run(
                    ["git", "-C", str(REPOSITORY), "worktree", "remove", "--force", str(path)], check=False
                )
    steps = sum(not step.startswith("#") for case in todo for step in case.split(" ; "))
    print(
        f"\n{steps} commands in {len(todo)} cases, {len(wanted) - len(todo)} left out: {different or 'none'} differ"
    )
    print("seconds: " + ", ".join(f"{sum(side.seconds.values()):.0f}" for side in sides))
    sys.exit(different > 0)


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["--serve"] else main()
