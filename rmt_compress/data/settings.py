"""How data are read: pixels, the length of sequences, the seed of the parts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from rmt_compress.errors import DataError, SettingsError
from rmt_compress.settings.declaring import setting
from rmt_compress.settings.validation import problems_of, refuse

PRESETS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}
"""Mean and standard deviation by channel of the training pixels in [0, 1], by the name of their set."""

_PANEL = "Data"


class Pixels(NamedTuple):
    """What is done to pixels: resized, then (pixel − mean) / std by channel.

    Attributes:
        mean: one number, or one by channel; of pixels in [0, 1].
        std: the same.
        size: of the shorter side in pixels, of which the middle square is taken; None for pixels as they are.
        given: whether the user has said anything of mean or std: bytes then are first divided by 255.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int | None
    given: bool


@dataclass(frozen=True)
class DataSettings:
    """What decides how data are read; names every problem at once.

    Attributes:
        mean: subtracted from pixels in [0, 1]: a number, one by channel with commas between, or the name of a
            preset, which then stands for `std` too; None for 0.
        std: what they are then divided by, in the same spelling; None for 1.
        size: side in pixels of the square that images are brought to; None for images as they are.
        sequence_length: tokens of text that are asked at once.
        seed: which samples go into which part, where the set does not say.
        allow_partial: take a CIFAR-10 set with missing batch files as it is; a note says which.

    Raises:
        SettingsError: listing everything that is out of range.
    """

    mean: str | None = setting(
        None,
        f"Subtract this from pixels in [0, 1]: a number, one by channel (.5,.5,.5), or {' or '.join(PRESETS)}.",
        metavar="M",
        panel=_PANEL,
    )
    std: str | None = setting(
        None,
        "Divide pixels by this after that, spelled alike; by default that of the preset, else 1.",
        metavar="S",
        panel=_PANEL,
    )
    size: int | None = setting(
        None,
        "Bring the shorter side of images to this many pixels and take the middle square.",
        within="[1, inf)",
        minimum=1,
        metavar="PIXELS",
        panel=_PANEL,
    )
    sequence_length: int = setting(
        512,
        "Tokens of text asked at once; the network's context where that is shorter.",
        within="[2, inf)",
        minimum=2,
        panel=_PANEL,
    )
    seed: int = setting(
        0,
        "Which samples calibrate, choose and score, where the data set does not say.",
        within="[0, inf)",
        minimum=0,
        panel=_PANEL,
    )
    allow_partial: bool = setting(True)

    def __post_init__(self) -> None:
        problems = problems_of(self)
        lengths = []
        for name, text in (("mean", self.mean), ("std", self.std)):
            if text is not None and text not in PRESETS:
                values = _numbers(text)
                if values is None:
                    known = ", ".join(PRESETS)
                    problems.append(
                        f"{name} must be a number, numbers with commas between, or one of {known}, got {text!r}"
                    )
                elif name == "std" and min(values) <= 0:
                    problems.append(f"std must be above 0, got {text}")
                else:
                    lengths.append(len(values))
            elif text is not None:
                lengths.append(len(PRESETS[text][0]))
        if len(lengths) == 2 and 1 not in lengths and lengths[0] != lengths[1]:
            problems.append(f"mean has {lengths[0]} channels but std {lengths[1]}")
        refuse(problems)

    @property
    def pixels(self) -> Pixels:
        """Mean, standard deviation and size as numbers."""
        mean, std = self.mean, self.std
        if std is None and mean in PRESETS:
            std = mean
        given = mean is not None or std is not None
        return Pixels(_values(mean, 0, 0.0), _values(std, 1, 1.0), self.size, given)

    def to_json(self) -> dict[str, Any]:
        """What a compressed file remembers: what its network expects of pixels, each only where it was given."""
        pixels = self.pixels
        found: dict[str, Any] = {}
        if pixels.given:
            found |= {"mean": list(pixels.mean), "std": list(pixels.std)}
        return found | ({} if self.size is None else {"size": self.size})

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> DataSettings:
        """The settings that `to_json` wrote; all it does not write is as by default.

        Raises:
            DataError: it is nothing that `to_json` writes.
        """
        known = {"mean", "std", "size"}
        try:
            if stored.keys() - known:
                raise ValueError(f"unknown: {', '.join(sorted(stored.keys() - known))}")
            size = stored.get("size")
            if size is not None and type(size) is not int:
                raise ValueError(f"size {size!r} is no whole number")
            mean, std = (
                ",".join(repr(float(each)) for each in stored[key]) if key in stored else None
                for key in ("mean", "std")
            )
            return cls(mean=mean, std=std, size=size)
        except (AttributeError, TypeError, ValueError, SettingsError) as error:
            raise DataError(f"what the file remembers of its pixels cannot be read ({error})") from error

    def or_as(self, remembered: DataSettings) -> DataSettings:
        """These settings, with mean, std and size of `remembered` where they are not given.

        Mean and std belong together: where one is given, the other is not taken from there.
        """
        given = self.mean is not None or self.std is not None
        return replace(
            self,
            mean=self.mean if given else remembered.mean,
            std=self.std if given else remembered.std,
            size=remembered.size if self.size is None else self.size,
        )


def _numbers(text: str) -> tuple[float, ...] | None:
    try:
        values = tuple(float(each) for each in text.split(","))
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None


def _values(text: str | None, which: int, default: float) -> tuple[float, ...]:
    if text is None:
        return (default,)
    return PRESETS[text][which] if text in PRESETS else _numbers(text) or (default,)
