"""What a network is asked, whichever source it comes from: batches of inputs and, where there are any, targets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

Part = Literal["train", "calibration", "selection", "test"]
"""Three disjoint parts: what calibration sees, what chooses among candidates, and what scores the winner. ``train``
is all that is not ``test``, the other two among it."""

Targets = Literal["classes", "numbers", "tokens", "none"]


class Batch(NamedTuple):
    """A few samples.

    Attributes:
        inputs: a tensor (N, …), or a tuple or dict of such, as the network takes them: `model(inputs)`,
            `model(*inputs)` or `model(**inputs)`. Floating-point inputs are float32; whole numbers name things.
        targets: int64 (N,) classes, or (N, …) classes of places with -100 where none is asked; float32 (N, …)
            numbers; None of data without labels, and of text, whose targets are its own tokens.
    """

    inputs: Any
    targets: torch.Tensor | None


@runtime_checkable
class Samples(Protocol):
    """One part of a data set, which can be gone through as often as wanted none of it need be in memory."""

    @property
    def name(self) -> str:
        """The set's name, or the file, folder or callable it came from."""

    @property
    def part(self) -> Part:
        """Which part of the set it is."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, one sentence each."""

    @property
    def targets(self) -> Targets:
        """What `Batch.targets` are; ``tokens`` of text, of which each token is the target of those before it."""

    @property
    def classes(self) -> int | None:
        """Number of classes; None where targets are no classes, and of a stream that does not say."""

    @property
    def count(self) -> int | None:
        """Number of samples; None of a stream that has not been gone through."""

    def batches(self, size: int) -> Iterator[Batch]:
        """All samples in their order, `size` (1 at least) at a time.

        The last batch may be smaller, and so may the last before sequences of another length.

        Raises:
            DataError: the source fails, or yields what is no batch.
        """

    def thinned(self, count: int) -> Samples:
        """`count` samples, at least 1, spread evenly over the part; of a stream its first."""
