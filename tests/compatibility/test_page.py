import pytest

from tests.compatibility.page import PAGE, page


@pytest.mark.slow
def test_the_page_says_what_happens():
    """Run `python -m tests.compatibility` and look at what has changed, where this fails."""
    assert PAGE.read_text(encoding="utf-8") == page()
