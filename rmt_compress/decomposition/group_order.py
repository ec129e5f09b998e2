"""An order of a matrix's columns in which k of every n neighbours hold more of it.

Two groups at a time, drawn at random, the exchange of one column each that raises the sum of the kept |w| most is
made, until passes over all groups bring next to nothing (what Pool and Yu, NeurIPS 2021, call channel swaps). The
sum never falls. Without column i a group of a row keeps its k largest others, and a column that comes in adds what
it has above the k-th of them, which is the k-th or the next of the whole group: all exchanges of two groups follow
from one sorting of each.
"""

from __future__ import annotations

import torch

from rmt_compress.layers.group_patterns import Pattern

_MOST_PASSES = 300
# A pass, which looks at one partner of every group, is as good as none below this share of what is kept.
_LEAST = 2e-5
_QUIET = 6


def better_order(matrix: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """The columns in their new order, (columns,); the same for the same matrix.

    Args:
        matrix: (rows, columns), the columns a multiple of n.
        pattern: k and n.
    """
    groups = _Groups(matrix.detach().abs().float().cpu(), pattern)
    generator = torch.Generator().manual_seed(0)
    half = len(groups.members) // 2
    quiet = 0
    for _ in range(_MOST_PASSES if half else 0):
        drawn = torch.randperm(len(groups.members), generator=generator)
        gain = groups.exchange(drawn[:half], drawn[half : 2 * half])
        quiet = quiet + 1 if gain <= _LEAST * float(groups.kept.sum()) else 0
        if quiet == _QUIET:
            break
    return groups.members.flatten()


class _Groups:
    """Groups of columns, with what each keeps.

    Attributes:
        members: (groups, n), the columns of each.
        kept: (groups,), the sum of its k largest of every row.
    """

    def __init__(self, sizes: torch.Tensor, pattern: Pattern) -> None:
        count = sizes.shape[1] // pattern.of
        self.members = torch.arange(sizes.shape[1]).reshape(count, pattern.of)
        self.kept = torch.zeros(count)
        self._k = pattern.kept
        # Group by group, rows last, so that one of them lies together.
        self._sizes = sizes.T.reshape(count, pattern.of, -1).contiguous()
        self._inside = torch.zeros_like(self._sizes)
        self._least, self._following = (torch.zeros(count, 1, len(sizes)) for _ in range(2))
        self._sort(torch.arange(count))

    def exchange(self, first: torch.Tensor, second: torch.Tensor) -> float:
        """Make the best exchange of every pair of groups, where there is one; what it brought in all."""
        gains = self._gains(first, second) + self._gains(second, first).transpose(1, 2)
        now = self.kept[first] + self.kept[second]
        best, place = gains.flatten(1).max(1)
        # Sums in another order differ by rounding.
        better = best > 1e-5 * now
        width = self.members.shape[1]
        out, into = place[better] // width, place[better] % width
        a, b = first[better], second[better]
        for each in (self.members, self._sizes):
            each[a, out], each[b, into] = each[b, into], each[a, out]
        self._sort(torch.cat([a, b]))
        return float((self.kept[first] + self.kept[second] - now).sum())

    def _gains(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """What a group keeps more with column j of the other in the place of its i, (pairs, i, j)."""
        own, coming, inside = self._sizes[one], self._sizes[other], self._inside[one]
        least, following = self._least[one], self._following[one]
        lost = (inside * (following - own)).sum(2)
        above = (coming - least).clamp_(min=0)
        more = (coming - following).clamp_(min=0) - above
        return lost[:, :, None] + above.sum(2)[:, None, :] + inside @ more.transpose(1, 2)

    def _sort(self, which: torch.Tensor) -> None:
        values, places = self._sizes[which].topk(self._k + 1, dim=1)
        self._least[which], self._following[which] = values[:, self._k - 1 : self._k], values[:, self._k :]
        self._inside[which] = torch.zeros_like(self._sizes[which]).scatter_(1, places[:, : self._k], 1.0)
        self.kept[which] = values[:, : self._k].sum((1, 2))
