"""What the layers of a network take on one device, as measured: whole, and in two factors at some ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rmt_compress.errors import PlanError, SettingsError


@dataclass(frozen=True)
class ShapeTimes:
    """The times of all layers that do the same: one kind, shape, and inputs of one shape.

    Attributes:
        what: the kind, its shape and that of its inputs, in words.
        layers: their tensors.
        dense: seconds that each takes in one forward pass, whole.
        ranks: those that were measured, ascending.
        seconds: of the two factors at each of them.

    Raises:
        SettingsError: a time that is not above 0, or not one for each rank.
    """

    what: str
    layers: tuple[str, ...]
    dense: float
    ranks: tuple[int, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.ranks) != len(self.seconds):
            raise SettingsError([f"{self.what} has {len(self.ranks)} ranks and {len(self.seconds)} times"])
        if not all(time > 0 for time in (self.dense, *self.seconds)):
            raise SettingsError([f"a measured time of {self.what} is not above 0"])


@dataclass(frozen=True)
class LatencyTable:
    """What was measured on one device.

    Attributes:
        whole: seconds of a forward pass of the network as it is.
        shapes: of the layers that can be split.
        scale: seconds in the network for each second of a layer that runs alone: there other layers have used the
            caches meanwhile.
        step: multiples of this were measured; ranks between two of them often take as long as the upper one.
        batch: samples of the pass; 0 where it is not known.
        device: the processor, in words.
    """

    whole: float
    shapes: tuple[ShapeTimes, ...]
    scale: float = 1.0
    step: int = 1
    batch: int = 0
    device: str = ""

    def to_record(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> LatencyTable:
        """Undoes `to_record`.

        Raises:
            PlanError: it is no such record.
        """
        try:
            shapes = tuple(
                ShapeTimes(
                    str(each["what"]),
                    tuple(map(str, each["layers"])),
                    float(each["dense"]),
                    tuple(map(int, each["ranks"])),
                    tuple(map(float, each["seconds"])),
                )
                for each in record["shapes"]
            )
            whole, scale, step = float(record["whole"]), float(record["scale"]), int(record["step"])
            if not (whole > 0 and scale > 0 and step > 0):
                raise ValueError("whole, scale and step must be above 0")
            return cls(whole, shapes, scale, step, int(record["batch"]), str(record["device"]))
        except (KeyError, TypeError, ValueError, SettingsError) as error:
            raise PlanError(f"the times in the plan are damaged ({error}); measure them anew") from error
