"""``report.html``: a page to look at, for one study."""

from mtnet.results.page.burnt_in import may_show_text
from mtnet.results.page.frames import PageFrames
from mtnet.results.page.writer import write_page

__all__ = ["PageFrames", "may_show_text", "write_page"]
