import pytest

from tests.compatibility.page import PAGE, page


@pytest.mark.slow
@pytest.mark.no_cover  # traced it takes twice as long, and other tests run each of its commands
def test_the_page_says_what_happens():
    """Run `python -m tests.compatibility` and look at what has changed, where this fails."""
    assert PAGE.read_text(encoding="utf-8") == page()
