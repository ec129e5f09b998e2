"""Analysing layers on the workers of a Dask cluster, which read them from a file system that all share.

The unit of work is the file and some of its tensors: no weight passes through the scheduler. Of lost workers Dask
takes care: what they had is given to others. See `rmt_compress.analysis.on_worker` for what a worker does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from rmt_compress.analysis.on_worker import Refused, Unit, WorkerError, analyze_unit
from rmt_compress.analysis.records import LayerAnalysis
from rmt_compress.analysis.settings import AnalysisSettings
from rmt_compress.checkpoints.provenance import tool_version
from rmt_compress.checkpoints.recognition import unreadable
from rmt_compress.checkpoints.shared_file import SharedFile
from rmt_compress.errors import ClusterError, MissingDependencyError
from rmt_compress.layers.layer import Layer
from rmt_compress.wording import counted, listed, one_line

if TYPE_CHECKING:
    from distributed import Client

    from rmt_compress.checkpoints.base import Checkpoint

    Scheduler: TypeAlias = str | PathLike[str] | Client

# Seconds: for the scheduler to answer, for a first worker to come, and between two words on those that are slow.
_ANSWER = 5
_FIRST_WORKER = 30
_SILENCE = 60
# How often a unit that failed is tried again, on whichever worker is free.
_RETRIES = 2

# Multiplications that a worker is given at a time, some .1 s of one thread: handing a unit over takes some ms.
# Fewer where each thread would get less than four units, so that the last ones end together.
_UNIT = 2e9
_UNITS_EACH = 4
_MOST_TOGETHER = 64

_log = logging.getLogger(__name__)


def analyze_on_cluster(
    work: Sequence[Layer], checkpoint: Checkpoint, settings: AnalysisSettings, scheduler: Scheduler
) -> Iterator[tuple[Layer, LayerAnalysis]]:
    """Analyse layers on the workers of a scheduler, the largest first, and yield each as it is done.

    Whatever ends this early, Ctrl-C too, takes back what no worker has begun.

    Args:
        work: the layers.
        checkpoint: a file or folder that the workers see under the same path.
        settings: of the analysis.
        scheduler: its address (``tcp://HOST:PORT``), its scheduler file, or a client of it, which stays open.

    Raises:
        CheckpointError: the file cannot be read any more.
        ClusterError: the scheduler does not answer or has no workers; a worker does not see the file, sees another
            one, has another version or failed again and again.
        MissingDependencyError: there is no dask.distributed.
        SettingsError: the tensors are in memory.
    """
    file = SharedFile.of(checkpoint)
    with _client(scheduler) as client:
        threads = sum(client.nthreads().values())
        units = [Unit(file, tuple(layers), settings) for layers in _together(work, threads)]
        _log.info("%s for %s of the cluster", counted(len(units), "unit"), counted(threads, "thread"))
        pool = client.get_executor(pure=False, retries=_RETRIES)
        futures = {pool.submit(analyze_unit, tool_version(), unit.pack()): unit for unit in units}
        try:
            for future in _as_done(futures, client):
                unit = futures.pop(future)  # and with it the result
                yield from zip(unit.layers, _result(future, unit, _address(client)), strict=True)
        finally:
            # What nobody waits for any more.
            pool.shutdown(wait=False)


def _together(work: Sequence[Layer], threads: int) -> Iterator[list[Layer]]:
    """The layers in units, those that take longest first."""
    times = {layer: layer.parameters * min(layer.matrix or (1,)) for layer in work}
    enough = min(_UNIT, sum(times.values()) / max(1, threads * _UNITS_EACH))
    unit: list[Layer] = []
    for layer in sorted(work, key=times.__getitem__, reverse=True):
        unit.append(layer)
        if sum(times[each] for each in unit) >= enough or len(unit) == _MOST_TOGETHER:
            yield unit
            unit = []
    if unit:
        yield unit


_Result = Future[list[LayerAnalysis] | Refused]


def _as_done(futures: dict[_Result, Unit], client: Client) -> Iterator[_Result]:
    """Each future as it is done; where none is for long, it is said who is waited for."""
    waiting = set(futures)
    while waiting:
        before = len(waiting)
        try:
            for future in as_completed(tuple(waiting), timeout=_SILENCE):
                waiting.discard(future)
                yield future
        except TimeoutError:
            if len(waiting) == before:
                busy = [worker for worker, tasks in client.processing().items() if tasks]
                _log.warning("no layer was done for %d s; waiting for %s", _SILENCE, listed(busy) or "workers")


def _result(future: _Result, unit: Unit, scheduler: str) -> list[LayerAnalysis]:
    from distributed import KilledWorker

    what = f"{unit.file.path}: {listed([layer.name for layer in unit.layers], 3)}"
    try:
        result = future.result()
    except CancelledError:
        raise ClusterError(f"{what}: the scheduler at {scheduler} was lost; start it and run again") from None
    except KilledWorker as error:
        raise ClusterError(
            f"{what}: {error.allowed_failures + 1} workers died of it, at last {error.last_worker.address}; "
            "give workers more memory (dask worker --memory-limit), or analyse it here"
        ) from None
    except WorkerError as error:
        raise ClusterError(f"{what}: failed {_RETRIES + 1} times, at last on {error}") from None
    except Exception as error:
        # Raised before our own code runs there: it is missing, or is another one.
        raise ClusterError(
            f"{what}: cannot be asked of the cluster: {one_line(error)}; install rmt-compress {tool_version()} and "
            "the same dask on scheduler and workers"
        ) from error
    if isinstance(result, Refused):
        raise ClusterError(f"worker {result.worker}: {result.why}")
    return result


@contextmanager
def _client(scheduler: Scheduler) -> Iterator[Client]:
    """A client of the scheduler that has workers, without a word of Dask's own on what is told in one line."""
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingDependencyError("dask.distributed", "cluster", "a scheduler") from error
    if isinstance(scheduler, Client):
        _await_workers(scheduler)
        yield scheduler
        return
    address = _address_in(scheduler)
    with _silence():
        try:
            _knock(address)
            client = Client(address, timeout=_ANSWER, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            why = str(error) or "it takes connections and says nothing"
            raise ClusterError(
                f"no Dask scheduler answers at {address}: {why}; start one (dask scheduler), or analyse here"
            ) from None
        with client:
            _await_workers(client)
            yield client


def _knock(address: str) -> None:
    """Raise what is wrong with an address: a client waits for ever for the first word of what is no scheduler."""
    from distributed.comm import connect
    from distributed.security import Security

    async def answered() -> None:
        secured = Security().get_connection_args("client")
        comm = await asyncio.wait_for(connect(address, timeout=_ANSWER, **secured), _ANSWER + 1)
        await comm.close()

    # Notebooks run a loop in this thread.
    with ThreadPoolExecutor(1) as apart:
        apart.submit(asyncio.run, answered()).result()


def _await_workers(client: Client) -> None:
    try:
        client.wait_for_workers(1, timeout=_FIRST_WORKER)
    except TimeoutError:
        raise ClusterError(
            f"the scheduler at {_address(client)} had no workers for {_FIRST_WORKER} s; start some (dask worker "
            f"{_address(client)})"
        ) from None


def _address(client: Client) -> str:
    scheduler = client.scheduler
    return "its address" if scheduler is None else str(scheduler.address)


def _address_in(scheduler: str | PathLike[str]) -> str:
    """The address of a scheduler, or what stands in a scheduler file."""
    text, path = str(scheduler), Path(scheduler)
    if "://" in text or (re.fullmatch(r"[^/\\]+:\d+", text) and not path.exists()):
        return text
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return str(found["address"])
    except OSError as error:
        raise ClusterError(
            f"{unreadable(path, error)}; a scheduler is named by its address (tcp://HOST:8786) or the file that "
            "dask scheduler --scheduler-file writes"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ClusterError(f"{path}: is no scheduler file of Dask's, which holds an address as JSON") from error


@contextmanager
def _silence() -> Iterator[None]:
    # Dask gives each of them a level.
    levels = {log: log.level for log in map(logging.getLogger, ("distributed", "distributed.client"))}
    for log in levels:
        log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for log, level in levels.items():
            log.setLevel(level)
