"""The ranges of pyproject.toml are what the matrix of environments tests, and the committed results are of them."""

import json
import tomllib

from packaging.requirements import Requirement
from packaging.version import Version

from tests.samples.repository import REPOSITORY

MATRIX = REPOSITORY / ".ci" / "matrix"
ENVIRONMENTS = tomllib.loads((MATRIX / "environments.toml").read_text())
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
# Of extras whose libraries no test of the matrix asks for.
NOT_THERE = {"distributed"}


def floors():
    """Name of every package that users install -> the lowest version that is admitted."""
    extras = PROJECT["optional-dependencies"]
    asked = [*PROJECT["dependencies"], *(each for name, group in extras.items() if name != "dev" for each in group)]
    lowest = {}
    for requirement in map(Requirement, asked):
        (bound,) = requirement.specifier
        assert bound.operator == ">="
        lowest[requirement.name] = Version(bound.version)
    return lowest


def test_every_range_begins_with_what_the_lowest_environment_has():
    lowest = ENVIRONMENTS["lowest-3.11"]
    pinned = dict(each.split("==") for each in lowest["packages"])
    pinned |= {name: lowest[name] for name in ("torch", "accelerate")}
    for name, floor in floors().items():
        if name not in NOT_THERE:
            # A first release may have been withdrawn; another of the same series stands for it.
            assert Version(pinned[name]).release[: len(floor.release)] == floor.release, name


def test_results_are_of_the_environments_that_are_described():
    rows = {row["name"]: row for row in json.loads((MATRIX / "results.json").read_text())}
    assert rows.keys() <= ENVIRONMENTS.keys()
    assert rows["lowest-3.11"]["ok"]
    for name, row in rows.items():
        pins = dict(each.split("==") for each in ENVIRONMENTS[name].get("packages", ()) if "==" in each)
        both = pins.keys() & row["versions"].keys()
        assert {key: row["versions"][key] for key in both} == {key: pins[key] for key in both}
