"""How many bytes of tensors are alive at once while torch works."""

from __future__ import annotations

import weakref
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from rmt_compress.networks.calling import tensors_in


class LiveTensors(TorchDispatchMode):
    """Counts the memory of tensors that operations make, until nobody refers to them.

    Attributes:
        peak: most bytes that were alive at once so far.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here: torch would import its compiler, for a second, to leave this class out."""
        return False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self.peak = 0
        self._now = 0
        # Views share memory: bytes count once, until the last tensor on them is gone.
        self._holders: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation and count what it makes."""
        given = {tensor.untyped_storage().data_ptr() for tensor in tensors_in((args, kwargs or {}))}
        outputs = func(*args, **(kwargs or {}))
        for tensor in tensors_in(outputs):
            storage = tensor.untyped_storage()
            place, size = storage.data_ptr(), storage.nbytes()
            if place not in self._holders and place in given:
                continue
            if place not in self._holders:
                self._now += size
                self.peak = max(self.peak, self._now)
            self._holders[place] = self._holders.get(place, 0) + 1
            weakref.finalize(tensor, self._gone, place, size)
        return outputs

    def _gone(self, place: int, size: int) -> None:
        self._holders[place] -= 1
        if not self._holders[place]:
            del self._holders[place]
            self._now -= size
