"""What a report holds, as plain data; the file is made of it in `page_file`."""

from __future__ import annotations

from dataclasses import dataclass

from rmt_compress.reporting.html.layer_list import LayerList
from rmt_compress.reporting.html.page_parts import Badge, Chart, Fact, Grid


@dataclass(frozen=True)
class Setting:
    """One option of the command, its value, and whether the user has typed it."""

    name: str
    value: str
    typed: bool


@dataclass(frozen=True)
class Run:
    """What was run.

    Attributes:
        name: of the command.
        command: as it was typed, quoted for a shell.
        settings: all of its options.
        notes: what the run remarked.
    """

    name: str
    command: str
    settings: tuple[Setting, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Page:
    """One report.

    Attributes:
        title: what it is about.
        badge: how far it is known.
        headline: what came out, in a sentence or two.
        facts: the numbers that one asks for first.
        remarks: further sentences.
        charts: curves.
        grids: small tables.
        layers: the table of layers; None where there are none.
    """

    title: str
    badge: Badge
    headline: str
    facts: tuple[Fact, ...] = ()
    remarks: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    grids: tuple[Grid, ...] = ()
    layers: LayerList | None = None
