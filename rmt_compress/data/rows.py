"""Samples that have numbers: whichever are asked for are read, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol

from rmt_compress.data.batches import as_batch, kind_of, leaves, length, mapped
from rmt_compress.data.parts import Share, dealt, stretches, too_few
from rmt_compress.data.samples import Batch, Part, Targets
from rmt_compress.errors import DataError
from rmt_compress.wording import one_line

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Rows(Protocol):
    """Where samples are read from by their numbers."""

    def __len__(self) -> int:
        """How many there are."""

    def read(self, name: str, which: npt.NDArray[np.int64], size: int) -> Iterator[Batch]:
        """The samples of these numbers in this order, checked, `size` at a time."""


@dataclass(frozen=True, eq=False)
class RowSamples:
    """A part of a set whose samples have numbers.

    Attributes:
        name: see `Samples`.
        part: see `Samples`.
        rows: where they are read from.
        which: (N,), the numbers of those that belong to the part.
        targets: see `Samples`.
        classes: see `Samples`.
        notes: see `Samples`.
    """

    name: str
    part: Part
    rows: Rows
    which: npt.NDArray[np.int64]
    targets: Targets
    classes: int | None
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(self.which)

    def batches(self, size: int) -> Iterator[Batch]:
        """The samples in their order, `size` (1 at least) at a time."""
        if size < 1:
            raise ValueError(f"batch size {size} is below 1")
        return self.rows.read(self.name, self.which, size)

    def thinned(self, count: int) -> RowSamples:
        """`count` samples, at least 1, spread evenly."""
        import numpy as np

        if count < 1:
            raise ValueError(f"{count} samples are fewer than 1")
        if count >= self.count:
            return self
        return replace(self, which=self.which[np.arange(count) * self.count // count])


@dataclass(frozen=True, eq=False)
class RowTable:
    """One split, of which parts are taken.

    Attributes:
        name: see `Samples`.
        rows: where its samples are read from.
        seed: of the shuffle before they are dealt out.
        classes: number of classes, where the source says so.
        notes: see `Samples`.
        in_stretches: whether neighbours stay together: parts are then stretches.
    """

    name: str
    rows: Rows
    seed: int
    classes: int | None = None
    notes: tuple[str, ...] = ()
    in_stretches: bool = False
    _first: list[Batch] = field(default_factory=list, repr=False)

    @property
    def count(self) -> int:
        """Number of samples of the split."""
        return len(self.rows)

    @property
    def first(self) -> Batch:
        """The first sample, read once."""
        import numpy as np

        if not self._first:
            self._first.append(next(self.rows.read(self.name, np.arange(1), 1)))
        return self._first[0]

    def share(self, share: Share) -> npt.NDArray[np.int64]:
        """The numbers of the samples that belong to a share."""
        return stretches(self.count, share) if self.in_stretches else dealt(self.count, share, self.seed)

    def size(self, share: Share) -> int:
        """Number of samples in a share."""
        return len(self.share(share))

    def samples(self, part: Part, share: Share, notes: tuple[str, ...] = ()) -> RowSamples:
        """A share of the split, as a part."""
        which = self.share(share)
        if not len(which):
            raise too_few(self.name, part, self.count)
        kind = kind_of(self.first)
        classes = self.classes if kind == "classes" else None
        return RowSamples(self.name, part, self.rows, which, kind, classes, (*self.notes, *notes))


class ArrayRows:
    """Rows of arrays or tensors, in memory or mapped from a file.

    Raises:
        DataError: they differ in length, or are empty.
    """

    def __init__(self, name: str, inputs: Any, targets: Any = None) -> None:
        self._inputs, self._targets = inputs, targets
        arrays = [each for _, each in leaves(inputs)] + ([] if targets is None else [targets])
        lengths = sorted({len(each) for each in arrays})
        if len(lengths) > 1:
            raise DataError(
                f"{name}: its arrays have {' and '.join(f'{each:,}' for each in lengths)} rows: they must agree"
            )
        if not lengths[0]:
            raise DataError(f"{name}: its arrays are empty")
        self._length = lengths[0]

    def __len__(self) -> int:
        return self._length

    @property
    def classes(self) -> int | None:
        """One more than the largest label; None where targets are none."""
        targets = self._targets
        if targets is None or "float" in str(targets.dtype):
            return None
        return max(int(targets.max()) + 1, 1)

    def read(self, name: str, which: npt.NDArray[np.int64], size: int) -> Iterator[Batch]:
        """See `Rows`."""
        for start in range(0, len(which), size):
            mine = which[start : start + size]
            inputs = mapped(self._inputs, itemgetter(mine))
            yield as_batch(name, Batch(inputs, None if self._targets is None else self._targets[mine]))


class DatasetRows:
    """Samples of a map-style data set, ``dataset[i]``, collated as its loader does.

    Args:
        dataset: anything with ``__len__`` and ``__getitem__``.
        which: the numbers that a loader's sampler draws; None for all.
        loading: keywords of `torch.utils.data.DataLoader`: how many workers, how samples are collated.
    """

    def __init__(self, dataset: Any, which: npt.NDArray[np.int64] | None = None, **loading: Any) -> None:
        self._dataset, self._which, self._loading = dataset, which, loading

    def __len__(self) -> int:
        return len(self._dataset) if self._which is None else len(self._which)

    def read(self, name: str, which: npt.NDArray[np.int64], size: int) -> Iterator[Batch]:
        """See `Rows`."""
        from torch.utils.data import DataLoader, Subset

        mine = (which if self._which is None else self._which[which]).tolist()
        loader = iter(DataLoader(Subset(self._dataset, mine), batch_size=size, **self._loading))
        while True:
            try:
                given = next(loader)
            except StopIteration:
                return
            except DataError:
                raise
            except Exception as error:  # a stranger's code can raise anything
                raise DataError(f"{name}: reading its samples failed ({one_line(error)})") from error
            batch = as_batch(name, given)
            if length(batch) > size:
                raise DataError(f"{name}: its collate_fn makes {length(batch)} of {size} samples")
            yield batch
