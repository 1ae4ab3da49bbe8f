"""The page as a person meets it: opened from a file in Debian's Chromium, its pixels looked at, used by keyboard."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtnet.results.overlay import colour_of
from mtnet.results.page import write_page
from mtnet.structures import Findings, Geometry, Volume
from mtnet.study_folder import WriteOptions, answer_studies
from tests.builders import write_ct_series
from tests.bundles import blob_predictor, write_random_bundle
from tests.planes import US_MULTIFRAME, save, spot, spot_predictor, write_dicom
from tests.results.page.opened import Opened, browser, extent, near
from tests.results.page.test_page import hostile
from tests.results.samples import ball, findings_on
from tests.test_plane_folders import moving
from tests.test_study_folder import blob_at

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("browser"),
    pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning"),
]

GEOMETRY = Geometry.from_parts((64, 56, 30), (2.0, 2.0, 3.0), (-63.0, -55.0, -45.0))
# To the patient's left, in front, high; and to the right, behind, low.
AT = ((30.0, -24.0, 24.0), (-34.0, 20.0, -21.0))
RADIUS_MM = 9.0


@pytest.fixture(scope="module", name="playwright")
def _playwright() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="the older versions have no browser")
    with api.sync_playwright() as running:
        yield running


@pytest.fixture(scope="module", name="chromium")
def _chromium(playwright: Any) -> Iterator[Any]:
    with browser(playwright) as running:
        yield running


def study() -> tuple[Findings, Volume]:
    """Two bright balls in lung, each a lesion whose box and mask are the ball's."""
    masks = [ball(GEOMETRY, at, RADIUS_MM) for at in AT]
    values = np.where(masks[0] | masks[1], 300, -800).astype(np.int16)
    return findings_on(GEOMETRY, masks), Volume(values[None], GEOMETRY, "CT")


@pytest.fixture(scope="module", name="page")
def _page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    findings, volume = study()
    write_page(findings, path, volume=volume)
    return path


def axial(picture: np.ndarray) -> np.ndarray:
    """The large plane on the left."""
    return picture[:, : int(0.625 * picture.shape[1])]


def check_lesion(opened: Opened, number: int) -> tuple[float, float]:
    """The axial plane shows the lesion's ball in the middle of its box; where that is, as shares of the plane."""
    opened.show(number)
    opened.tick("Lesion outlines", False)
    plane = axial(opened.stage())
    left, top, right, bottom = extent(near(plane, colour_of(number)))
    inside = plane[int(top) + 3 : int(bottom) - 2, int(left) + 3 : int(right) - 2]
    bright = near(inside, (255, 255, 255), 25)
    assert 0.3 < bright.mean() < 0.9, "a ball in its box"
    rows, columns = np.nonzero(bright)
    assert abs(columns.mean() - inside.shape[1] / 2) < 0.08 * inside.shape[1]
    assert abs(rows.mean() - inside.shape[0] / 2) < 0.08 * inside.shape[0]
    return (left + right) / 2 / plane.shape[1], (top + bottom) / 2 / plane.shape[0]


def test_it_draws_and_a_click_jumps_to_the_lesion_and_no_request_leaves(chromium: Any, page: Path) -> None:
    with Opened(chromium, page) as opened:
        assert opened.told("ready") == "yes" and opened.told("view") == "niivue"
        across, down = check_lesion(opened, 1)
        assert across > 0.55 and down < 0.45, "the patient's left is on the right, front is up"
        first = axial(opened.stage())
        across, down = check_lesion(opened, 2)
        assert across < 0.45 and down > 0.55
        assert not near(axial(opened.stage()), colour_of(1)).any(), "the other lesion lies on other slices"
        assert near(first, colour_of(1)).any() and not near(first, colour_of(2)).any()
        assert opened.status() == "Lesion 2 of 2 is shown: nodule, slice 9 of 30, z −21.0 mm."
        assert opened.page.get_by_role("slider").get_attribute("aria-valuetext") == "slice 9 of 30, z −21.0 mm"
        opened.check_alone()


def test_without_webgl_plain_slices_show_the_same(playwright: Any, page: Path) -> None:
    with browser(playwright, webgl=False) as running, Opened(running, page) as opened:
        assert opened.told("ready") == "yes" and opened.told("view") == "plain"
        assert "no WebGL 2" in opened.page.locator("#hint").inner_text()
        for number, (right, front) in ((1, (True, True)), (2, (False, False))):
            opened.show(number)
            opened.tick("Lesion outlines", False)
            picture = opened.stage()
            left, top, stop, bottom = extent(near(picture, colour_of(number)))
            middle = (left + stop) / 2, (top + bottom) / 2
            assert (middle[0] > 0.5 * picture.shape[1]) is right and (middle[1] < 0.5 * picture.shape[0]) is front
            assert picture[round(middle[1]), round(middle[0])].min() > 240
        opened.check_alone()


def test_layers_window_zoom_and_slices_are_worked_by_keyboard(chromium: Any, page: Path) -> None:
    with Opened(chromium, page) as opened:
        keyboard = opened.page.keyboard
        for _ in range(40):
            keyboard.press("Tab")
            if opened.page.evaluate("document.activeElement.classList.contains('jump')"):
                break
        keyboard.press("Enter")
        opened.page.locator("#status", has_text="Lesion 1 of 2").wait_for()
        outline = opened.page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert outline == "3px", "focus is to be seen"
        boxes = opened.page.get_by_role("checkbox", name="Boxes")
        opened.tick("Lesion outlines", False)
        assert near(opened.stage(), colour_of(1)).any()
        boxes.focus()
        keyboard.press("Space")
        assert not near(opened.stage(), colour_of(1)).any()
        slider = opened.page.get_by_role("slider")
        slider.focus()
        keyboard.press("Home")
        assert slider.get_attribute("aria-valuetext") == "slice 1 of 30, z −45.0 mm"
        dark = axial(opened.stage())
        assert not near(dark, (255, 255, 255), 25)[50:-50, 50:-50].any(), "no ball on the lowest slice"
        opened.page.get_by_role("img").focus()
        keyboard.press("PageUp")
        assert slider.input_value() == "1"
        opened.show(1)
        small = near(axial(opened.stage()), (255, 255, 255), 25).sum()
        opened.page.get_by_role("combobox", name="Zoom").select_option("2")
        assert near(axial(opened.stage()), (255, 255, 255), 25).sum() > 3 * small
        lung = int(np.median(axial(opened.stage())[100:-100, 100:-100]))
        opened.page.get_by_role("combobox", name="Window").select_option(index=1)
        assert int(np.median(axial(opened.stage())[100:-100, 100:-100])) < lung - 40, "lung is black in a soft window"
        opened.check_alone()


def test_a_screen_reader_finds_headings_tables_and_names(chromium: Any, page: Path) -> None:
    with Opened(chromium, page) as opened:
        by_role = opened.page.get_by_role
        assert by_role("heading", level=1).inner_text() == "2 lesions found"
        told = by_role("heading", level=2).all_inner_texts()
        assert told == ["Know before use", "Images", "Lesions", "The image as a whole", "Measurements"]
        assert by_role("main").count() == by_role("banner").count() == by_role("contentinfo").count() == 1
        table = by_role("table").first
        assert table.get_by_role("columnheader").all_inner_texts()[:4] == ["Show", "Class", "Score", "Size"]
        assert table.get_by_role("rowheader").count() == 2
        opened.show(2)
        assert by_role("button", name="Show lesion 2").get_attribute("aria-current") == "true"
        assert by_role("button", name="Show lesion 1").get_attribute("aria-current") is None
        status = by_role("status")
        assert status.get_attribute("aria-live") == "polite" and "Lesion 2 of 2" in status.inner_text()
        assert by_role("img").get_attribute("aria-label")
        unnamed = "e => !e.labels?.length && !e.ariaLabel && !e.textContent.trim()"
        unnamed = f"[...document.querySelectorAll('button, input, select')].filter({unnamed}).length"
        assert opened.page.evaluate(unnamed) == 0
        assert opened.page.evaluate("document.documentElement.lang") == "en"


CONTRAST = """
() => {
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const l = [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * l[0] + 0.7152 * l[1] + 0.0722 * l[2];
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  return [...document.body.querySelectorAll("*")]
    .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()))
    .filter((e) => e.checkVisibility() && !e.closest("svg, script, .stage, .skip, option"))
    .map((e) => {
      const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))];
      return { text: e.textContent.trim().slice(0, 40), ratio: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) };
    })
    .filter((e) => e.ratio < 4.5);
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_stands_out_from_its_ground(chromium: Any, page: Path, scheme: str) -> None:
    """WCAG 2.2, 1.4.3: a contrast of 4.5 to 1."""
    with Opened(chromium, page, color_scheme=scheme) as opened:
        opened.show(1)
        assert opened.page.evaluate(CONTRAST) == []
        ground = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (int(re.findall(r"\d+", ground)[0]) > 128) is (scheme == "light")


def test_on_a_narrow_screen_nothing_is_cut_off(chromium: Any, page: Path) -> None:
    with Opened(chromium, page) as opened:
        opened.page.set_viewport_size({"width": 390, "height": 800})
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_markup_from_outside_does_not_run(chromium: Any, tmp_path: Path) -> None:
    findings, volume = study()
    write_page(hostile(findings), tmp_path / "report.html", volume=volume)
    with Opened(chromium, tmp_path / "report.html") as opened:
        assert opened.told("ready") == "yes" and "alert(1)" in opened.status()
        opened.check_alone()


def test_a_script_that_gets_into_the_file_does_not_run_and_reaches_nobody(
    chromium: Any, page: Path, tmp_path: Path
) -> None:
    changed = page.read_text().replace(
        "<main>", "<main><script>window.ran = 1</script><img src='http://127.0.0.1:9/a' onerror='window.ran = 2'>"
    )
    (tmp_path / "report.html").write_text(changed)
    with Opened(chromium, tmp_path / "report.html") as opened:
        assert opened.told("ready") == "yes"
        assert opened.page.evaluate("window.ran") is None
        assert any("Content Security Policy" in said for said in opened.complaints)
        # Chromium tells of what it refused to ask for; nothing answers there, and nothing was sent.
        refused = opened.page.evaluate("performance.getEntriesByType('resource').map((e) => e.responseStart)")
        assert not any(refused)


def test_the_page_of_a_dicom_study_holds_no_name(chromium: Any, tmp_path: Path) -> None:
    write_ct_series(
        tmp_path / "MUSTERMANN_ERIKA", shape=(40, 36, 14), spacing_mm=(1.5, 1.5, 2.5), origin_lps_mm=(0.0, 0.0, 0.0),
        values=blob_at(24, 25, 15),
    )  # fmt: skip
    out = tmp_path / "out"
    (outcome,) = answer_studies(blob_predictor(), tmp_path / "MUSTERMANN_ERIKA", out, write=WriteOptions(page=True))
    assert outcome.written is not None and outcome.written.findings.lesions
    document = json.loads((out / "findings.json").read_text())
    assert "report.html" in [file["name"] for file in document["files"]]
    with Opened(chromium, out / "report.html") as opened:
        seen = opened.page.locator("body").inner_text() + opened.page.content() + (out / "report.html").read_text()
        for name in ("Nobody", "SECRET", "MUSTERMANN", "ERIKA", *_dates_of(tmp_path / "MUSTERMANN_ERIKA")):
            assert name not in seen
        assert document["source"]["series_instance_uid"] in seen
        opened.check_alone()
    (outcome,) = answer_studies(blob_predictor(), tmp_path / "MUSTERMANN_ERIKA", out)
    assert outcome.written is not None and not (out / "report.html").exists(), "a run without it leaves no old page"


def _dates_of(folder: Path) -> set[str]:
    import pydicom

    header = pydicom.dcmread(next(path for path in folder.rglob("*") if path.is_file()), stop_before_pixels=True)
    return {str(header[key].value) for key in ("StudyDate", "PatientBirthDate") if header.get(key)}


def test_a_picture_is_shown_with_its_box_and_a_warning_of_burnt_in_text(chromium: Any, tmp_path: Path) -> None:
    pixels = spot((202, 134), (60, 24), (108, 62), 3)
    pixels[100:120, 10:40] = (30, 60, 220)
    path = save(tmp_path / "MUSTERMANN.png", pixels)
    list(answer_studies(spot_predictor(), path, tmp_path / "out", write=WriteOptions(page=True)))
    with Opened(chromium, tmp_path / "out" / "report.html") as opened:
        assert opened.told("ready") == "yes"
        text = opened.page.locator("body").inner_text()
        assert "burnt-in text" in text and "pixels" in text
        assert "MUSTERMANN" not in text + (tmp_path / "out" / "report.html").read_text()
        picture = opened.stage()
        left, top, right, bottom = extent(near(picture, colour_of(1)))
        scale = min(picture.shape[1] / 202, picture.shape[0] / 134)
        assert right - left == pytest.approx(48 * scale, abs=12) and bottom - top == pytest.approx(38 * scale, abs=12)
        middle = picture[round((top + bottom) / 2), round((left + right) / 2)]
        np.testing.assert_allclose(middle, 230, atol=6)
        assert near(picture, (30, 60, 220), 12).sum() == pytest.approx(20 * 30 * scale**2, rel=0.1)
        assert opened.page.get_by_role("slider").count() == 0, "one image has no frames to go through"
        opened.check_alone()


def test_a_cine_is_gone_through_frame_by_frame_and_a_lesion_shows_its_frame(chromium: Any, tmp_path: Path) -> None:
    pixels = np.pad(moving(5), ((0, 0), (0, 1), (0, 1)))
    source = write_dicom(tmp_path / "in", pixels, US_MULTIFRAME, "US", FrameTime="40", BurnedInAnnotation="NO")
    list(answer_studies(spot_predictor(batch=2), source, tmp_path / "out", write=WriteOptions(page=True)))
    with Opened(chromium, tmp_path / "out" / "report.html") as opened:
        lesions = json.loads((tmp_path / "out" / "findings.json").read_text())["lesions"]
        assert "burnt-in text" in opened.page.locator("body").inner_text(), "ultrasound, whatever it says"
        assert "SECRET" not in opened.page.content() and "Nobody" not in opened.page.content()
        places = []
        for lesion in lesions:
            opened.show(lesion["number"])
            assert f"frame {lesion['frame'] + 1} of 5" in opened.status()
            left, _, right, _ = extent(near(opened.stage(), colour_of(lesion["number"])))
            places.append((lesion["frame"], (left + right) / 2))
        assert [frame for frame, _ in sorted(places)] == [0, 2, 3, 4]
        across = [x for _, x in sorted(places)]
        assert across == sorted(across) and across[-1] > across[0] + 50, "the rectangle moves to the right"
        slider = opened.page.get_by_role("slider")
        slider.focus()
        opened.page.keyboard.press("Home")
        opened.page.keyboard.press("ArrowRight")
        assert slider.get_attribute("aria-valuetext") == "frame 2 of 5, 0.04 s"
        assert not any(near(opened.stage(), colour_of(n)).any() for n in (1, 2, 3, 4)), "no lesion on frame 2"
        opened.check_alone()


SYSTEMS = {
    "breast_ultrasound_multitask": "BUSI/malignant/malignant (10).png",
    "yolo_med_polyp": "Kvasir-SEG/images",
    "unet_v2_polyp": "CVC-ClinicDB/images/1.jpg",
}


@pytest.mark.study
@pytest.mark.parametrize("name", SYSTEMS)
def test_the_page_opens_on_an_image_of_every_2d_system(
    chromium: Any, name: str, data_dir: Path, tmp_path: Path
) -> None:
    from mtnet.predictor import Predictor

    source = data_dir / SYSTEMS[name]
    source = sorted(source.iterdir())[0] if source.is_dir() else source
    predictor = Predictor.from_bundle(write_random_bundle(name, tmp_path / name), device="cpu")
    (outcome,) = answer_studies(predictor, source, tmp_path / "out", write=WriteOptions(page=True, capture=False))
    assert outcome.written is not None
    path = tmp_path / "out" / "report.html"
    assert path.stat().st_size < 25_000_000
    with Opened(chromium, path) as opened:
        assert opened.told("ready") == "yes" and "burnt-in text" in opened.page.locator("body").inner_text()
        opened.page.evaluate(
            "for (const box of document.querySelectorAll('fieldset input')) if (box.checked) box.click()"
        )
        shown, real = opened.stage(), np.asarray(_rgb(source))
        # The picture fills one side; of what it shows the mean is that of the file.
        scale = min(shown.shape[1] / real.shape[1], shown.shape[0] / real.shape[0])
        assert shown.sum(axis=(0, 1)) / scale**2 == pytest.approx(real.sum(axis=(0, 1)), rel=0.03)
        opened.check_alone()


def _rgb(path: Path) -> Any:
    from PIL import Image

    return Image.open(path).convert("RGB")


@pytest.mark.study
@pytest.mark.timeout(1200)
def test_the_page_opens_on_the_real_study(chromium: Any, data_dir: Path, tmp_path: Path) -> None:
    from mtnet.bundle import find_bundle
    from mtnet.predictor import Predictor

    source = data_dir / "chest_ct_study" / "Lung_Dx-A0001"
    predictor = Predictor.from_bundle(find_bundle("chest_ct_multitask"), device="cpu", fast=True)
    case = predictor.read(source)
    findings = predictor.finish(case, predictor.infer(case))
    write_page(findings, tmp_path / "report.html", volume=case.volume)
    assert (tmp_path / "report.html").stat().st_size < 25_000_000
    with Opened(chromium, tmp_path / "report.html") as opened:
        assert opened.told("ready") == "yes" and opened.told("view") == "niivue"
        text = opened.page.locator("body").inner_text()
        assert "Trained on drawn data" in text and findings.model.weights_sha256 in text
        for lesion in findings.lesions[:2]:
            opened.show(lesion.number)
            plane = axial(opened.stage())
            assert near(plane, colour_of(lesion.number)).any()
            grey = plane[np.ptp(plane, axis=2) < 12]
            assert np.percentile(grey, 5) < 30 and np.percentile(grey, 95) > 200, "lung and soft tissue"
        opened.check_alone()
