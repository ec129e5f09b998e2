"""`.plot()` of results: drawn by the functions that the commands draw with, which lie floors above the results."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rmt_compress.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_drawers: dict[str, str] = {}


def drawn_by(drawers: Mapping[str, str]) -> None:
    """Tell which function draws the results of a class: name of the class -> ``module:function``, found when asked.

    Only what stands above both may say it: the package's own ``__init__``.
    """
    _drawers.update(drawers)


def figure_of(result: object, **asked: Any) -> Figure:
    """The figure of a result, which a notebook shows where a cell ends with it.

    Args:
        result: an object of a class that something draws, or of one below it.
        asked: what that takes beside the result.

    Raises:
        MissingDependencyError: there is no matplotlib.
    """
    if find_spec("matplotlib") is None:
        raise MissingDependencyError("matplotlib", "report", "plot()")
    kind = next(each.__name__ for each in type(result).__mro__ if each.__name__ in _drawers)
    module, _, function = _drawers[kind].partition(":")
    figure: Figure = getattr(import_module(module), function)(result, **asked)
    return figure
