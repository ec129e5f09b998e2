"""A report as one HTML file, with all that it needs in it."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.errors import MissingDependencyError, OutputError
from rmt_compress.outputs import check_output, replacing

if TYPE_CHECKING:
    from jinja2 import Environment

    from rmt_compress.reporting.html.page import Page, Run

_SUFFIXES = (".html", ".htm")


def check_report(target: Path, *, force: bool, inputs: tuple[Path, ...] = ()) -> None:
    """Refuse a report that cannot or must not be written, before any work is done.

    Raises:
        MissingDependencyError: there is no jinja2.
        OutputError: the name is none of a page, or `check_output` refuses it.
    """
    if target.suffix.lower() not in _SUFFIXES:
        raise OutputError(f"{target}: a report is an HTML page; give a name that ends in .html")
    check_output(target, force=force, inputs=inputs)
    _environment()


def write_report(page: Page, run: Run, target: Path) -> None:
    """Write a page.

    Raises:
        OutputError: it cannot be written.
    """
    with replacing(target) as path:
        path.write_text(page_text(page, run), encoding="utf-8")


def page_text(page: Page, run: Run) -> str:
    """The whole page.

    Every text is escaped where it stands in the page, and what the scripts read is JSON without ``<``. A policy in
    its head lets nothing be fetched and no script run but those that are written here.
    """
    template = _environment().get_template("page.html")
    # Its macros are attributes.
    macros: Any = _environment().get_template("grid.html").module
    pictures = [] if page.layers is None else page.layers.pictures
    draws = bool(page.charts or any(picture is not None for picture in pictures))
    names = (*(_DRAWING if draws else ()), *(("table.js",) if page.layers is not None else ()))
    scripts = [_script(name) for name in names]
    text: str = template.render(
        page=page,
        run=run,
        grid=macros.grid,
        dot=_markup(".<wbr>"),
        version=version("rmt-compress"),
        day=datetime.now(UTC).date().isoformat(),
        style=_markup(_asset("page_files/style.css")),
        scripts=[_markup(script) for script in scripts],
        licence=_markup(_asset("vega/LICENSE")) if draws else "",
        policy=_policy(scripts),
        data={"charts": [chart.to_json() for chart in page.charts], "layers": pictures} if draws else {},
    )
    return text


_DRAWING = ("vega.min.js", "vega-lite.min.js", "pictures.js")


@cache
def _environment() -> Environment:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise MissingDependencyError("jinja2", "report", "--report") from error
    loader = PackageLoader("rmt_compress.reporting.html", "page_files")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment


def _markup(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)


@cache
def _asset(name: str) -> str:
    return files("rmt_compress.reporting.html").joinpath(name).read_text(encoding="utf-8")


@cache
def _script(name: str) -> str:
    """A script of the page; what it says of a map of its source would be looked for beside the page."""
    folder = "vega" if name.startswith("vega") else "page_files"
    return re.sub(r"\n//# sourceMappingURL=.*", "", _asset(f"{folder}/{name}"))


def _policy(scripts: list[str]) -> str:
    """What the page may do: run these scripts and none else, and fetch nothing.

    Vega makes functions of the expressions in its specifications, all of which are ours.
    """
    sums = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{each}'" for each in sums)
    sources = f"{allowed} 'unsafe-eval'" if scripts else "'none'"
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {sources}; form-action 'none'"
