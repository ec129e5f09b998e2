"""The page of `certify`, and what that of `prune` says of a certificate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rmt_compress.reporting.certificate_table import certificate_tables
from rmt_compress.reporting.evaluation_table import called
from rmt_compress.reporting.html.page import Page
from rmt_compress.reporting.html.page_parts import Axis, Badge, Chart, Fact, Grid, Point, Series
from rmt_compress.wording import counted, printable

if TYPE_CHECKING:
    from rmt_compress.certificates.certificate import Certificate

_WHOLE_NAMES = 1000
_SAMPLES = 500
_FACTORS = 40


def certificate_page(model: Path, certificate: Certificate) -> Page:
    """What a cut can change at most, beside what it did change."""
    badge = Badge("certified, and measured beside", "good")
    if certificate.violations:
        badge = Badge("a bound was broken", "bad")
    elif certificate.vacuous:
        badge = Badge("the bound is vacuous: measured alone", "care")
    return Page(
        title=printable(called(model)),
        badge=badge,
        headline=_headline(certificate),
        facts=(
            Fact("accuracy before", f"{certificate.accuracy_before:.2%}", f"{certificate.samples:,} samples"),
            Fact("after, measured", f"{certificate.accuracy_after:.2%}"),
            Fact("certified", f"at least {certificate.accuracy_certified:.2%}"),
            Fact("same answer", f"{certificate.same_answer:.2%}", "measured"),
        ),
        remarks=(
            "A bound is of these samples: where one is certified its answer cannot change. Of others it says "
            "nothing.",
        ),
        charts=certificate_charts(certificate),
        grids=certificate_grids(certificate),
    )


def certificate_grids(certificate: Certificate) -> tuple[Grid, ...]:
    """The answers in all, and layer by layer."""
    return tuple(Grid.of(table) for table in certificate_tables(certificate, width=_WHOLE_NAMES))


def certificate_charts(certificate: Certificate) -> tuple[Chart, ...]:
    """Every sample's bound over its measured change, and what smaller bounds would certify."""
    moved = np.abs(certificate.confidence_after - certificate.confidence)
    shown = np.unique(np.linspace(0, certificate.samples - 1, min(certificate.samples, _SAMPLES)).astype(int))
    pairs = [(float(moved[i]), float(certificate.bound[i])) for i in shown]
    points = tuple(Point(x, y, f"moved {x:.3g}, at most {y:.3g}") for x, y in pairs if x > 0 and y > 0)
    factors = np.geomspace(1e-3, 1, _FACTORS)
    shares = [float((certificate.reserve > factor).mean()) for factor in factors]
    smaller = tuple(
        Point(float(factor), share, f"{factor:.3g} of the bound: {share:.1%} certified")
        for factor, share in zip(factors, shares, strict=True)
    )
    measured = f"accuracy after, measured: {certificate.accuracy_after:.2%}"
    charts = [
        Chart(
            title="How far the confidence of a sample can move, over how far it did",
            description=f"{counted(len(points), 'sample')} of {printable(certificate.data)}. The median bound is "
            + ("not known" if certificate.ratio is None else f"{certificate.ratio:.3g} times the change")
            + "; no point may lie below the diagonal.",
            x=Axis("measured change of the confidence δ", logarithmic=True),
            y=Axis("certified bound on it", logarithmic=True),
            series=(Series("samples", points),),
            joined=False,
        ),
        Chart(
            title="What would be certified, were the bounds smaller",
            description=f"{smaller[0].said}; {smaller[-1].said}. {measured}.",
            x=Axis("share of the bound", logarithmic=True),
            y=Axis("samples that are certified", format=".0%"),
            series=(Series("certified", smaller),),
            chosen=(Point(1.0, certificate.accuracy_certified, "certified"),),
            levels=((certificate.accuracy_after, measured),),
        ),
    ]
    return tuple(chart for chart in charts if any(series.points for series in chart.series))


def _headline(certificate: Certificate) -> str:
    asked = f"on {printable(certificate.data)}"
    if certificate.violations:
        return f"{counted(certificate.violations, 'sample')} moved farther than their bound {asked}: this is a bug."
    said = (
        f"After the cut at least {certificate.accuracy_certified:.2%} of the answers are right {asked}; "
        f"{certificate.accuracy_after:.2%} were measured, {certificate.accuracy_before:.2%} before the cut."
    )
    return f"{said} The bound is vacuous here." if certificate.vacuous else said
