"""Each message that the FAQ quotes is one that the code says."""

import re

import pytest

from tests.documentation.blocks import DOCS
from tests.samples.repository import REPOSITORY

MESSAGES = re.findall(r"^> `(.+)`$", (DOCS / "faq.md").read_text(encoding="utf-8"), re.M)


@pytest.fixture(scope="module")
def code():
    """All of the package, texts that are broken over several lines joined again."""
    files = sorted((REPOSITORY / "rmt_compress").rglob("*.py"))
    return "\n".join(re.sub(r'"\s*\n\s*f?"', "", file.read_text(encoding="utf-8")) for file in files)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_in_the_code(message, code):
    parts = [part for part in message.split("…") if part.strip()]
    assert re.search(r"[^\"\n]*".join(map(re.escape, parts)), code)


def test_a_message_that_nobody_says_is_not_found(code):
    assert len(MESSAGES) > 20
    assert re.search(re.escape("the budget was missed by a mile"), code) is None
