"""The house: a module imports only from floors below its own, inside functions and for types too."""

import ast
import re
from collections import Counter
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import rmt_compress
from tests.samples.repository import REPOSITORY

# Lowest first; a folder stands for all in it, the longest name that fits decides.
FLOORS = (
    ("wording",),
    ("errors", "object_reference", "progress", "undisturbed"),
    ("outputs", "settings", "spectrum", "notebooks"),
    ("layers",),
    ("decomposition", "plan", "data"),
    ("checkpoints",),
    ("analysis",),
    ("planning", "compression", "certificates"),
    ("saving",),
    ("networks",),
    ("sweep", "training"),
    ("pruning.result",),
    ("reporting",),
    ("pruning",),
    ("cli",),
    ("__main__",),
)
PACKAGE = REPOSITORY / "rmt_compress"
MOST_PARAMETERS = 8


def name_of(path: Path) -> str:
    """The module's name below the package; of a folder's ``__init__`` the folder's."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def floor_of(module: str) -> tuple[int, str]:
    """Number of the floor, and which of its rooms the module is in."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        room = ".".join(parts[:length])
        for number, floor in enumerate(FLOORS):
            if room in floor:
                return number, room
    raise AssertionError(f"{module} has no floor: give it one")


class Read(NamedTuple):
    """What is wanted of a module's source.

    Attributes:
        imports: the modules of this package that it imports, or names as ``module:object``, anywhere in it.
        functions: (name, of a constructor its class's; how many parameters without ``self``) of each.
        classes: (name, names of its bases) of each.
        asked: (line, names of the classes) of each ``isinstance``.
    """

    imports: frozenset[str]
    functions: list[tuple[str, int]]
    classes: list[tuple[str, set[str]]]
    asked: list[tuple[int, set[str]]]


@cache
def read(module: str) -> Read:
    """A module's source, parsed once; its tree is not kept."""
    found, functions, classes, asked = set(), [], [], []
    constructors: dict[ast.AST, str] = {}
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Constant) and re.fullmatch(r"rmt_compress(\.\w+)+:\w+", str(node.value)):
            names = [str(node.value).partition(":")[0]]
        elif isinstance(node, ast.ClassDef):
            classes.append((node.name, {getattr(base, "id", "") for base in node.bases}))
            constructors |= {each: node.name for each in node.body if getattr(each, "name", "") == "__init__"}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = sum(each.arg not in ("self", "cls") for each in given)
            functions.append((constructors.get(node, node.name), count))
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
            kinds = {getattr(each, "id", "") for each in ast.walk(node.args[1])}
            asked.append((node.lineno, kinds))
        for name in names:
            if name.split(".")[0] == "rmt_compress":
                found.add(_module(name.partition(".")[2]))
    return Read(frozenset(found), functions, classes, asked)


def imports(module: str) -> frozenset[str]:
    """The modules of this package that a module imports."""
    return read(module).imports


def _module(name: str) -> str:
    return name if name in MODULES else name.rpartition(".")[0]


def test_a_module_imports_only_from_floors_below_its_own():
    """One test for all: two workers would each read half of the files, and the one with the circle all again."""
    wrong = []
    for module in sorted(MODULES.keys() - {""}):
        own, room = floor_of(module)
        above = [other for other in imports(module) if floor_of(other)[1] != room and floor_of(other)[0] >= own]
        wrong += [f"{module} (floor {own}) imports {other}" for other in sorted(above)]
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle():
    try:
        TopologicalSorter({module: imports(module) - {module} for module in MODULES if module}).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' → '.join(error.args[1])}")


def test_no_two_modules_have_the_same_name():
    """But for what every folder may have, and for the file of a command, named like what it calls."""
    names = Counter(path.stem for name, path in MODULES.items() if not name.startswith("cli."))
    assert {name for name, count in names.items() if count > 1} <= {"__init__", "settings", "loading"}


def test_few_modules_are_loose_at_the_top():
    loose = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert len(loose) <= 6, sorted(loose)


def face() -> set[tuple[str, str]]:
    """(home, name) of all that users are told to call: what the package exports, and what docs/api.md names."""
    page = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: rmt_compress\.(\S+)\.(\w+)$", page, re.MULTILINE)
    return {(rmt_compress._HOMES[name], name) for name in rmt_compress.__all__} | set(named)


def test_a_function_has_few_parameters():
    """But for the face, where each is a keyword of its own, and the commands, where each is an option."""
    known = face()
    wrong = [
        f"{module}: {name} has {count} parameters"
        for module in MODULES
        if module.split(".")[0] != "cli"
        for name, count in read(module).functions
        if count > MOST_PARAMETERS
        if not any(name == called and f"{module}.".startswith(f"{home}.") for home, called in known)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_kind_of_a_checkpoint_is_asked_where_checkpoints_are_made():
    """Elsewhere a checkpoint says itself what it can: a new kind is then one folder."""
    kinds = {"Checkpoint"}
    classes = [each for module in MODULES for each in read(module).classes]
    while more := {name for name, bases in classes if bases & kinds} - kinds:
        kinds |= more
    assert {"GraphCheckpoint", "OnnxFile", "View"} < kinds
    wrong = [
        f"{module}, line {line}: {', '.join(sorted(names & kinds))}"
        for module in MODULES
        if module.split(".")[0] not in ("checkpoints", "compression")
        for line, names in read(module).asked
        if names & kinds
    ]
    assert not wrong, "\n".join(wrong)
