"""The inputs of the last steps: what moments and batch-norm statistics are taken from at a cut.

A cut looks at the network as it has just become, on samples that it has just seen, and no data are read for that.
Nothing of it needs to be saved: a cut comes right after its epoch, and an epoch that is trained again after a kill
has the same steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from rmt_compress.networks.calling import first_axis


class RecentInputs:
    """Batches of inputs as the network is called with them, the last ones, of `count` samples or a few more.

    Args:
        count: how many samples are kept; whole batches are, so that it may be one batch more.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._batches: deque[Any] = deque()
        self._sizes: deque[int] = deque()

    @property
    def full(self) -> bool:
        """Whether there are as many samples as are kept."""
        return sum(self._sizes) >= self._count

    def add(self, inputs: Any) -> None:
        """Keep a batch, and drop the first ones that the others make up for."""
        self._batches.append(inputs)
        self._sizes.append(first_axis(inputs))
        while sum(self._sizes) - self._sizes[0] >= self._count:
            self._batches.popleft()
            self._sizes.popleft()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)
