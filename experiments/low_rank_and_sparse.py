"""A matrix as the sum of a low-rank part and a sparse one, S + LR.

The low-rank part first, then the sparse remainder, in turns (GoDec: Zhou and Tao, ICML 2011): each is the best
there is for what the other leaves, so that the error ‖W − L − S‖_F never rises. No file has a place for such a sum;
docs/sparse-masks.md says what it was worth.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

_TURNS = 3


class LowRankAndSparse(NamedTuple):
    """W ≈ up·down + sparse.

    Attributes:
        down: (r, columns).
        up: (rows, r).
        sparse: (rows, columns), dense in memory.
    """

    down: torch.Tensor
    up: torch.Tensor
    sparse: torch.Tensor

    def joined(self) -> torch.Tensor:
        """The matrix that they stand for."""
        return self.up @ self.down + self.sparse


def low_rank_and_sparse(matrix: torch.Tensor, rank: int, entries: int, *, turns: int = _TURNS) -> LowRankAndSparse:
    """The sum of a matrix of rank r and one of few entries that is near a given one.

    Args:
        matrix: (rows, columns), of a type that torch decomposes.
        rank: r, 0 for no such part.
        entries: how many of the sparse part are not zero.
        turns: how often each part is made anew for what the other leaves.

    Raises:
        ValueError: more directions or entries than there are, or no turn.
    """
    if not 0 <= rank <= min(matrix.shape) or not 0 <= entries <= matrix.numel() or turns < 1:
        raise ValueError(f"no rank {rank} with {entries} entries in {turns} turns for {tuple(matrix.shape)}")
    sparse = torch.zeros_like(matrix)
    for _ in range(turns):
        left, values, right = torch.linalg.svd(matrix - sparse, full_matrices=False)
        scale = values[:rank].sqrt()
        up, down = left[:, :rank] * scale, scale[:, None] * right[:rank]
        rest = (matrix - up @ down).flatten()
        stays = rest.abs().topk(entries).indices
        sparse = torch.zeros_like(rest).index_copy_(0, stays, rest[stays]).reshape(matrix.shape)
    return LowRankAndSparse(down, up, sparse)
