"""What a worker of a cluster does: it opens the file by its path, reads some of its weights and analyses them."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

from rmt_compress.analysis.records import LayerAnalysis
from rmt_compress.analysis.settings import AnalysisSettings
from rmt_compress.analysis.threads import analyze_beside_others
from rmt_compress.checkpoints.base import Checkpoint
from rmt_compress.checkpoints.provenance import tool_version
from rmt_compress.checkpoints.shared_file import SharedFile
from rmt_compress.errors import RmtCompressError
from rmt_compress.layers.layer import Layer
from rmt_compress.wording import one_line


@dataclass(frozen=True)
class Unit:
    """What a worker is given at a time; picklable, and without a tensor in it.

    Attributes:
        file: what the weights are read from.
        layers: those to analyse, each with the name, the shape and the kind of its tensor.
        settings: of the analysis.
    """

    file: SharedFile
    layers: tuple[Layer, ...]
    settings: AnalysisSettings

    def pack(self) -> bytes:
        """The unit as `analyze_unit` takes it."""
        return pickle.dumps(self)


@dataclass(frozen=True)
class Refused:
    """Why a worker cannot do its part, and no other try of its would: one line that names file and tensor."""

    worker: str
    why: str


class WorkerError(Exception):
    """Something failed on a worker that may go well on another one; picklable, unlike some errors of libraries."""


def analyze_unit(asked_by: str, packed: bytes) -> list[LayerAnalysis] | Refused:
    """Analyse the layers of a `Unit`, in order, with the threads that one task of this worker may have.

    Args:
        asked_by: version of rmt-compress that packed the unit, which is compared before it is unpacked.
        packed: see `Unit.pack`.

    Raises:
        WorkerError: anything but a fault of the file, as out of memory: worth another try.
    """
    worker = _name()
    if asked_by != (own := tool_version()):
        return Refused(worker, f"has rmt-compress {own}, and {asked_by} asks it: install one version everywhere")
    try:
        unit: Unit = pickle.loads(packed)
        checkpoint = _opened(unit.file)
        with _share_of_threads():
            return [analyze_beside_others(layer, checkpoint, unit.settings) for layer in unit.layers]
    except RmtCompressError as error:
        return Refused(worker, str(error))
    except Exception as error:
        # Whatever it is: another exception says there that this function was not reached.
        raise WorkerError(f"{worker}: {one_line(error)}") from None


# Opened once by each worker, however many units it is given; a file's header may take longer than a layer.
@lru_cache(maxsize=1)
def _opened(file: SharedFile) -> Checkpoint:
    return file.open()


def _name() -> str:
    from distributed import get_worker

    return str(get_worker().address)


@contextmanager
def _share_of_threads() -> Iterator[None]:
    """One thread for numpy's BLAS, and for torch as many as this task's part of the worker's."""
    import torch
    from distributed import get_worker

    from rmt_compress.decomposition.blas_threads import blas_threads

    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // get_worker().state.nthreads))
    try:
        with blas_threads(1):
            yield
    finally:
        # Counted for each thread, and other people's tasks run in this one too.
        torch.set_num_threads(threads)
