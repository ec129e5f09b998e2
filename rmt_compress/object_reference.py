"""``package.module:callable`` on the command line: a user's own model or data set."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rmt_compress.wording import one_line

_REFERENCE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")


def is_reference(text: str) -> bool:
    """Whether `text` has the form ``package.module:name``."""
    return _REFERENCE.fullmatch(text) is not None


def load_object(reference: str) -> Any:
    """What `reference` names.

    Modules are looked for where Python looks and then in the current folder, as ``python -m`` does. Importing
    runs the module's code: only what the user typed may come here, never what a checkpoint says.

    Args:
        reference: ``package.module:name`` or ``package.module:Class.method``.

    Raises:
        ImportError: one line, when the import fails or the name is missing.
    """
    module_name, _, path = reference.partition(":")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.append(here)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise ImportError(f"importing {module_name} failed: {one_line(error)}") from error
    finally:
        if added:
            sys.path.remove(here)
    for name in path.split("."):
        if not hasattr(found, name):
            raise ImportError(f"{module_name} has no {path}")
        found = getattr(found, name)
    return found


def load_callable(reference: str) -> Callable[..., Any]:
    """The callable that `reference` names, see `load_object`.

    Raises:
        ImportError: as there, or it is not callable.
    """
    found = load_object(reference)
    if not callable(found):
        raise ImportError(f"{reference} is a {type(found).__name__}, not callable")
    return found  # type: ignore[no-any-return]
