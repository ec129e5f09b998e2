"""Samples that come one after another, from the start each time; none but the batch at hand is held."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from rmt_compress.data.batches import as_batch, kind_of, leaves, length, picked, regrouped
from rmt_compress.data.parts import ALL, EIGHTHS, Share
from rmt_compress.data.samples import Batch, Part, Targets
from rmt_compress.errors import DataError
from rmt_compress.wording import one_line

Start = Callable[[], Iterator[Any]]
_BEGINNING = 64


@dataclass(frozen=True, eq=False)
class StreamTable:
    """One split that is gone through from its start each time, of which parts are taken.

    Attributes:
        name: see `Samples`.
        start: begins a pass; what it yields `as_batch` takes.
        seed: which sample of every eight is the first to be dealt out.
        classes: number of classes, where the source says so.
        notes: see `Samples`.
        count: number of samples of the split, where the source says so.
    """

    name: str
    start: Start
    seed: int
    classes: int | None = None
    notes: tuple[str, ...] = ()
    count: int | None = None
    _first: list[Batch] = field(default_factory=list, repr=False)

    def size(self, share: Share) -> int | None:
        """Number of samples in a share, where the source says how many it has."""
        if self.count is None:
            return None
        mine = sum(len(range((each - self.seed) % EIGHTHS, self.count, EIGHTHS)) for each in share.eighths)
        return mine if share.most is None else min(mine, share.most)

    def samples(self, part: Part, share: Share, notes: tuple[str, ...] = ()) -> StreamSamples:
        """A share of the split, as a part."""
        kind = kind_of(self.first)
        classes = self.classes if kind == "classes" else None
        return StreamSamples(self.name, part, self, share, kind, classes, (*self.notes, *notes))

    @property
    def first(self) -> Batch:
        """The beginning of the first batch, read once."""
        if not self._first:
            passes = self.whole()
            batch = next(passes, None)
            passes.close()
            if batch is None:
                raise DataError(f"{self.name}: it yields no batches")
            self._first.append(_beginning(batch))
        return self._first[0]

    def whole(self) -> Generator[Batch]:
        """All batches of a pass as they come.

        Raises:
            DataError: the source fails, or yields what is no batch.
        """
        try:
            passes = self.start()
        except DataError:
            raise
        except Exception as error:  # a stranger's code can raise anything
            raise DataError(f"{self.name}: it cannot be gone through ({one_line(error)})") from error
        try:
            while True:
                try:
                    given = next(passes)
                except StopIteration:
                    return
                except DataError:
                    raise
                except Exception as error:  # a stranger's code can raise anything
                    raise DataError(f"{self.name}: yielding a batch failed ({one_line(error)})") from error
                batch = as_batch(self.name, given)
                if length(batch):
                    yield batch
        finally:
            if hasattr(passes, "close"):
                passes.close()

    def share(self, share: Share) -> Iterator[Batch]:
        """The samples of a share, in batches that are smaller than those of the source."""
        import torch

        seen = taken = 0
        for batch in self.whole():
            if not seen and share.eighths != ALL.eighths:
                self._check_order(batch)
            turn = (torch.arange(seen, seen + length(batch)) + self.seed) % EIGHTHS
            seen += length(batch)
            chosen = torch.isin(turn, torch.tensor(share.eighths)).nonzero().flatten()
            if share.most is not None:
                chosen = chosen[: share.most - taken]
            taken += len(chosen)
            if len(chosen):
                yield picked(batch, chosen if len(chosen) < len(turn) else slice(None))
            if taken == share.most:
                return
        if not taken:
            raise DataError(
                f"{self.name}: {f'{seen:,} samples are too few to be divided' if seen else 'it yields no batches'}"
            )

    def _check_order(self, batch: Batch) -> None:
        """Parts of a stream are disjoint only where every pass brings the same samples in the same order."""
        import torch

        one, other = (
            leaves(each.inputs)[0][1] if each.targets is None else each.targets
            for each in (_beginning(batch), self.first)
        )
        if one.shape != other.shape or not torch.equal(one, other):
            raise DataError(
                f"{self.name}: another sample comes first each time, so that parts would overlap; fix the order, "
                "or give the callable a parameter 'part' (train, calibration, selection, test) or 'split' (train, "
                "test)"
            )


@dataclass(frozen=True, eq=False)
class StreamSamples:
    """A part of a stream.

    Attributes:
        name: see `Samples`.
        part: see `Samples`.
        table: the split it is a share of.
        share: which.
        targets: see `Samples`.
        classes: see `Samples`.
        notes: see `Samples`.
    """

    name: str
    part: Part
    table: StreamTable
    share: Share
    targets: Targets
    classes: int | None
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int | None:
        """Number of samples, where the source says how many it has."""
        return self.table.size(self.share)

    def batches(self, size: int) -> Iterator[Batch]:
        """The samples in their order, `size` (1 at least) at a time."""
        if size < 1:
            raise ValueError(f"batch size {size} is below 1")
        return regrouped(self.name, self.table.share(self.share), size)

    def thinned(self, count: int) -> StreamSamples:
        """The first `count` samples, at least 1."""
        if count < 1:
            raise ValueError(f"{count} samples are fewer than 1")
        most = self.share.most
        return replace(self, share=self.share._replace(most=count if most is None else min(count, most)))


def _beginning(batch: Batch) -> Batch:
    """A copy of the first samples: enough of them that another order shows in their labels."""
    import torch

    return picked(batch, torch.arange(min(length(batch), _BEGINNING)))
