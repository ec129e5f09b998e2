"""Calibration by several processes: each measures its share of the batches, and the sums are added up.

Batches draw their random numbers by their place in the whole, so that it does not matter who takes which: the
moments are those of one process, to the order in which float64 numbers are added.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rmt_compress.errors import SettingsError

if TYPE_CHECKING:
    import torch


class Shares:
    """What one process does of all; of one process alone, everything.

    Args:
        several: whether all processes of torch.distributed's default group take part.

    Attributes:
        rank: which of them this is.
        count: how many there are.

    Raises:
        SettingsError: there is no such group.
    """

    def __init__(self, *, several: bool) -> None:
        self.rank, self.count = 0, 1
        if not several:
            return
        import torch.distributed as dist

        if not (dist.is_available() and dist.is_initialized()):
            raise SettingsError(
                [
                    "shared: there is no process group; start the program with torchrun or accelerate launch, and "
                    "call torch.distributed.init_process_group first"
                ]
            )
        self.rank, self.count = dist.get_rank(), dist.get_world_size()

    def has(self, place: int) -> bool:
        """Whether the batch at a place is this process's."""
        return place % self.count == self.rank

    def least(self, number: int) -> int:
        """The least of what all processes say."""
        return min(map(int, self._said(number)))

    @contextmanager
    def together(self) -> Iterator[None]:
        """What fails in one process fails in all, which else would wait for it for ever."""
        own: Exception | None = None
        try:
            yield
        except Exception as error:  # whatever it is, the others hear of it
            own = error
        # One and the same in all: a layer that is to be measured alone is so in every process.
        for rank, problem in enumerate(self._said(own)):
            if problem is not None:
                raise own if own is not None and rank == self.rank else problem

    def added_up(self, sums: Mapping[str, torch.Tensor], reached: Mapping[str, Any]) -> dict[str, Any]:
        """Make each of the sums that of all processes, in place; how far all have got together is returned."""
        if self.count > 1:
            import torch.distributed as dist

            for tensor in sums.values():
                dist.all_reduce(tensor)
        said = self._said(dict(reached))
        gradients = [each["gradient"] for each in said if each["gradient"] is not None]
        return {
            "batches": sum(each["batches"] for each in said),
            "samples": sum(each["samples"] for each in said),
            "gradient": gradients[0] if gradients else None,
        }

    def _said(self, mine: Any) -> list[Any]:
        if self.count == 1:
            return [mine]
        import torch.distributed as dist

        said: list[Any] = [None] * self.count
        dist.all_gather_object(said, mine)
        return said
