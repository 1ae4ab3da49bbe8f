"""SEG, SR and capture of single images and clips, from real and from drawn objects."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from highdicom.sr import Comprehensive3DSR
from pydicom.dataset import Dataset
from pydicom.uid import UID

from mtnet.results import SegOutcome, write_dicom_capture, write_dicom_report, write_image_seg, write_results
from mtnet.structures import Findings, Geometry
from tests.results.judges import errors_of, filled
from tests.results.samples import findings_on

DATA = Path(os.environ.get("MTNET_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
REAL = ("cr_chest_monochrome1_j2k", "us_multiframe_ybr422", "us_palette_multiframe", "us_ybr422_uncompressed")
# Endoscopy, photography, captures of one and of several frames, ultrasound clip, radiograph: class, modality, frames.
DRAWN = {
    "endoscopy": ("1.2.840.10008.5.1.4.1.1.77.1.1", "ES", 1),
    "endoscopy clip": ("1.2.840.10008.5.1.4.1.1.77.1.1.1", "ES", 4),
    "photograph": ("1.2.840.10008.5.1.4.1.1.77.1.4", "XC", 1),
    "capture": ("1.2.840.10008.5.1.4.1.1.7", "OT", 1),
    "colour captures": ("1.2.840.10008.5.1.4.1.1.7.4", "OT", 3),
    "ultrasound clip": ("1.2.840.10008.5.1.4.1.1.3.1", "US", 5),
    "radiograph": ("1.2.840.10008.5.1.4.1.1.1.1", "DX", 1),
}
NO_SEG = SegOutcome(False, "not asked for")
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")


def drawn(kind: str) -> Dataset:
    """The header of an object that no file holds."""
    class_uid, modality, frames = DRAWN[kind]
    header = Dataset()
    header.SOPClassUID, header.Modality = UID(class_uid), modality
    header.SOPInstanceUID, header.StudyInstanceUID, header.SeriesInstanceUID = "1.2.3.1", "1.2.3.2", "1.2.3.3"
    header.PatientName, header.PatientID, header.PatientBirthDate, header.PatientSex = "Nobody^At All", "X1", "", "O"
    header.StudyDate, header.StudyTime, header.StudyID, header.AccessionNumber = "20200102", "101112", "7", ""
    header.ReferringPhysicianName, header.SeriesNumber, header.InstanceNumber = "", 3, 1
    header.Rows, header.Columns = 61, 83
    if frames > 1:
        header.NumberOfFrames = frames
    return header


def header_of(kind: str) -> Dataset:
    """The header of a drawn object, or of the real one in the folder of this name."""
    if kind in DRAWN:
        return drawn(kind)
    path = next((DATA / "dicom_robustness" / kind).glob("*"), None)
    if path is None:
        pytest.skip(f"no study under {DATA}")
    return pydicom.dcmread(path, stop_before_pixels=True)


def findings_for(header: Dataset) -> Findings:
    """Two lesions: one on the first frames, not convex; one on the last."""
    frames = int(header.get("NumberOfFrames") or 1)
    geometry = Geometry((int(header.Columns), int(header.Rows), frames), np.eye(4))
    first, last = np.zeros((2, *geometry.shape), bool)
    first[10:20, 30:44, : min(frames, 3)] = True
    first[12:15, 44:48, 0] = True
    last[60:70, 50:54, frames - 1] = True
    return findings_on(
        geometry, [first, last], study_uid=str(header.StudyInstanceUID), series_uid=str(header.SeriesInstanceUID)
    )


@pytest.fixture(name="header", params=[*DRAWN, *(pytest.param(kind, marks=pytest.mark.study) for kind in REAL)])
def _header(request: pytest.FixtureRequest) -> Dataset:
    return header_of(request.param)


def masks_of(seg: Dataset, frames: int) -> np.ndarray:
    """Segment numbers ``(frames, rows, columns)``, each frame put where its reference says, with pydicom alone."""
    values = np.zeros((frames, seg.Rows, seg.Columns), np.uint16)
    for item, pixels in zip(
        seg.PerFrameFunctionalGroupsSequence, seg.pixel_array.reshape(-1, seg.Rows, seg.Columns), strict=True
    ):
        place = int(item.FrameContentSequence[0].TemporalPositionIndex)
        reference = item.DerivationImageSequence[0].SourceImageSequence[0]
        assert int(reference.get("ReferencedFrameNumber") or place) == place
        number = 1
        if "SegmentIdentificationSequence" in item:
            number = int(item.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        values[place - 1] = np.where(pixels > 0, pixels * np.uint16(number), values[place - 1])
    return values


def test_a_binary_seg_reads_back_equal_and_dciodvfy_finds_no_error(header: Dataset, tmp_path: Path) -> None:
    findings = findings_for(header)
    assert findings.lesion_map is not None
    outcome = write_image_seg(findings, header, tmp_path / "seg.dcm")
    assert outcome.written and outcome.segments == (1, 2)
    assert errors_of(tmp_path / "seg.dcm") == []
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    expected = findings.lesion_map.array[0].transpose(2, 1, 0)
    np.testing.assert_array_equal(masks_of(seg, len(expected)), expected)
    assert "FrameOfReferenceUID" not in seg
    assert [s.TrackingUID for s in seg.SegmentSequence] == [lesion.tracking_uid for lesion in findings.lesions]
    (series,) = seg.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == header.SeriesInstanceUID
    (reference,) = series.ReferencedInstanceSequence
    assert (reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID) == (
        header.SOPClassUID,
        header.SOPInstanceUID,
    )
    reader = highdicom.seg.segread(str(tmp_path / "seg.dcm"))
    assert reader.number_of_segments == 2 and reader.get_segment_numbers(tracking_uid="2.25.1002") == [2]


@pytest.mark.skipif(int(highdicom.__version__.split(".")[1]) < 24, reason="this highdicom has no label maps")
def test_a_label_map_reads_back_equal(header: Dataset, tmp_path: Path) -> None:
    findings = findings_for(header)
    assert findings.lesion_map is not None
    assert write_image_seg(findings, header, tmp_path / "seg.dcm", kind="labelmap").written
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    expected = findings.lesion_map.array[0].transpose(2, 1, 0)
    np.testing.assert_array_equal(masks_of(seg, len(expected)), expected)
    reader = highdicom.seg.segread(str(tmp_path / "seg.dcm"))
    stored = np.stack([reader.get_stored_frame(n) for n in range(1, reader.NumberOfFrames + 1)])
    np.testing.assert_array_equal(stored, seg.pixel_array.reshape(stored.shape))


@pytest.mark.parametrize("with_seg", [True, False])
def test_every_lesion_is_in_the_report_and_dciodvfy_finds_no_error(
    with_seg: bool, header: Dataset, tmp_path: Path
) -> None:
    findings = findings_for(header)
    assert findings.lesion_map is not None
    seg = write_image_seg(findings, header, tmp_path / "seg.dcm") if with_seg else NO_SEG
    assert write_dicom_report(findings, tmp_path / "report.dcm", seg=seg, image=header).written
    assert errors_of(tmp_path / "report.dcm", "Comprehensive3DSR") == []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = Comprehensive3DSR.from_dataset(pydicom.dcmread(tmp_path / "report.dcm")).content
    for lesion in findings.lesions:
        if with_seg:
            (group,) = content.get_volumetric_roi_measurement_groups(tracking_uid=lesion.tracking_uid)
            reference = group.referenced_segment[0].ReferencedSOPSequence[0]
            assert reference.ReferencedSOPInstanceUID == seg.sop_instance_uid
            assert reference.ReferencedSegmentNumber == lesion.number
            continue
        (group,) = content.get_planar_roi_measurement_groups(tracking_uid=lesion.tracking_uid)
        reference = group.roi.ContentSequence[0].ReferencedSOPSequence[0]
        assert reference.ReferencedSOPInstanceUID == header.SOPInstanceUID
        measured = {m.name.value: m.value for m in group.get_measurements()}
        frame = int(reference.get("ReferencedFrameNumber") or measured.get("frame_number") or 1)
        masks = findings.lesion_map.array[0] == lesion.number
        mask = masks[:, :, frame - 1].T
        assert mask.sum() == masks.sum(axis=(0, 1)).max()
        np.testing.assert_array_equal(filled(np.array(group.roi.value), mask.shape), mask)


def test_captures_of_every_kind_have_no_error_for_dciodvfy(header: Dataset, tmp_path: Path) -> None:
    findings = findings_for(header)
    for count, iod in ((1, "SCImage"), (2, "MultiframeTrueColorSCImage")):
        drawn_pictures = np.random.default_rng(0).integers(0, 256, (count, 33, 47, 3)).astype(np.uint8)
        assert write_dicom_capture(findings, drawn_pictures, tmp_path / "c.dcm", image=header).written
        assert errors_of(tmp_path / "c.dcm", iod) == []
        capture = pydicom.dcmread(tmp_path / "c.dcm")
        np.testing.assert_array_equal(capture.pixel_array.reshape(drawn_pictures.shape), drawn_pictures)
        assert capture.BurnedInAnnotation == (header.get("BurnedInAnnotation") or "YES")
        assert capture.StudyInstanceUID == header.StudyInstanceUID


def test_no_lesion_on_an_image_is_said_in_the_report_and_makes_no_seg(tmp_path: Path) -> None:
    header = drawn("ultrasound clip")
    findings = dataclasses.replace(findings_for(header), lesions=(), image_classes=())
    seg = write_image_seg(findings, header, tmp_path / "seg.dcm")
    assert not seg.written and seg.reason == "no lesion was found" and not (tmp_path / "seg.dcm").exists()
    assert write_dicom_report(findings, tmp_path / "report.dcm", seg=seg, image=header).written
    assert errors_of(tmp_path / "report.dcm", "Comprehensive3DSR") == []
    assert any(
        i.get("TextValue") == "No lesion was found." for i in pydicom.dcmread(tmp_path / "report.dcm").ContentSequence
    )


def test_a_box_without_mask_is_drawn_on_its_frame(tmp_path: Path) -> None:
    header = drawn("endoscopy clip")
    findings = dataclasses.replace(findings_for(header), lesion_map=None)
    assert write_image_seg(findings, header, tmp_path / "seg.dcm").reason.startswith("the lesions have no masks")
    assert write_dicom_report(findings, tmp_path / "report.dcm", seg=NO_SEG, image=header).written
    content = Comprehensive3DSR.from_dataset(pydicom.dcmread(tmp_path / "report.dcm")).content
    (group,) = content.get_planar_roi_measurement_groups(tracking_uid="2.25.1002")
    assert group.roi.ContentSequence[0].ReferencedSOPSequence[0].ReferencedFrameNumber == 4
    points = np.array(group.roi.value)
    assert points.min(axis=0).tolist() == [60, 50] and points.max(axis=0).tolist() == [70, 54]


def test_frames_in_a_class_of_single_images_are_told_in_the_report_of_the_findings(tmp_path: Path) -> None:
    header = drawn("capture")
    header.NumberOfFrames = 3
    findings = findings_for(header)
    outcome = write_image_seg(findings, header, tmp_path / "seg.dcm")
    assert [line.code for line in outcome.lines] == ["frames_not_named"]


def test_an_image_of_another_size_or_without_identity_is_refused(tmp_path: Path) -> None:
    header = drawn("endoscopy")
    findings = findings_for(header)
    header.Rows = 60
    with pytest.raises(ValueError, match=r"expected columns, rows and frames of the image, \(83, 60, 1\)"):
        write_image_seg(findings, header, tmp_path / "seg.dcm")
    del header.SOPInstanceUID
    with pytest.raises(ValueError, match="has no SOPInstanceUID"):
        write_dicom_report(findings, tmp_path / "report.dcm", seg=NO_SEG, image=header)
    assert list(tmp_path.iterdir()) == []


def test_the_same_image_makes_the_same_objects(tmp_path: Path) -> None:
    header = drawn("ultrasound clip")
    findings = findings_for(header)
    for name in ("a", "b"):
        seg = write_image_seg(findings, header, tmp_path / f"{name}.seg")
        write_dicom_report(findings, tmp_path / f"{name}.sr", seg=seg, image=header)
    assert (tmp_path / "a.seg").read_bytes() == (tmp_path / "b.seg").read_bytes()
    assert (tmp_path / "a.sr").read_bytes() == (tmp_path / "b.sr").read_bytes()


def test_a_folder_of_a_clip_holds_every_object_and_says_so(tmp_path: Path) -> None:
    header = drawn("ultrasound clip")
    drawn_pictures = np.zeros((2, 33, 47, 3), np.uint8)
    done = write_results(findings_for(header), None, tmp_path, image=header, pictures=drawn_pictures)
    assert done.dicom.seg.written and done.dicom.report.written and done.dicom.capture.written
    assert {path.name for path in done.files} == {path.name for path in tmp_path.iterdir()}
    listed = {file["name"] for file in json.loads((tmp_path / "findings.json").read_text())["files"]}
    assert {"segmentation.dcm", "report.dcm", "overlay.dcm"} <= listed
    assert pydicom.dcmread(tmp_path / "overlay.dcm").NumberOfFrames == 2
