"""A network on its way through its blocks with all calibration inputs; hidden states at one place are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rmt_compress.networks.repair.relay import Relay, outline


class Course:
    """One network, and how far each piece of the inputs has come in it.

    Args:
        relay: the network and its blocks.
        pieces: the inputs.
    """

    def __init__(self, relay: Relay, pieces: Sequence[Any]) -> None:
        self._relay, self._pieces = relay, pieces
        self._before: list[list[Any]] = [[] for _ in pieces]

    def reach(self, index: int) -> torch.Tensor:
        """What the block that is next makes of a piece, where the block after it reads that."""
        return self._relay.run(len(self._before[index]), self._pieces[index], self._before[index]).reached

    def advance(self) -> list[torch.Tensor]:
        """Take all pieces through the next block; `reach` of each."""
        reached = []
        with torch.no_grad():
            for piece, before in zip(self._pieces, self._before, strict=True):
                passage = self._relay.run(len(before), piece, before)
                before[-1:] = map(outline, before[-1:])
                before.append(passage.output)
                reached.append(passage.reached)
        return reached
