from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from mtnet.results.page import PageFrames, may_show_text, write_page
from mtnet.structures import Findings, Geometry, ImageClass, InputReport, Lesion, Measured, Plane, ReportLine, Volume
from tests.results.samples import ball, findings_on, measured_at_given_places

GEOMETRY = Geometry.from_parts((40, 36, 20), (1.5, 1.5, 2.5), (-30.0, -26.0, -24.0))
AT = ((10.0, -8.0, 0.0), (-14.0, 9.0, 12.0))


def study(count: int = 2) -> tuple[Findings, Volume]:
    findings = findings_on(GEOMETRY, [ball(GEOMETRY, at, 5.0) for at in AT[:count]])
    return findings, Volume(np.full((1, *GEOMETRY.shape), -800, np.int16), GEOMETRY, "CT")


def written(folder: Path, findings: Findings, volume: Volume, **options: bool) -> str:
    write_page(findings, folder / "report.html", volume=volume, **options)
    return (folder / "report.html").read_text(encoding="utf-8")


class Text(HTMLParser):
    """The words of a page: what is in no script and no style."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._hidden = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_lesions_stand_with_their_measures_and_units(tmp_path: Path) -> None:
    findings, volume = study()
    text = Text(written(tmp_path, findings, volume)).text
    first = findings.lesions[0]
    assert "2 lesions found" in text and f"nodule {first.score:.2f}" in text
    size = f"{first.longest_axial_diameter_mm:.1f} × {first.short_axial_diameter_mm:.1f} mm {first.volume_mm3:.0f} mm³"
    assert size in text
    assert "solid 0.75" in text and "9.123 mm" in text and "slice 11 10, −8, 0 mm" in text
    assert "Mean absolute error".lower() in text and "31.2 HU" in text


def test_image_classes_the_report_the_model_and_its_licence_are_told(tmp_path: Path) -> None:
    findings, volume = study()
    text = Text(written(tmp_path, findings, volume)).text
    assert "nodule findings 0.88 0.50 present" in text and "effusion findings 0.06 0.50 absent" in text
    assert "InstanceNumber does not follow place." in text and "shuffled_numbers" in text
    assert "ab" * 32 in text and "Apache-2.0" in text and "Trained on drawn data" in text
    assert "Research use only. Not a medical device." in text


def test_of_classes_that_exclude_each_other_the_highest_score_is_the_threshold(tmp_path: Path) -> None:
    findings, volume = study()
    classes = (ImageClass("kind", "benign", 0.71875, 0.71875), ImageClass("kind", "malignant", 0.28125, 0.71875))
    text = Text(written(tmp_path, replace(findings, image_classes=classes), volume)).text
    assert "benign kind 0.72 the highest score present" in text
    assert "malignant kind 0.28 the highest score absent" in text


def test_values_at_given_places_are_told_with_their_error(tmp_path: Path) -> None:
    findings, volume = study()
    text = Text(written(tmp_path, measured_at_given_places(findings), volume)).text
    assert "2 lesions at given places" in text and "8.2 ± 1.5 mm" in text and "2.5 rating 1 to 5" in text
    assert "no outline was seen" in text and "-80.5 HU" in text


def test_no_lesion_is_said_in_words(tmp_path: Path) -> None:
    findings, volume = study(0)
    text = Text(written(tmp_path, replace(findings, lesions=()), volume)).text
    assert text.count("No lesion found") >= 2


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (ReportLine("modality_outside", "flagged", "The file is MR."), "Unlike the training data: The file is MR."),
        (ReportLine("lungs_cut_off", "flagged", "Lungs end."), "Unlike the training data: Lungs end."),
        (ReportLine("missing_slices", "repaired", "Two slices."), "Repaired: Two slices."),
        (ReportLine("lesions_left_out", "flagged", "Only the best."), "Flagged: Only the best."),
    ],
)
def test_what_to_know_before_use_stands_first(line: ReportLine, told: str, tmp_path: Path) -> None:
    findings, volume = study()
    text = Text(written(tmp_path, replace(findings, report=InputReport((line,))), volume)).text
    assert told in text and text.index(told) < text.index("Axial slice")


def test_names_of_source_files_are_left_out(tmp_path: Path) -> None:
    findings, volume = study()
    line = ReportLine("shuffled_numbers", "note", "Mueller_Anna.nii has odd numbers.", "Mueller_Anna.nii")
    source = replace(findings.source, file_name="Mueller_Anna.nii")
    page = written(tmp_path, replace(findings, source=source, report=InputReport((line,))), volume)
    assert "Mueller" not in page and "the source file has odd numbers." in page


def test_burnt_in_text_is_warned_of(tmp_path: Path) -> None:
    findings, volume = study()
    assert "burnt-in text" not in written(tmp_path, findings, volume)
    assert "burnt-in text" in written(tmp_path, findings, volume, may_show_text=True)


@pytest.mark.parametrize(
    ("modality", "class_uid", "told", "may"),
    [
        ("US", "1.2.840.10008.5.1.4.1.1.6.1", "NO", True),
        ("OT", "1.2.840.10008.5.1.4.1.1.7", "NO", True),
        ("XC", "1.2.840.10008.5.1.4.1.1.77.1.4", "YES", True),
        ("XC", "1.2.840.10008.5.1.4.1.1.77.1.4", None, True),
        ("XC", "1.2.840.10008.5.1.4.1.1.77.1.4", "NO", False),
    ],
)
def test_which_images_may_show_text(modality: str, class_uid: str, told: str | None, may: bool) -> None:
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID, image.Modality = class_uid, "1.2.3", modality
    image.StudyInstanceUID, image.SeriesInstanceUID, image.Rows, image.Columns = "1.2", "1.2.1", 36, 40
    if told:
        image.BurnedInAnnotation = told
    flat = replace(
        findings_on(Geometry.from_parts((40, 36, 1), (1, 1, 1)), []), label_map=None, lesion_map=None, plane=Plane()
    )
    assert may_show_text(flat, image) is may
    assert may_show_text(flat) is True, "a picture says nothing about it"
    assert may_show_text(study()[0]) is False, "a volume from a file that is no DICOM"
    del image.Rows
    assert may_show_text(flat, image) is True, "a header that cannot be read promises nothing"


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&lt;"


def hostile(findings: Findings) -> Findings:
    """The same with markup in every text that comes from outside."""
    return replace(
        findings,
        model=replace(
            findings.model, name=HOSTILE, version=HOSTILE, training_data=HOSTILE, weights_licence=HOSTILE,
            intended_use=HOSTILE, weights_sha256=HOSTILE,
        ),
        lesions=tuple(
            replace(
                lesion,
                label=HOSTILE,
                class_probabilities={HOSTILE: {HOSTILE: 0.5}},
                measures={HOSTILE: 1.0},
                measured={HOSTILE: Measured(1.0, HOSTILE)},
            )
            for lesion in findings.lesions
        ),
        image_classes=tuple(replace(c, output=HOSTILE, name=HOSTILE) for c in findings.image_classes),
        labels=tuple(replace(label, name=HOSTILE) for label in findings.labels),
        report=InputReport((ReportLine("odd", "flagged", HOSTILE, HOSTILE),)),
        options={HOSTILE: HOSTILE},
        extras={HOSTILE: [HOSTILE]},
        measured={HOSTILE: Measured(1.0, HOSTILE)},
        reconstruction_error={HOSTILE: 1.0},
        source=replace(
            findings.source,
            study_instance_uid=HOSTILE,
            choices=tuple(replace(c, reason=HOSTILE, series_instance_uid=HOSTILE) for c in findings.source.choices),
        ),
    )  # fmt: skip


def test_text_from_outside_is_never_markup(tmp_path: Path) -> None:
    findings, volume = study()
    plain, odd = (Text(written(tmp_path, one, volume)) for one in (findings, hostile(findings)))
    assert [tag for tag, _ in odd.tags].count("script") == [tag for tag, _ in plain.tags].count("script")
    assert "img" not in [tag for tag, _ in odd.tags]
    assert not [name for _, attributes in odd.tags for name in attributes if name.startswith("on")]
    assert HOSTILE.lower() in odd.text.lower().replace("_", " ")


def test_the_policy_allows_its_own_scripts_by_hash_and_no_request(tmp_path: Path) -> None:
    page = written(tmp_path, *study())
    (policy,) = (a["content"] for _, a in Text(page).tags if a.get("http-equiv") == "Content-Security-Policy")
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert len(scripts) == 2 and style
    for content in (*scripts, style[1]):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy and "http" not in policy
    outside = [a.get(k) for _, a in Text(page).tags for k in ("src", "href", "action", "srcset") if a.get(k)]
    assert outside == ["#findings"]


def test_licences_of_the_viewer_go_with_it(tmp_path: Path) -> None:
    text = Text(written(tmp_path, *study())).text
    for name in ("@niivue/niivue", "BSD 2-Clause License", "fflate", "gl-matrix", "nifti-reader-js"):
        assert name in text


def test_a_large_noisy_volume_is_made_coarser_until_the_page_is_small(tmp_path: Path) -> None:
    geometry = Geometry.from_parts((120, 120, 90), (0.7, 0.7, 1.0))
    noise = np.random.default_rng(0).integers(-1000, 400, (1, *geometry.shape)).astype(np.int16)
    findings = replace(findings_on(geometry, []), label_map=None, lesion_map=None)
    write_page(findings, tmp_path / "report.html", volume=Volume(noise, geometry, "CT"), most_bytes=1_600_000)
    page = (tmp_path / "report.html").read_text()
    assert len(page.encode()) < 1_600_000
    found = re.search(r'id="page-data">(.*?)</script>', page)
    assert found and 100_000 < np.prod(json.loads(found[1])["shape"]) < noise.size / 2


def test_a_page_that_cannot_be_made_so_small_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    findings, volume = study()
    with pytest.raises(ValueError, match="expected less than 1000"):
        write_page(findings, tmp_path / "report.html", volume=volume, most_bytes=1000)
    with pytest.raises(ValueError, match="either a volume or frames"):
        write_page(findings, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def clip(count: int, found: tuple[int, ...]) -> Findings:
    """A clip with one lesion on some frames."""
    lesions = tuple(
        Lesion(n, "spot", 0.9 - 0.01 * n, (4.5, 3.5, k - 0.5, 12.5, 9.5, k + 0.5), (0,) * 6, (8.0, 6.0, k), f"2.25.{k}",
               frame=k)
        for n, k in enumerate(found, start=1)
    )  # fmt: skip
    geometry = Geometry.from_parts((64, 48, count), (1, 1, 1))
    empty = replace(findings_on(geometry, []), label_map=None, lesion_map=None, plane=Plane(), image_classes=())
    return replace(empty, lesions=lesions)


def test_of_a_long_clip_even_frames_stay_and_those_with_the_best_lesions(tmp_path: Path) -> None:
    findings, generator = clip(200, (77, 131)), np.random.default_rng(0)
    frames = PageFrames(64, 48, single=False, most_bytes=60_000)
    nothing = replace(findings, lesions=())
    for k in range(200):
        own = tuple(lesion for lesion in findings.lesions if lesion.frame == k)
        alone = replace(nothing, lesions=tuple(replace(one, number=1) for one in own))
        frames.add(k, generator.integers(0, 255, (3, 64, 48)).astype(np.uint8), alone, 40.0 * k)
    write_page(findings, tmp_path / "report.html", frames=frames)
    found = re.search(r'id="page-data">(.*?)</script>', (tmp_path / "report.html").read_text())
    assert found
    data = json.loads(found[1])
    shown = [int(caption.split()[1]) - 1 for caption in data["slices"]]
    assert {0, 77, 131} <= set(shown) and len(data["pictures"]) == len(shown) < 100
    steps = np.diff([k for k in shown if k not in (77, 131)])
    assert (steps == steps[0]).all()
    assert data["slices"][shown.index(77)] == "frame 78 of 200, 3.08 s"
    for lesion in data["lesions"]:
        assert lesion["shown"] and shown[round(lesion["centre"][2])] in (77, 131)
