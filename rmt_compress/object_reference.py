"""``package.module:name`` and ``file.py:name`` on the command line: a user's own model or data set.

package.module:Net            what a module holds under this name; also in the current folder
net.py:Net                    the same of a Python file, by its path
net.py:Net(16, hidden=32)     called with these arguments, which are literals: nothing in them is run
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from rmt_compress.wording import one_line

_NAME = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_REFERENCE = re.compile(rf"(?P<where>{_NAME}|.+\.py):(?P<name>{_NAME})(?P<call>\(.*\))?", re.DOTALL)
# Arguments nested deeper than this are nobody's.
_MOST_CHARACTERS = 2000


class Reference(NamedTuple):
    """What a text names.

    Attributes:
        where: a module's dotted name, or the path of a Python file.
        name: in it, of a class ``Class.method``.
        arguments: those given by place.
        keywords: those given by name.
        called: whether there are parentheses.
    """

    where: str
    name: str
    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = {}  # noqa: RUF012  # never changed
    called: bool = False


def is_reference(text: str) -> bool:
    """Whether `text` has the form ``package.module:name`` or ``file.py:name``, arguments behind it or not."""
    return _REFERENCE.fullmatch(text) is not None


def parse_reference(text: str) -> Reference:
    """The parts of a reference; nothing is imported and nothing run.

    Raises:
        ValueError: one line, when it is none, or its arguments are no literals.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not of the form package.module:name or file.py:name")
    where, name, call = match["where"], match["name"], match["call"]
    return Reference(where, name) if call is None else Reference(where, name, *_literals(call), called=True)


def _literals(call: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments between parentheses, read and never evaluated."""
    told = "arguments are numbers, texts in quotes, True, False, None, and lists, tuples or dicts of these"
    try:
        if len(call) > _MOST_CHARACTERS:
            raise ValueError("they are too long")
        parsed = ast.parse(f"f{call}", mode="eval").body
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"{_shown(call)} cannot be read ({one_line(error)}); {told}") from error
    if not isinstance(parsed, ast.Call) or not isinstance(parsed.func, ast.Name):
        raise ValueError(f"{_shown(call)} is no list of arguments; {told}")

    def literal(node: ast.expr) -> Any:
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError, RecursionError, MemoryError) as error:
            wrong = ast.get_source_segment(f"f{call}", node) or call
            raise ValueError(f"{_shown(wrong)} is no literal; {told}") from error

    arguments = tuple(literal(node) for node in parsed.args)
    keywords: dict[str, Any] = {}
    for keyword in parsed.keywords:
        if keyword.arg is None:
            raise ValueError(f"{_shown(call)} has a ** in it; {told}")
        keywords[keyword.arg] = literal(keyword.value)
    return arguments, keywords


def _shown(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def load_object(reference: str) -> Any:
    """What `reference` names; where arguments stand behind it, a callable that has them.

    Modules are looked for where Python looks and then in the current folder; a file sees the modules beside it.
    Importing runs the module's code: only what the user typed may come here, never what a checkpoint says.

    Args:
        reference: see the module's text.

    Raises:
        ImportError: one line, when the import fails, the name is missing, or arguments stand behind what cannot be
            called.
    """
    try:
        where, name, arguments, keywords, called = parse_reference(reference)
    except ValueError as error:
        raise ImportError(str(error)) from error
    with importing_from_here(where):
        module = _module(where)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise ImportError(f"{where} has no {name}{_elsewhere(module, where, name)}")
        found = getattr(found, part)
    if not called:
        return found
    if not callable(found):
        raise ImportError(f"{where}:{name} is a {type(found).__name__}, which takes no arguments")
    return partial(found, *arguments, **keywords)


def load_callable(reference: str) -> Callable[..., Any]:
    """The callable that `reference` names, see `load_object`.

    Raises:
        ImportError: as there, or it is not callable.
    """
    found: Callable[..., Any] = load_object(reference)
    if not callable(found):
        raise ImportError(f"{reference} is a {type(found).__name__}, not callable")
    return found


@contextmanager
def importing_from_here(where: str) -> Iterator[None]:
    """While it lasts, modules are found in the current folder too, and beside the file that `where` is."""
    folders = [str(Path.cwd())]
    if where.endswith(".py"):
        folders.insert(0, str(Path(where).expanduser().resolve().parent))
    added = [folder for folder in dict.fromkeys(folders) if folder not in sys.path]
    sys.path.extend(added)
    try:
        yield
    finally:
        for folder in added:
            if folder in sys.path:
                sys.path.remove(folder)


def _module(where: str) -> ModuleType:
    if not where.endswith(".py"):
        try:
            return importlib.import_module(where)
        except Exception as error:  # a stranger's code can raise anything
            raise ImportError(f"importing {where} failed: {one_line(error)}") from error
    path = Path(where).expanduser().resolve()
    # A name of its own: a file called like an installed module stands beside it. Without dots, which mean packages.
    name = f"{path.stem} ({path})".replace(".", "_")
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise ImportError(f"{where}: no such file")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a stranger's code can raise anything
        del sys.modules[name]
        raise ImportError(f"importing {where} failed: {one_line(error)}") from error
    return module


def _elsewhere(module: ModuleType, where: str, name: str) -> str:
    """A hint where the module is another one than the file of this name in the current folder."""
    here = Path(f"{where.replace('.', '/')}.py")
    found = getattr(module, "__file__", None)
    if where.endswith(".py") or not here.is_file() or (found and Path(found).resolve() == here.resolve()):
        return ""
    return f" ({found or 'it is built in'}); of the file here it is {here}:{name}"
