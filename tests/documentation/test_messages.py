"""Each message that the FAQ quotes is one that the code says."""

import ast
import re

import pytest

from tests.documentation.blocks import DOCS
from tests.samples.repository import REPOSITORY

MESSAGES = re.findall(r"^> `(.+)`$", (DOCS / "faq.md").read_text(encoding="utf-8"), re.M)


@pytest.fixture(scope="module")
def said():
    """All texts in the code, with … for what is filled in; a text in pieces is one."""
    texts = []
    for file in (REPOSITORY / "rmt_compress").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


@pytest.mark.slow
def test_every_message_is_in_the_code(said):
    assert len(MESSAGES) > 20
    for message in MESSAGES:
        parts = [part for part in message.split("…") if part.strip()]
        pattern = re.compile(".*".join(map(re.escape, parts)), re.S)
        assert any(pattern.search(text) for text in said), message
