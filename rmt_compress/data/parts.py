"""How one set becomes three disjoint parts, the same whenever and however it is gone through.

A split is dealt out in eighths. Where the set has a test split of its own, one eighth of the rest calibrates, and
half of the test split chooses: what a network was trained on it may know by heart, and a cut that harms it shows
nothing there. Else two eighths of the only split are the test part. What has numbers is shuffled by the seed first;
of a stream every eighth sample goes into the same eighth, where the seed says which; text stays in stretches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rmt_compress.data.samples import Part
from rmt_compress.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

EIGHTHS = 8
MOST = 8192
"""Samples of the calibration part, and of the selection part, at most."""


class Share(NamedTuple):
    """What of a split belongs to a part.

    Attributes:
        eighths: which of its eighths.
        most: how many samples at most; None for all.
    """

    eighths: tuple[int, ...] = tuple(range(EIGHTHS))
    most: int | None = None

    @property
    def whole(self) -> bool:
        """Whether it is all of the split."""
        return len(self.eighths) == EIGHTHS and self.most is None


ALL = Share()
OF_TRAIN: dict[Part, Share] = {"train": ALL, "calibration": Share((1,), MOST)}
OF_TEST: dict[Part, Share] = {"test": Share((0, 2, 4, 6)), "selection": Share((1, 3, 5, 7), MOST)}
# The first samples dealt out go to different parts, so that a set of three has all of them.
OF_ONLY: dict[Part, Share] = {
    "test": Share((0, 4)),
    "calibration": Share((1,), MOST),
    "selection": Share((2,), MOST),
    "train": Share((1, 2, 3, 5, 6, 7)),
}


def dealt(count: int, share: Share, seed: int) -> npt.NDArray[np.int64]:
    """Which of `count` samples belong to a share, in order, after a shuffle."""
    import numpy as np

    if share.whole:
        return np.arange(count)
    order = np.random.default_rng(seed).permutation(count)
    mine = order[np.isin(np.arange(count) % EIGHTHS, share.eighths)]
    return np.sort(mine[: share.most])


def stretches(count: int, share: Share) -> npt.NDArray[np.int64]:
    """Which of `count` windows of a text belong to a share, as one stretch.

    From the front: what is only trained on, selection, calibration, test. None where there are fewer than three.
    Of a test split the first half is the selection part, and the second the test part.
    """
    import numpy as np

    if share.whole:
        return np.arange(count)
    small = max(1, count // EIGHTHS)
    test = count - max(1, 2 * count // EIGHTHS)
    calibration, selection = test - small, test - 2 * small
    of_test = {OF_TEST["selection"].eighths: (0, count // 2), OF_TEST["test"].eighths: (count // 2, count)}
    of_only = {
        OF_ONLY["test"].eighths: (test, count),
        OF_ONLY["calibration"].eighths: (calibration, test),
        OF_ONLY["selection"].eighths: (selection, calibration),
    }
    if selection < 0 and share.eighths not in of_test:
        return np.arange(0)
    first, last = (of_test | of_only).get(share.eighths, (0, test))
    return np.arange(first, last)[: share.most]


def too_few(name: str, part: Part, count: int) -> DataError:
    """The error where a part would be empty."""
    return DataError(
        f"{name}: {count:,} samples are too few to set some apart for the {part} part; add some, or a test split "
        "of its own"
    )
