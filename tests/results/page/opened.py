"""A page opened in Debian's Chromium, without a window, and what a test asks about it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

GENEROUS_MS = 300_000
# Software takes the place of the graphics card, on every machine.
_WITH_WEBGL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
_WITHOUT_WEBGL = ("--disable-gpu", "--disable-3d-apis")


@contextmanager
def browser(playwright: Any, *, webgl: bool = True) -> Iterator[Any]:
    """Chromium, which ``make judges`` installs."""
    path = shutil.which("chromium")
    assert path, "chromium is missing; make judges installs it."
    running = playwright.chromium.launch(
        executable_path=path,
        args=["--no-sandbox", *(_WITH_WEBGL if webgl else _WITHOUT_WEBGL)],
        timeout=GENEROUS_MS,
    )
    try:
        yield running
    finally:
        running.close()


class Opened:
    """A page that has drawn, by a double click or from an address; what it asked for and complained of is kept."""

    def __init__(self, running: Any, where: Path | str, **context: Any) -> None:
        self._context = running.new_context(viewport={"width": 1400, "height": 1000}, **context)
        self.page = self._context.new_page()
        self.page.set_default_timeout(GENEROUS_MS)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog {dialog.message}"))
        self.address = where if isinstance(where, str) else where.as_uri()
        self.page.goto(self.address, timeout=GENEROUS_MS)
        self.page.locator("html[data-ready]").wait_for(state="attached", timeout=GENEROUS_MS)

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.close()

    def told(self, name: str) -> str | None:
        """What the page says about itself: ``ready``, ``view``, ``drawn-ms``."""
        said: str | None = self.page.locator("html").get_attribute(f"data-{name}")
        return said

    def stage(self) -> NDArray[np.uint8]:
        """``(rows, columns, 3)``: what the viewer shows."""
        picture = self.page.locator("#stage").screenshot(timeout=GENEROUS_MS)
        return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))

    def status(self) -> str:
        """What is read out."""
        text: str = self.page.locator("#status").inner_text()
        return text

    def show(self, number: int) -> None:
        """Click a lesion's row, and wait until it is told."""
        self.page.get_by_role("button", name=f"Show lesion {number}", exact=True).click()
        self.page.locator("#status", has_text=f"Lesion {number} of").wait_for(timeout=GENEROUS_MS)

    def tick(self, name: str, on: bool) -> None:
        """A layer on or off."""
        self.page.get_by_role("checkbox", name=name).set_checked(on)

    def check_alone(self) -> None:
        """Nothing was asked for but the page itself and what it holds, and nothing went wrong."""
        outside = [url for url in self.requests if url != self.address and not url.startswith(("data:", "blob:"))]
        assert outside == [] and self.complaints == []


def near(picture: NDArray[np.uint8], colour: tuple[int, int, int], tolerance: int = 40) -> NDArray[np.bool_]:
    """``(rows, columns)``: where a picture has a colour."""
    return np.asarray(np.abs(picture.astype(int) - colour).max(axis=2) <= tolerance)


def extent(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the widest part of what is set: of a box, without the number beside it."""
    assert mask.any(), "nothing of this colour is shown"
    parts, _ = ndimage.label(mask, np.ones((3, 3)))
    rows, columns = max(ndimage.find_objects(parts), key=lambda s: (s[0].stop - s[0].start) * (s[1].stop - s[1].start))
    return float(columns.start), float(rows.start), float(columns.stop - 1), float(rows.stop - 1)
