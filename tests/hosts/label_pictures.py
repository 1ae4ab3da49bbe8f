"""Take the pictures of ``docs/monai_label.md``: MONAI Label's own pages on a drawn chest in a real archive.

``python -m tests.hosts.label_pictures docs/images`` takes some minutes; it needs Orthanc, Chromium and ``.venv-label``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from mtnet.phantoms import draw_chest
from mtnet.phantoms.dicom import write_study
from tests.bundles import SHIPPED
from tests.hosts.label_server import Server, running_server
from tests.hosts.orthanc import running_orthanc
from tests.results.page.opened import GENEROUS_MS, browser

SIZE = {"width": 1280, "height": 760}
DEFAULT_SERVER = "http://127.0.0.1:8000"
"""What OHIF's panel asks until it is told otherwise."""


def take(server: Server, study_uid: str, folder: Path) -> None:
    """The list of studies, and the answer of the first series as OHIF shows it."""
    # OHIF's request then finds the answer ready.
    server.infer(f"{server.name}_segmentation", server.json("POST", "activelearning/first")["id"])
    with sync_playwright() as playwright, browser(playwright) as running:
        page = running.new_page(viewport=SIZE)
        page.set_default_timeout(GENEROUS_MS)
        page.goto(f"{server.url}/ohif/")
        page.get_by_text("Confirm and Hide").click()
        page.get_by_text("Phantom").first.wait_for()
        _save(page, folder / "monai_label_studies.png")
        page.goto(f"{server.url}/ohif/monai-label?StudyInstanceUIDs={study_uid}")
        address = page.locator(f'input[value^="{DEFAULT_SERVER}"]')
        address.wait_for()
        # The panel is there before the volume is.
        page.wait_for_timeout(20_000)
        panel = address.bounding_box()
        address.fill(f"{server.url}/")
        page.keyboard.press("Tab")
        page.mouse.click(panel["x"] + panel["width"] + 38, panel["y"] + panel["height"] / 2)
        page.get_by_role("button", name="Run").first.click()
        page.wait_for_timeout(20_000)
        _save(page, folder / "monai_label_ohif.png")


def _save(page: Any, path: Path) -> None:
    page.screenshot(path=path)
    with Image.open(path) as picture:
        few = picture.convert("RGB").quantize(128)
    few.save(path, optimize=True)


def main(folder: Path) -> None:
    """Draw a chest, start an archive and a server on it, and take the pictures into ``folder``."""
    chest = draw_chest(3, family="held_out", spacing_mm=(1.5, 1.5, 2.5), nodules=4)
    with tempfile.TemporaryDirectory() as work:
        place = Path(work)
        written = write_study(chest, place / "study", localizer=False, secondary_capture=False, foreign_file=False)
        with running_orthanc(place / "orthanc") as archive:
            archive.upload(written.folder)
            with running_server(place, SHIPPED, archive.dicomweb, "mtnet") as server:
                take(server, written.study_instance_uid, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
