"""What libraries do again at every call with the same outcome, done once in a process of many tests."""

import sys
from functools import cache

import typer.main

ONE_RUN = {"SECONDS": 0.0, "LEAST_RUNS": 1, "WARM_UP": 0}
"""What `rmt_compress.networks.latency` holds where a time is needed and nobody judges it."""


def commands_once() -> None:
    """typer makes its parsers of the commands' signatures anew whenever a program is called, for 16 ms."""
    typer.main.get_command = cache(typer.main.get_command)


def operators_once() -> None:
    """torch's exporter parses the source of each of onnxscript's 500 operators, half of a small network's export.

    They are found when the exporter asks for them first: importing onnxscript takes a second.
    """
    try:
        from torch.onnx._internal import _lazy_import
    except ImportError:  # an older torch, which has no such place
        return
    library = _lazy_import.onnxscript_apis
    found = type(library).__getattr__  # not the attribute that is set here

    @cache
    def operators() -> list[object]:
        return found(library, "get_torchlib_ops")()

    library.get_torchlib_ops = operators


def packages_once() -> None:
    """accelerate looks twice in every step of a training whether one package is installed, for .25 ms each.

    Where it is not imported yet, it is left alone.
    """
    if (optimizer := sys.modules.get("accelerate.optimizer")) is not None:
        optimizer.is_lomo_available = cache(optimizer.is_lomo_available)
