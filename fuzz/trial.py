"""Trials: forked children of one warmed process that read changed files, within limits, while a canary listens."""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from fuzz.canary import CANARY
from fuzz.forks import BROKEN, ending, import_readers, in_child, take_libraries, warm, write
from fuzz.mutating.archives import BOMBS
from fuzz.mutating.bombs import zeros
from fuzz.mutating.cases import Case, mutated
from fuzz.readers import PACKAGE, Reader
from fuzz.seeds import Seed
from rmt_compress.errors import RmtCompressError

if TYPE_CHECKING:
    from coverage import Coverage

SECONDS = 10
"""Processor time that one input may take."""
MEMORY = 400 << 20
"""Bytes that may become resident for one input, beside twice its size."""
# Larger requests are refused by the system: what is asked for and never used is no memory taken.
_ADDRESSES = 2 << 30
_BATCH = 500
_LARGEST_SEED = 1 << 18
# Tracing takes as long as reading. Later inputs reach few new lines, and of their batches one in six is traced.
_ALL_TRACED = 1000
# By the clock: on a machine that does much else, a process may stand still for minutes.
_WAIT = 900


@dataclass(frozen=True)
class Failure:
    """An input that a reader neither took nor refused in one line.

    Attributes:
        kind: what happened and where, the same for inputs that fail alike.
        said: all that is known of it.
        case: the files.
        entry: which of them was opened.
    """

    kind: str
    said: str
    case: Case
    entry: str


@dataclass
class Campaign:
    """What has come of a reader's trials.

    Attributes:
        reader: its name.
        seed: of the random changes.
        executions: inputs that were read.
        accepted: those of them that were taken for whole.
        failures: the first of each kind.
        failed: number of inputs that failed, by kind.
        lines: that were reached, and that there are.
        seconds: that it took.
        longest: processor seconds of the input that took most.
        most_memory: bytes that became resident for the input that took most.
    """

    reader: str
    seed: int
    executions: int = 0
    accepted: int = 0
    failures: dict[str, Failure] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    reached: dict[str, set[int]] = field(default_factory=dict)
    lines: tuple[int, int] = (0, 0)
    seconds: float = 0.0
    longest: float = 0.0
    most_memory: int = 0

    def add(self, failure: Failure) -> None:
        """Count a failure, and keep it where it is the first of its kind."""
        self.failures.setdefault(failure.kind, failure)
        self.failed[failure.kind] = self.failed.get(failure.kind, 0) + 1


def fuzz(
    reader: Reader,
    *,
    seconds: float = float("inf"),
    executions: int | None = None,
    seed: int = 0,
    measure: bool = True,
) -> Campaign:
    """Try changed inputs until the time or their number is used up.

    Seeds themselves come first. Where lines are measured, an input that reaches new ones becomes a seed of later
    batches.
    """
    campaign = Campaign(reader.name, seed)
    import_readers()
    for megabytes in BOMBS:
        zeros(megabytes)
    seeds = in_child(reader) if reader.threaded else list(reader.seeds())
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory if memory.is_dir() else None) as name:
        root = Path(name)
        (root / "canary.bin").write_bytes(b"canary")
        if not reader.threaded:
            warm(reader, seeds, root)
        gc.freeze()
        begun = time.monotonic()
        number = 0
        while time.monotonic() - begun < seconds and (executions is None or number < executions):
            stop = number + _BATCH if executions is None else min(number + _BATCH, executions)
            traced = measure and (number < _ALL_TRACED or number // _BATCH % 6 == 0)
            number = _batch(reader, campaign, seeds, range(number, stop), root, traced)
    campaign.executions = number
    campaign.lines = _counted(reader, campaign.reached) if measure else (0, 0)
    campaign.seconds = time.monotonic() - begun
    return campaign


def changed(seeds: list[Seed], seed: int, number: int) -> Seed:
    """The input of this number; the first ones are the seeds as they are."""
    if number < len(seeds) and seed == 0:
        return seeds[number]
    rng = Random(f"{seed}/{number}")
    case, entry = rng.choice(seeds)
    return mutated(case, rng), entry


def _batch(reader: Reader, campaign: Campaign, seeds: list[Seed], numbers: range, root: Path, measure: bool) -> int:
    """Read some inputs in one child; the number of the next one, which is after a fatal one where there was one."""
    ours, theirs = Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        with ending():
            ours.close()
            _work(reader, seeds, campaign, numbers, root, theirs, measure)
    theirs.close()
    current, fresh = numbers.start, []
    since, spent = time.monotonic(), 0.0
    ended = ""
    try:
        while True:
            if not ours.poll(0.5):
                used = _processor_seconds(child) - spent
                if used > SECONDS or time.monotonic() - since > _WAIT:
                    ended = f"takes more than {SECONDS} seconds"
                    os.kill(child, signal.SIGKILL)
                    break
                continue
            what, *rest = ours.recv()
            if what == "begins":
                current, since = rest[0], time.monotonic()
                spent = _processor_seconds(child)
            elif what == "read":
                taken, took, memory = rest
                campaign.accepted += taken
                campaign.longest = max(campaign.longest, took)
                campaign.most_memory = max(campaign.most_memory, memory)
            elif what == "failed":
                campaign.add(rest[0])
            elif what == "new":
                fresh += rest[0]
                for file, found in rest[1].items():
                    campaign.reached.setdefault(file, set()).update(found)
    except EOFError:
        pass
    _, status = os.waitpid(child, 0)
    ours.close()
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == BROKEN:
        raise RuntimeError(f"the fuzzer itself stumbles at input {current} of {reader.name}")
    if not ended and os.WIFSIGNALED(status):
        ended = f"ends the process by signal {os.WTERMSIG(status)}"
    if ended:
        case, entry = changed(seeds, campaign.seed, current)
        campaign.add(Failure(ended, ended, case, entry))
    seeds.extend(fresh)
    return current + 1 if ended else numbers.stop


def _processor_seconds(process: int) -> float:
    try:
        numbers = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


def _work(
    reader: Reader,
    seeds: list[Seed],
    campaign: Campaign,
    numbers: range,
    root: Path,
    told: Connection,
    measure: bool,
) -> None:
    """The child: read these inputs."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    sys.stderr = os.fdopen(os.dup(2), "w")
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    if reader.threaded:
        take_libraries(reader)
        warm(reader, [changed(seeds, 0, number) for number in range(min(len(seeds), 8))], root)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tracer = _tracer(reader) if measure else None
    reached = {file: set(lines) for file, lines in campaign.reached.items()}
    folder = root / f"child-{os.getpid()}"
    for number in numbers:
        told.send(("begins", number))
        try:
            case, entry = changed(seeds, campaign.seed, number)
        except MemoryError:
            continue
        if tracer is not None:
            tracer.start()
        begun = time.process_time()
        problem, memory = _read(reader, case, entry, folder)
        took = time.process_time() - begun
        if took > SECONDS:
            problem = f"takes more than {SECONDS} seconds", f"{took:.1f} s"
        if tracer is not None:
            tracer.stop()
            data, fresh = tracer.get_data(), {}
            for file in data.measured_files():
                lines = set(data.lines(file) or ()) - reached.setdefault(file, set())
                if lines:
                    fresh[file] = lines
                    reached[file] |= lines
            small = sum(map(len, case.values())) < _LARGEST_SEED
            if fresh:
                told.send(("new", [(case, entry)] * (small and isinstance(problem, bool)), fresh))
        told.send(("read", problem is True, took, memory))
        if isinstance(problem, tuple):
            told.send(("failed", Failure(*problem, case, entry)))
    shutil.rmtree(folder, ignore_errors=True)


def _tracer(reader: Reader) -> Coverage:
    from coverage import Coverage

    return Coverage(data_file=None, config_file=False, include=reader.files)


def _read(reader: Reader, case: Case, entry: str, folder: Path) -> tuple[bool | tuple[str, str], int]:
    """Whether the reader takes the files or refuses them, or what else happened, in short and in full.

    And how many bytes became resident.
    """
    write(case, folder)
    _forget_peak()
    before = _resident()
    result: bool | tuple[str, str] = True
    with CANARY.watching(folder, forbidden=folder.parent / "canary.bin") as seen:
        try:
            reader.read(folder / entry if entry else folder)
        except RmtCompressError as error:
            said = str(error)
            result = False
            if "\n" in said or len(said) > 3000:
                result = f"no line but {len(said)} characters: {_place(error)}", said
        # Whatever is no error of ours is what is looked for: `SystemExit` too.
        except BaseException as error:
            result = f"{type(error).__name__}: {_place(error)}", "".join(traceback.format_exception(error)[-30:])
    grown = _peak() - before
    if seen:
        return (f"does {seen[0]}", "\n".join(seen)), grown
    if grown - 2 * sum(map(len, case.values())) > MEMORY:
        return ("takes too much memory", f"{grown >> 20} MB"), grown
    return result, grown


def _place(error: BaseException) -> str:
    """The innermost line of the package that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith(str(PACKAGE))]
    if not own:
        return "outside of the package"
    last = own[-1]
    return f"{Path(last.filename).relative_to(PACKAGE.parent)}:{last.lineno} in {last.name}"


def _forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _status(key: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{key}:")[2].split()[0]) << 10


def _resident() -> int:
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _counted(reader: Reader, reached: dict[str, set[int]]) -> tuple[int, int]:
    """How many statements of the reader's files were reached, and how many there are.

    What imports run, before any child, counts as reached: lines outside of functions.
    """
    import ast

    import coverage

    tracer = coverage.Coverage(data_file=None, config_file=False)
    done = all_ = 0
    for file in reader.files:
        _, statements, _, _, _ = tracer.analysis2(file)
        inside: set[int] = set()
        for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                inside.update(range(node.body[0].lineno, (node.end_lineno or node.lineno) + 1))
        own = set(statements) & inside
        all_ += len(own)
        done += len(own & reached.get(file, set()))
    return done, all_


def keep(failures: Iterable[Failure], folder: Path) -> list[Path]:
    """Write failing inputs, each in a folder of its own, with what is known of it."""
    kept = []
    for failure in failures:
        place = folder / hashlib.sha256(failure.kind.encode()).hexdigest()[:12]
        shutil.rmtree(place, ignore_errors=True)
        for name, content in failure.case.items():
            (place / "input" / name).parent.mkdir(parents=True, exist_ok=True)
            (place / "input" / name).write_bytes(content)
        (place / "said.txt").write_text(
            f"{failure.kind}\nopened: {failure.entry or 'the folder'}\n{failure.said}\n"
        )
        kept.append(place)
    return kept
