"""Options that several commands share: how noise is fitted, which layers are meant, what becomes of those cut."""

from __future__ import annotations

import enum
from typing import Annotated

import typer


class QuantileChoice(enum.StrEnum):
    """Values of --quantiles."""

    midpoint = "midpoint"
    paper = "paper"


class WhenNotSmallerChoice(enum.StrEnum):
    """Values of --when-not-smaller."""

    keep = "keep"
    truncate = "truncate"


NOISE_AND_CUTS = "Noise and cuts"

Gof = Annotated[
    float,
    typer.Option(
        help="Largest fit error of a layer that counts as noise and is cut.", rich_help_panel=NOISE_AND_CUTS
    ),
]
GofConv = Annotated[
    float | None,
    typer.Option(
        help="The same for convolutions; by default --gof.", show_default=False, rich_help_panel=NOISE_AND_CUTS
    ),
]
WhenNotSmaller = Annotated[
    WhenNotSmallerChoice,
    typer.Option(
        help="A layer that a split would not shrink: keep it, or truncate it in its own shape.",
        rich_help_panel=NOISE_AND_CUTS,
    ),
]
RankMultiple = Annotated[
    int,
    typer.Option(
        help="Round ranks up to a multiple of this, for hardware that likes it.",
        min=1,
        rich_help_panel=NOISE_AND_CUTS,
    ),
]
Alpha = Annotated[
    float,
    typer.Option(
        help="Share of the spectrum left out at either end when the noise is fitted.",
        rich_help_panel=NOISE_AND_CUTS,
    ),
]
Beta = Annotated[float, typer.Option(help="Chance that pure noise shows a spike.", rich_help_panel=NOISE_AND_CUTS)]
Quantiles = Annotated[
    QuantileChoice,
    typer.Option(
        help="How edge and noise are estimated: our calibrated rule, or the papers' formula.",
        rich_help_panel=NOISE_AND_CUTS,
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Only layers with such a name; repeatable.", rich_help_panel=NOISE_AND_CUTS),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB", help="Leave out layers with such a name; repeatable.", rich_help_panel=NOISE_AND_CUTS
    ),
]
MinSize = Annotated[
    int,
    typer.Option(help="Skip weights with fewer rows or columns than this.", min=2, rich_help_panel=NOISE_AND_CUTS),
]
