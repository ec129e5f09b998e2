"""The training state: all that a run needs to go on after a kill as if nothing had happened.

One file of tensors, numbers and text that torch loads with ``weights_only=True``. There are no random states in it:
every epoch draws its numbers from the seed and its own number.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from rmt_compress.checkpoints.pytorch.torch_reader import check_archive
from rmt_compress.errors import CheckpointError, TrainingError
from rmt_compress.outputs import replacing
from rmt_compress.spectrum import BulkFit
from rmt_compress.wording import one_line

SCHEMA = "rmt-compress/training/2"


@dataclass
class Snapshot:
    """A network's weights and which of its layers stand as two.

    Attributes:
        splits: name of each weight that stands as two and its rank, outer ones first.
        weights: the state dict.
        score: on the test samples.
        parameters: entries of the parameters.
    """

    splits: list[tuple[str, int]]
    weights: dict[str, torch.Tensor]
    score: float = 0.0
    parameters: int = 0

    def copied(self) -> Snapshot:
        """The same on the CPU, in memory of its own: training goes on in that of the network."""
        return replace(self, weights={name: value.to("cpu", copy=True) for name, value in self.weights.items()})


@dataclass
class TrainingState:
    """A run after one of its epochs.

    Attributes:
        identity: what makes it this run and no other: data, network, settings.
        epoch: the last one that is finished.
        network: its weights.
        optimizer: state by the parameters' names.
        masks: of the weights held at zero, by name.
        fits: of the layers that stand as two, by name, see `Cycle.fits`.
        events: how many lines of the log belong to it.
        seconds: that the run has taken so far.
        blocked: whether nothing more is to be cut.
        best: the smallest network whose score is within the limit asked for.
        ended: why the run is over; empty while it is not.
        limit: the worst test score that is good enough, where the first one decided it.
    """

    identity: dict[str, Any]
    epoch: int
    network: Snapshot
    optimizer: dict[str, dict[str, Any]] = field(default_factory=dict)
    masks: dict[str, torch.Tensor] = field(default_factory=dict)
    fits: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: int = 0
    seconds: float = 0.0
    blocked: bool = False
    best: Snapshot | None = None
    ended: str = ""
    limit: float | None = None

    def save(self, path: Path) -> None:
        """Write the state; the one of the epoch before stays until this one is whole."""
        content = {"schema": SCHEMA, **_shallow(self), "network": _shallow(self.network)}
        content["best"] = None if self.best is None else _shallow(self.best)
        with replacing(path) as temporary:
            try:
                torch.save(content, temporary)
            except RuntimeError as error:  # torch's word for a full disk
                raise OSError(one_line(error)) from error

    @classmethod
    def load(cls, path: Path) -> TrainingState:
        """Read a state."""
        if not path.is_file():
            raise TrainingError(f"{path}: no training state to resume from; begin anew without --resume")
        try:
            # A compressed record, which torch never writes, may unpack into any size.
            check_archive(path)
            content = torch.load(path, map_location="cpu", weights_only=True)
            if content.pop("schema") != SCHEMA:
                raise ValueError("written by another version")
            network, best = Snapshot(**content.pop("network")), content.pop("best")
            return cls(network=network, best=None if best is None else Snapshot(**best), **content)
        except CheckpointError as error:
            raise TrainingError(f"{path}: is no training state, or a damaged one ({error})") from error
        except pickle.UnpicklingError as error:
            raise TrainingError(f"{path}: is no training state: it holds more than tensors and numbers") from error
        except Exception as error:
            # A damaged pickle makes torch's reader stumble in any way.
            raise TrainingError(
                f"{path}: is no training state, or a damaged one ({one_line(error)[:200]})"
            ) from error

    @contextmanager
    def taken_up(self, path: Path | None) -> Iterator[None]:
        """What goes wrong inside, where a network goes on with the state, is a state that does not suit it.

        Raises:
            TrainingError: it does not.
        """
        try:
            yield
        except (RuntimeError, KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
            raise TrainingError(
                f"{path}: does not suit the network, or is damaged ({one_line(error)[:200]}); begin anew without "
                "--resume"
            ) from error

    def bulk_fits(self) -> dict[str, BulkFit]:
        """The remembered fits as records."""
        return {name: BulkFit(**{**fit, "window": tuple(fit["window"])}) for name, fit in self.fits.items()}


def plain_fits(fits: dict[str, BulkFit]) -> dict[str, dict[str, Any]]:
    """Fits as the plain numbers that a state holds."""
    return {name: asdict(fit) for name, fit in fits.items()}


def _shallow(record: TrainingState | Snapshot) -> dict[str, Any]:
    # asdict would copy every tensor.
    return dict(vars(record))
