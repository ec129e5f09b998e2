"""Write docs/compatibility.md."""

from tests.compatibility.page import PAGE, page

PAGE.write_text(page(), encoding="utf-8")
