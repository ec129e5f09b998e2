"""What a plan within a budget is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rmt_compress.settings.declaring import setting
from rmt_compress.settings.validation import problems_of, refuse

Scaling = Literal["absolute", "tempered", "relative", "uniform", "balanced"]
Metric = Literal["plain", "input", "two-sided"]
Search = Literal["portfolio", "one"]
Edge = Literal["ignore", "floor", "ceiling"]

PANEL = "Budgets"
EVALUATIONS = 18
"""The most networks that are tried for one plan: with the two that the test part is asked of at last, twenty."""


@dataclass(frozen=True)
class BudgetSettings:
    """What decides a plan within a budget; names every problem at once.

    Attributes:
        keep: the share of all parameters that is kept at most; None for no such budget.
        macs: likewise of the multiply-adds.
        latency: likewise of the measured time of a forward pass; or so many milliseconds, ``"5ms"``.
        latency_batch: samples of that pass; None for as many as calibration takes at once.
        max_drop: by how much the score may fall, in its own unit; None for any fall.
        metric: which directions are kept; None for ``two-sided`` where gradients are known, ``input`` where only
            inputs are, else ``plain``.
        scaling: how the gains of layers compare, see `allocation`; None for that of the metric, `SCALING_OF`.
        search: ``portfolio`` tries all metrics and scalings where networks can be scored, ``one`` does not.
        edge: whether layers that fit keep their spikes at least (``floor``), or at most (``ceiling``).
        multiple: ranks are multiples of this; where it is 1 and time counts, of the device's own step.
        shrink_inputs: how far C is shrunk towards a multiple of the identity.
        shrink_outputs: how far G is.
        exclude: globs of layers that are not cut.
        caps: ``GLOB:SHARE``: the largest share of its own size that a layer keeps; the last that names it counts.
        confidence: that a `max_drop` holds on other samples too, as far as those asked can tell; .5 for no margin.
        evaluations: the most networks that are tried.

    Raises:
        SettingsError: listing everything that is out of range.
    """

    keep: float | None = setting(
        None, "Keep at most this share of the parameters.", within="(0, 1]", metavar="SHARE", panel=PANEL
    )
    macs: float | None = setting(
        None, "Keep at most this share of the multiply-adds.", within="(0, 1]", metavar="SHARE", panel=PANEL
    )
    latency: float | str | None = setting(
        None,
        "Keep at most this share of the measured time of a forward pass, or so many milliseconds (5ms).",
        metavar="SHARE|MS",
        panel=PANEL,
    )
    latency_batch: int | None = setting(
        None,
        "Time passes of N samples; by default of as many as calibration takes at once.",
        within="[1, inf)",
        minimum=1,
        metavar="N",
        panel=PANEL,
    )
    max_drop: float | None = setting(
        None, "Let the score fall by at most this.", within="[0, inf)", metavar="DROP", panel=PANEL
    )
    metric: Metric | None = setting(None, "Which directions are kept.", panel=PANEL)
    scaling: Scaling | None = setting(None, "How the layers' losses compare.", panel=PANEL)
    search: Search = setting("portfolio", "Try all metrics and scalings, or one.", panel=PANEL)
    edge: Edge = setting("ignore", "Keep the spikes at least, or at most, in layers that fit.", panel=PANEL)
    multiple: int = setting(1, "Take multiples of this as ranks.", within="[1, inf)", minimum=1, panel=PANEL)
    shrink_inputs: float = setting(0.001, "Shrink the moments of the inputs by this.", within="[0, 1]", panel=PANEL)
    shrink_outputs: float = setting(
        0.1, "Shrink the moments of the gradients by this.", within="[0, 1]", panel=PANEL
    )
    exclude: tuple[str, ...] = setting(())
    caps: tuple[str, ...] = setting(
        (), "Let layers keep at most this share of their size.", metavar="GLOB:SHARE", panel=PANEL
    )
    confidence: float = setting(
        0.95,
        "Leave a margin below --max-drop: it holds for other samples with this confidence; 0.5 for none.",
        within="[0.5, 1)",
        metavar="SHARE",
        panel=PANEL,
    )
    evaluations: int = setting(
        EVALUATIONS, "The most networks that are tried.", within="[1, inf)", minimum=1, panel=PANEL
    )

    def __post_init__(self) -> None:
        problems = problems_of(self)
        problems += [
            f"caps takes GLOB:SHARE with a share in (0, 1], got {cap!r}" for cap in self.caps if not _cap(cap)
        ]
        if self.latency is not None and self._latency_share is None and self.milliseconds is None:
            problems.append(f"latency takes a share in (0, 1], or milliseconds as 5ms, got {self.latency!r}")
        refuse(problems)

    @property
    def bounded(self) -> bool:
        """Whether there is any budget."""
        return bool(self.shares) or self.milliseconds is not None or self.max_drop is not None

    @property
    def milliseconds(self) -> float | None:
        """The budget of time, where it was given so; None where it was not, or as a share."""
        text = str(self.latency)
        found = _number(text[:-2]) if text.endswith("ms") else None
        return found if found is not None and found > 0 else None

    @property
    def _latency_share(self) -> float | None:
        found = _number(str(self.latency))
        return found if found is not None and 0 < found <= 1 else None

    @property
    def shares(self) -> dict[str, float]:
        """Name of a measure of size -> the share of it that may be kept, for those that were given as one."""
        given = {"keep": self.keep, "macs": self.macs, "latency": self._latency_share}
        return {name: share for name, share in given.items() if share is not None}

    @property
    def cap_shares(self) -> dict[str, float]:
        """Glob of layers -> the largest share that they keep."""
        return dict(found for cap in self.caps if (found := _cap(cap)))


def _cap(text: str) -> tuple[str, float] | None:
    glob, colon, share = text.rpartition(":")
    number = _number(share)
    return (glob, number) if number is not None and colon and glob and 0 < number <= 1 else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
