"""What CI installs by hashes is what everybody else installs by constraints."""

import re

from tests.samples.repository import REPOSITORY


def pinned(text):
    return {
        re.sub(r"[-_.]+", "-", name).lower(): version
        for name, version in re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE)
    }


def hashed(name):
    """The versions of a file of requirements, each of which has a hash."""
    text = (REPOSITORY / ".ci" / name).read_text()
    found = pinned(text)
    assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}$", text, re.MULTILINE)) == len(found) > 0
    return found


def test_requirements_with_hashes_are_of_the_versions_of_the_constraints():
    constraints = pinned((REPOSITORY / "constraints.txt").read_text())
    found = hashed("requirements.txt")
    others = {name: version for name, version in found.items() if constraints.get(name) != version}
    assert others.keys() <= {"setuptools"}, "run `bash .ci/supply --renew`"
    assert constraints.keys() <= found.keys(), "run `bash .ci/supply --renew`"


def test_the_oldest_transformers_are_those_of_the_makefile():
    line = re.search(r"^OLDEST := (.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert hashed("oldest-transformers.txt") == pinned("\n".join(line[1].split()))
