"""Sums of products of vectors, in float64 whatever the vectors are.

The products of wide float32 vectors are summed in their own type over a few thousand at a time, and only that is
rounded: to 1e-6 where all vectors are the same, to 1e-7 where they differ. Sums over all batches are float64.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch

_ROWS = 4096
"""Vectors whose products are summed in their own type."""
_NARROW = 256
"""Below this width products of float64 cost next to nothing; of float32 they are less exact than of wide vectors,
since the matrix kernels sum all rows in one go."""

Shape = Literal["matrix", "diagonal", "trace"]


class SecondMoment:
    """Σ x xᵀ over vectors x of `width` numbers, of a stack for every expert.

    Args:
        width: numbers in a vector.
        experts: how many sums there are side by side; None for one without an axis of its own.
        shape: the whole matrix, (width, width); its diagonal; or only the trace.
        mean: whether Σ x is kept too.
        device: where.
    """

    def __init__(
        self, width: int, experts: int | None, shape: Shape, *, mean: bool, device: torch.device | str = "cpu"
    ) -> None:
        ahead = () if experts is None else (experts,)
        size = {"matrix": (width, width), "diagonal": (width,), "trace": ()}[shape]
        zeros = partial(torch.zeros, dtype=torch.float64, device=device)
        self.shape = shape
        self.width = width
        self.products = zeros((*ahead, *size))
        self.total = zeros((*ahead, width)) if mean else None
        self.count = zeros(ahead)

    @staticmethod
    def bytes(width: int, experts: int | None, shape: Shape, *, mean: bool) -> int:
        """What such a sum takes."""
        entries = {"matrix": width * width, "diagonal": width, "trace": 1}[shape] + width * mean
        return 8 * entries * (experts or 1)

    @staticmethod
    def beside(width: int) -> int:
        """Bytes beside a matrix while it is added to: the products of some rows, in float32 and in float64."""
        return 12 * min(_block(width), width) * width

    def add(
        self,
        vectors: torch.Tensor,
        *,
        expert: int | None = None,
        factor: float = 1.0,
        weights: torch.Tensor | None = None,
    ) -> None:
        """Add vectors, (…, width), of one expert where there are several; of all experts (experts, …, width).

        `factor` is what one vector counts; `weights`, (…,) with a mean of 1, what each counts among them.
        """
        if self.count.dim() == 1 and expert is None:
            for number, own in enumerate(vectors):
                self.add(own, expert=number, factor=factor, weights=None if weights is None else weights[number])
            return
        # In place, also where they are 0-d views.
        at: Any = () if expert is None else expert
        rows = vectors.reshape(-1, self.width)
        if rows.dtype not in (torch.float32, torch.float64):
            rows = rows.float()
        rows = rows.to(self.products.device)
        roots = None if weights is None else weights.reshape(-1, 1).to(rows).sqrt()
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            root = None if roots is None else roots[start : start + _ROWS]
            part = part if root is None else part * root
            if self.shape == "matrix":
                _add_products(self.products[at], part, factor)
            elif self.shape == "diagonal":
                self.products[at] += factor * part.square().sum(0, dtype=torch.float64)
            else:
                self.products[at] += factor * part.square().sum(dtype=torch.float64)
            if self.total is not None:
                whole = part if root is None else part * root
                self.total[at] += factor * whole.sum(0, dtype=torch.float64)
        self.count[at] += factor * len(rows)

    def symmetric(self) -> torch.Tensor:
        """The sums, the half that was left out filled in; in place."""
        if self.shape == "matrix":
            for matrix in self.products if self.products.dim() == 3 else (self.products,):
                _mirror(matrix)
        products: torch.Tensor = self.products
        return products

    def state(self) -> dict[str, torch.Tensor]:
        """All that a sum goes on from."""
        held = {"products": self.products, "count": self.count}
        return held if self.total is None else {**held, "total": self.total}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from a state of a sum of the same shape."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])


def _add_products(total: torch.Tensor, rows: torch.Tensor, factor: float) -> None:
    """Add the products of `rows` to the lower half of `total`, and to some of the upper; half the work is saved."""
    width = rows.shape[1]
    if width < _NARROW:
        rows = rows.double()
    step = _block(width)
    for start in range(0, width, step):
        stop = min(start + step, width)
        total[start:stop, :stop].add_(rows[:, start:stop].T @ rows[:, :stop], alpha=factor)


def _mirror(matrix: torch.Tensor) -> None:
    width = len(matrix)
    step = _block(width)
    for start in range(0, width, step):
        stop = min(start + step, width)
        square = matrix[start:stop, start:stop]
        square.copy_((square + square.T) / 2)
        matrix[:start, start:stop] = matrix[start:stop, :start].T


def _block(width: int) -> int:
    return 128 if width < 1024 else 256
