"""How large ``report.html`` is and how long a browser takes until its first picture is there.

``python -m benchmarks.page``: the real chest CT study with the shipped bundle, and a breast ultrasound with random
weights, each opened five times from the file by Debian's Chromium without a graphics card. Time is counted by the
browser, from the start of loading; processor seconds are those of all its processes, its own start included.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path

import psutil

from benchmarks.machine import describe_machine
from mtnet.bundle import find_bundle
from mtnet.predictor import Predictor
from mtnet.results.page import PageFrames, write_page

ROUNDS = 5
DATA = Path(os.environ.get("MTNET_DATA", Path(__file__).parents[2] / "shared" / "data"))


def main() -> None:
    """Write both pages, open them, and print."""
    with tempfile.TemporaryDirectory() as folder:
        pages = {"chest CT": _chest(Path(folder)), "breast ultrasound": _ultrasound(Path(folder))}
        told = describe_machine()
        print(f"{told['cpu']}, {told['cores']} cores")
        for name, path in pages.items():
            opened = [_drawn(path) for _ in range(ROUNDS)]
            drawn, cpu = (statistics.median(one) for one in zip(*opened, strict=True))
            low, high = min(one[0] for one in opened), max(one[0] for one in opened)
            size = path.stat().st_size / 1e6
            print(
                f"{name}: {size:.1f} MB, drawn after {drawn:.1f} s ({low:.1f} to {high:.1f}), "
                f"{cpu:.1f} processor seconds; load {os.getloadavg()[0]:.1f}"
            )


def _chest(folder: Path) -> Path:
    predictor = Predictor.from_bundle(find_bundle("chest_ct_multitask"), fast=True)
    case = predictor.read(DATA / "chest_ct_study" / "Lung_Dx-A0001")
    write_page(predictor.finish(case, predictor.infer(case)), folder / "chest.html", volume=case.volume)
    return folder / "chest.html"


def _ultrasound(folder: Path) -> Path:
    from tests.bundles import write_random_bundle

    predictor = Predictor.from_bundle(write_random_bundle("breast_ultrasound_multitask", folder / "bundle"))
    case = predictor.read(DATA / "BUSI" / "malignant" / "malignant (10).png")
    findings = predictor.finish(case, predictor.infer(case))
    frames = PageFrames.of_image(case.volume.array[..., 0], findings)
    write_page(findings, folder / "ultrasound.html", frames=frames, may_show_text=True)
    return folder / "ultrasound.html"


def _drawn(path: Path) -> tuple[float, float]:
    """Seconds until a page is drawn in a fresh browser, and the processor seconds of that browser."""
    from playwright.sync_api import sync_playwright

    from tests.results.page.opened import Opened, browser

    with sync_playwright() as playwright, browser(playwright) as running, Opened(running, path) as opened:
        processes = [p for p in psutil.Process().children(recursive=True) if "chrom" in p.name()]
        cpu = sum(sum(p.cpu_times()[:2]) for p in processes)
        return float(opened.told("drawn-ms") or "nan") / 1000, cpu


if __name__ == "__main__":
    main()
