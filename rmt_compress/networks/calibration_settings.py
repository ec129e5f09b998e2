"""What calibration and repair are asked, as settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rmt_compress.data.settings import DataSettings
from rmt_compress.settings.declaring import setting
from rmt_compress.settings.validation import problems_of, refuse

Repair = Literal["none", "statistics", "blocks"]
PANEL = "Calibration"
SELF = "self"
"""What is written for inputs that the network makes itself."""


@dataclass(frozen=True)
class CalibrationSettings:
    """What decides which inputs a network is calibrated with; names every problem at once.

    Attributes:
        calibrate: data whose inputs are seen, as after ``--data``; ``self`` for inputs that the network makes; None
            for the calibration part of the data, or ``self`` where there are none.
        calibration_samples: the most that are seen; None for what some 2e11 multiply-adds allow.
        selection_samples: the most that candidates are asked; None for what some 3e11 multiply-adds allow.
        repair: ``statistics`` estimates those of batch norms anew after a cut; ``blocks`` trains the factors,
            biases and norms of each block too, to return what it returned; ``none`` leaves all. None for
            ``statistics`` after a cut within a budget, and ``none`` after one at the edge.
        input_shape: of one input that the network makes itself, ``3,224,224``; None where it tells by itself.
        seed: of all that is drawn.
        data: how data are read that are named here.

    Raises:
        SettingsError: listing everything that is out of range.
    """

    calibrate: str | None = setting(
        None,
        "Inputs to calibrate with: as --data, or self for inputs that the network makes itself; by default a part "
        "of --data that scores nothing, else self.",
        metavar="DATA",
        panel=PANEL,
    )
    calibration_samples: int | None = setting(
        None,
        "Calibrate with N samples at most; by default what takes some seconds, 128 to 8,192.",
        within="[1, inf)",
        minimum=1,
        metavar="N",
        panel=PANEL,
    )
    selection_samples: int | None = setting(
        None,
        "Ask candidates N samples at most; by default what takes some seconds, 128 to 8,192.",
        within="[1, inf)",
        minimum=1,
        metavar="N",
        panel=PANEL,
    )
    repair: Repair | None = setting(
        None,
        "After a cut: estimate batch-norm statistics anew, by default where there is a budget; or train block "
        "after block too, which takes minutes.",
        panel=PANEL,
    )
    input_shape: str | None = setting(
        None, "Shape of one input that the network makes itself, as 3,224,224.", metavar="SHAPE", panel=PANEL
    )
    seed: int = setting(0)
    data: DataSettings = setting(DataSettings())

    def __post_init__(self) -> None:
        problems = problems_of(self)
        if self.input_shape is not None and self.shape is None:
            problems.append(f"input-shape is whole numbers with commas between, got {self.input_shape!r}")
        refuse(problems)

    @property
    def mends(self) -> Repair:
        """What is repaired after a cut within a budget."""
        return self.repair or "statistics"

    @property
    def shape(self) -> tuple[int, ...] | None:
        """`input_shape` as numbers; None where there is none."""
        try:
            sizes = tuple(int(size) for size in (self.input_shape or "").split(","))
        except ValueError:
            return None
        return sizes if all(size > 0 for size in sizes) else None
