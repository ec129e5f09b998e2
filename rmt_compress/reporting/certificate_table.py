"""A certificate as two tables for a terminal: the answers in all, and layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmt_compress.reporting.blanks import blank_table
from rmt_compress.reporting.layer_names import names_in

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from rmt_compress.certificates.certificate import Certificate

_NAME = 24
"""Characters of a layer's name."""


def certificate_table(certificate: Certificate) -> Group:
    """What is certified beside what was measured; then every cut layer."""
    from rich.console import Group

    return Group(*certificate_tables(certificate))


def certificate_tables(certificate: Certificate, *, width: int = _NAME) -> tuple[Table, Table]:
    """The two tables by themselves, names of layers in so many characters."""
    from rich.text import Text

    answers = blank_table(f"{certificate.data}: what the cut can change at most")
    answers.add_column("")
    for name in ("before", "after, measured", "certified"):
        answers.add_column(name, justify="right", no_wrap=True)
    answers.add_row(
        "accuracy",
        f"{certificate.accuracy_before:.2%}",
        f"{certificate.accuracy_after:.2%}",
        f"at least {certificate.accuracy_certified:.2%}",
    )
    answers.add_row(
        "same answer",
        "",
        f"{certificate.same_answer:.2%}",
        f"at least {certificate.same_answer_certified:.2%}",
    )
    answers.add_row(
        "loss",
        f"{certificate.loss_before:.4f}",
        f"{certificate.loss_after:.4f}",
        f"at most {certificate.loss_certified:.4g}",
    )
    for label, alone in (
        ("  by Lemma 5.1 alone", certificate.bounds["lemma"]),
        ("  by the largest entry alone", certificate.bounds["infinity"]),
        ("  by the sharper bound alone", certificate.bounds["sharp"]),
    ):
        answers.add_row(label, "", "", f"at least {alone.accuracy:.2%}")
    layers = blank_table("How far the confidence δ moves, layer by layer, the later ones cut already")
    layers.add_column("layer")
    for name in ("rank", "√2·∏σ", "bound", "largest", "measured", "largest", "ratio"):
        layers.add_column(name, justify="right", no_wrap=True)
    prefix, names = names_in(width, [layer.name for layer in certificate.layers])
    for name, layer in zip(names, certificate.layers, strict=True):
        layers.add_row(
            Text(name),
            "–" if layer.rank is None else str(layer.rank),
            *map(_short, (layer.lipschitz, *layer.bound, *layer.measured)),
            "–" if layer.ratio is None else _short(layer.ratio),
        )
    if prefix:
        layers.caption = Text(f"names without {prefix}")
    return answers, layers


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
