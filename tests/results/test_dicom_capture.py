from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from mtnet.results import write_dicom_capture, write_results
from mtnet.results.dicom_capture import burned_in
from mtnet.results.dicom_source import DicomSource
from mtnet.structures import Findings, Volume
from tests.builders import write_ct_series
from tests.results.judges import errors_of
from tests.results.samples import ball, findings_on, geometry_of, stack_of


@pytest.fixture(name="findings")
def _findings(tmp_path: Path) -> Findings:
    written = write_ct_series(tmp_path / "in", shape=(24, 20, 8))
    stack = stack_of(written.paths)
    geometry = geometry_of(stack)
    mask = ball(geometry, geometry.index_to_lps_mm([9, 8, 3]), 3.0)
    return findings_on(geometry, [mask], stack=stack, study_uid=written.study_uid, series_uid=written.series_uid)


def pictures(count: int, rows: int = 31, columns: int = 41) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, rows, columns, 3)).astype(np.uint8)


@pytest.mark.parametrize(("count", "iod"), [(1, "SCImage"), (3, "MultiframeTrueColorSCImage")])
def test_pictures_read_back_equal_and_dciodvfy_finds_no_error(
    count: int, iod: str, findings: Findings, tmp_path: Path
) -> None:
    drawn = pictures(count)
    assert write_dicom_capture(findings, drawn, tmp_path / "c.dcm").written
    assert errors_of(tmp_path / "c.dcm", iod) == []
    capture = pydicom.dcmread(tmp_path / "c.dcm")
    np.testing.assert_array_equal(capture.pixel_array, drawn[0] if count == 1 else drawn)
    source = pydicom.dcmread(findings.source.stack.instances[0].path)  # type: ignore[union-attr]
    assert capture.StudyInstanceUID == source.StudyInstanceUID and capture.PatientID == source.PatientID
    assert capture.SeriesInstanceUID != source.SeriesInstanceUID
    references = {item.ReferencedSOPInstanceUID for item in capture.SourceImageSequence}
    assert references == {i.sop_instance_uid for i in findings.source.stack.instances}  # type: ignore[union-attr]
    assert capture.BurnedInAnnotation == "NO" and list(capture.ImageType) == ["DERIVED", "SECONDARY"]
    assert "Research use only. Trained on drawn data. Not a medical device." in capture.DerivationDescription


def test_the_capture_shows_the_overlay_pixel_by_pixel(findings: Findings, tmp_path: Path) -> None:
    from PIL import Image

    volume = Volume(np.full((1, *findings.geometry.shape), -700, np.int16), findings.geometry, "CT")
    done = write_results(findings, volume, tmp_path / "out")
    assert done.dicom.capture.written
    with Image.open(tmp_path / "out" / "overlay.png") as picture:
        expected = np.asarray(picture)
    np.testing.assert_array_equal(pydicom.dcmread(tmp_path / "out" / "overlay.dcm").pixel_array, expected)


def test_a_capture_that_is_not_asked_for_or_has_no_overlay_is_told(findings: Findings, tmp_path: Path) -> None:
    volume = Volume(np.zeros((1, *findings.geometry.shape), np.int16), findings.geometry, "CT")
    assert write_results(findings, volume, tmp_path, dicom_capture=False).dicom.capture.reason == "not asked for"
    assert write_results(findings, None, tmp_path).dicom.capture.reason == "there is no overlay to show"
    assert not (tmp_path / "overlay.dcm").exists()


def test_the_same_pictures_make_the_same_object_and_others_another(findings: Findings, tmp_path: Path) -> None:
    for name, drawn in (("a", pictures(1)), ("b", pictures(1)), ("c", pictures(1)[:, ::-1])):
        write_dicom_capture(findings, drawn, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert pydicom.dcmread(tmp_path / "a").SOPInstanceUID != pydicom.dcmread(tmp_path / "c").SOPInstanceUID


CT, US = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.6.1"


@pytest.mark.parametrize(
    ("class_uid", "told", "image_type", "expected"),
    [
        (CT, None, ["ORIGINAL", "PRIMARY", "AXIAL"], "NO"),
        (CT, "YES", ["ORIGINAL", "PRIMARY", "AXIAL"], "YES"),
        (CT, None, ["DERIVED", "SECONDARY"], "YES"),
        (US, None, ["ORIGINAL", "PRIMARY"], "YES"),
        (US, "NO", ["ORIGINAL", "PRIMARY"], "NO"),
        (US, "perhaps", None, "YES"),
        ("1.2.840.10008.5.1.4.1.1.7", None, None, "YES"),
        ("1.2.840.10008.5.1.4.1.1.77.1.1", None, "ORIGINAL", "YES"),
    ],
)
def test_text_in_the_pixels_is_ruled_out_only_where_that_is_known(
    class_uid: str, told: str | None, image_type: object, expected: str
) -> None:
    header = Dataset()
    with pydicom.config.disable_value_validation():
        if told is not None:
            header.BurnedInAnnotation = told
        if image_type is not None:
            header.ImageType = image_type
    source = DicomSource(header, ((class_uid, "1.2"),), "1.3", "1.4", "OT", 1, True, "", False)
    assert burned_in(source) == expected


def test_pictures_of_another_kind_are_refused(findings: Findings, tmp_path: Path) -> None:
    for wrong in (pictures(1)[0], pictures(1).astype(float), pictures(1)[..., :1]):
        with pytest.raises(ValueError, match=r"expected uint8 \(n, rows, columns, 3\)"):
            write_dicom_capture(findings, wrong, tmp_path / "c.dcm")
    assert not (tmp_path / "c.dcm").exists()


def test_findings_of_no_dicom_have_no_capture(findings: Findings, tmp_path: Path) -> None:
    findings = dataclasses.replace(findings, source=dataclasses.replace(findings.source, stack=None))
    outcome = write_dicom_capture(findings, pictures(1), tmp_path / "c.dcm")
    assert not outcome.written and outcome.reason == "the source is no DICOM series"
