from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from mtnet.io.scan import scan
from mtnet.results import SegOutcome, write_dicom_report, write_dicom_seg
from mtnet.results.source_modules import patient_and_study
from mtnet.structures import Findings, Geometry, Stack
from tests.builders import WrittenSeries, write_ct_series, write_enhanced
from tests.results.judges import errors_of
from tests.results.samples import ball, findings_on, geometry_of, stack_of

DATA = Path(os.environ.get("MTNET_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
# Set by pydicom for the odd values that these tests and the real study hold.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")


def make(
    folder: Path, edit: Callable[[Dataset, int], None] | None = None, **options: object
) -> tuple[WrittenSeries, Findings]:
    """A tiny series with two drawn lesions."""
    written = write_ct_series(folder, shape=(24, 20, 8), spacing_mm=(0.8, 0.9, 2.0), edit=edit, **options)  # type: ignore[arg-type]
    stack = stack_of(written.paths)
    geometry = geometry_of(stack)
    middle = geometry.index_to_lps_mm([9, 8, 3])
    masks = [ball(geometry, middle, 3.5), ball(geometry, np.add(middle, [8, 4, 3]), 2.2)]
    return written, findings_on(
        geometry, masks, stack=stack, study_uid=written.study_uid, series_uid=written.series_uid
    )


def masks_of(seg: Dataset) -> dict[int, dict[tuple[float, ...], np.ndarray]]:
    """For each segment, frame by position, read with pydicom alone."""
    frames = np.atleast_3d(seg.pixel_array) if seg.NumberOfFrames > 1 else seg.pixel_array[None]
    found: dict[int, dict[tuple[float, ...], np.ndarray]] = {}
    shared = seg.SharedFunctionalGroupsSequence[0]
    for item, frame in zip(seg.PerFrameFunctionalGroupsSequence, frames, strict=True):
        where = item if "SegmentIdentificationSequence" in item else shared
        number = int(where.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        place = tuple(float(v) for v in item.PlanePositionSequence[0].ImagePositionPatient)
        found.setdefault(number, {})[place] = frame.astype(bool)
    return found


@pytest.mark.study
@pytest.mark.parametrize("kernel", ["2.000000-5mm-40805", "3.000000-5mm-41315"])
def test_a_seg_of_the_real_study_has_no_error_for_dciodvfy(kernel: str, tmp_path: Path) -> None:
    folder = next((DATA / "chest_ct_study" / "Lung_Dx-A0001").glob(f"*/{kernel}"), None)
    if folder is None:
        pytest.skip(f"no study under {DATA}")
    stack = stack_of(sorted(folder.glob("*.dcm")))
    geometry = geometry_of(stack)
    header = pydicom.dcmread(stack.instances[0].path, stop_before_pixels=True)
    lesion_map = np.zeros(geometry.shape, bool)
    masks = []
    for centre, radius in (((60, 70, -300), 14), ((-70, 60, -250), 9), ((-50, 100, -200), 6)):
        low = np.rint(geometry.lps_mm_to_index(centre)).astype(int)
        mask = lesion_map.copy()
        reach = int(radius / geometry.spacing_mm[0])
        mask[low[0] - reach : low[0] + reach, low[1] - reach : low[1] + reach, low[2] : low[2] + 3] = True
        masks.append(mask)
    findings = findings_on(
        geometry,
        masks,
        stack=stack,
        study_uid=str(header.StudyInstanceUID),
        series_uid=str(header.SeriesInstanceUID),
    )
    outcome = write_dicom_seg(findings, tmp_path / "segmentation.dcm")
    assert outcome.written and outcome.segments == (1, 2, 3)
    assert errors_of(tmp_path / "segmentation.dcm") == []
    # The source's ReferencedStudySequence has no SOP class: it stays behind, and the report says so.
    assert [line.code for line in outcome.lines] == ["source_module_left_out"]
    assert "ReferencedStudySequence" in outcome.lines[0].message
    seg = highdicom.seg.segread(str(tmp_path / "segmentation.dcm"))
    assert seg.NumberOfFrames == 9 and seg.PatientID == header.PatientID and seg.PatientName == header.PatientName
    assert seg.PatientIdentityRemoved == "YES" and len(seg.DeidentificationMethodCodeSequence) == 8


def test_segments_carry_the_lesions_identity_codes_and_algorithm(tmp_path: Path) -> None:
    written, findings = make(tmp_path / "series")
    assert write_dicom_seg(findings, tmp_path / "seg.dcm").written
    assert errors_of(tmp_path / "seg.dcm") == []
    seg = highdicom.seg.segread(str(tmp_path / "seg.dcm"))
    assert seg.segmentation_type == highdicom.seg.SegmentationTypeValues.BINARY
    assert [seg.get_segment_description(n).segment_label for n in seg.segment_numbers] == ["Lesion 1", "Lesion 2"]
    for lesion in findings.lesions:
        segment = seg.get_segment_description(lesion.number)
        assert segment.tracking_uid == lesion.tracking_uid and segment.tracking_id == f"Lesion {lesion.number}"
        assert segment.segmented_property_category.value == "49755003"
        assert segment.segmented_property_type.value == "27925004"
        assert segment.AnatomicRegionSequence[0].CodeMeaning == "Lung"
        assert len(segment.RecommendedDisplayCIELabValue) == 3
        algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("chest_ct_multitask", "0.1.0")
        assert "window=64x64x64" in algorithm.AlgorithmParameters
        assert "drawn data" in segment.SegmentDescription
    assert "Research use only" in seg.ContentDescription and "drawn data" in seg.ContentDescription
    assert "research use only" in seg.SeriesDescription
    assert seg.StudyInstanceUID == written.study_uid and seg.FrameOfReferenceUID == written.frame_uid
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == written.series_uid


def test_the_colour_of_a_segment_is_that_of_its_label(tmp_path: Path) -> None:
    from PIL import Image, ImageCms

    _, findings = make(tmp_path / "series")
    write_dicom_seg(findings, tmp_path / "seg.dcm")
    stored = pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence[0].RecommendedDisplayCIELabValue
    lab = (stored[0] * 100 / 65535, stored[1] * 255 / 65535 - 128, stored[2] * 255 / 65535 - 128)
    colour = next(label.colour for label in findings.labels if label.name == "nodule")
    transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    pixel = ImageCms.applyTransform(Image.new("RGB", (1, 1), colour), transform)
    judged = np.frombuffer(pixel.tobytes(), np.uint8).astype(float)
    expected = (judged[0] / 255 * 100, *(np.frombuffer(pixel.tobytes(), np.int8)[1:].astype(float)))
    np.testing.assert_allclose(lab, expected, atol=1.5)


def test_frames_lie_on_the_slices_that_they_show_whatever_order_the_slices_come_in(tmp_path: Path) -> None:
    _, findings = make(tmp_path / "series", file_order="shuffled", instance_numbers="shuffled")
    assert findings.source.stack is not None and findings.lesion_map is not None
    shuffled = Stack(
        tuple(np.random.default_rng(1).permutation(np.array(findings.source.stack.instances, dtype=object))),
        "volume",
        findings.source.stack.shape,
        findings.source.stack.spacing_mm,
    )
    findings = dataclasses.replace(findings, source=dataclasses.replace(findings.source, stack=shuffled))
    outcome = write_dicom_seg(findings, tmp_path / "seg.dcm")
    assert "seg_resampled" not in [line.code for line in outcome.lines]
    found = masks_of(pydicom.dcmread(tmp_path / "seg.dcm"))
    lesions = findings.lesion_map.array[0]
    for number in (1, 2):
        slices = np.flatnonzero((lesions == number).any(axis=(0, 1)))
        assert len(found[number]) == len(slices)
        for place, frame in found[number].items():
            k = round(float(findings.geometry.lps_mm_to_index(place)[2]))
            np.testing.assert_array_equal(frame, (lesions[:, :, k] == number).T)


def test_the_same_findings_make_the_same_object(tmp_path: Path) -> None:
    _, findings = make(tmp_path / "series")
    write_dicom_seg(findings, tmp_path / "a.dcm")
    write_dicom_seg(findings, tmp_path / "b.dcm")
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()


def _fewer(findings: Findings) -> Findings:
    assert findings.lesion_map is not None
    lesions = findings.lesion_map.array.copy()
    lesions[tuple(np.argwhere(lesions == 1)[0])] = 0
    return dataclasses.replace(findings, lesion_map=dataclasses.replace(findings.lesion_map, array=lesions))


@pytest.mark.parametrize(
    "change",
    [
        lambda f: dataclasses.replace(f, model=dataclasses.replace(f.model, weights_sha256="cd" * 32)),
        lambda f: dataclasses.replace(f, model=dataclasses.replace(f.model, version="0.1.1")),
        lambda f: dataclasses.replace(f, options={"window": "96x96x96"}),
        lambda f: dataclasses.replace(f, source=dataclasses.replace(f.source, series_instance_uid="1.2.3.99")),
        lambda f: dataclasses.replace(f, lesions=(dataclasses.replace(f.lesions[0], score=0.5), *f.lesions[1:])),
        _fewer,
    ],
    ids=["weights", "version", "options", "series", "score", "voxel"],
)
def test_a_change_makes_an_object_with_other_uids(change: Callable[[Findings], Findings], tmp_path: Path) -> None:
    _, findings = make(tmp_path / "series")
    write_dicom_seg(findings, tmp_path / "a.dcm")
    write_dicom_seg(change(findings), tmp_path / "b.dcm")
    first, second = (pydicom.dcmread(tmp_path / name) for name in ("a.dcm", "b.dcm"))
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SeriesInstanceUID != second.SeriesInstanceUID
    assert first.file_meta.MediaStorageSOPInstanceUID == first.SOPInstanceUID
    assert all(pydicom.uid.UID(uid).is_valid for uid in (first.SOPInstanceUID, first.SeriesInstanceUID))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: dataclasses.replace(f, lesions=()), "no lesion was found"),
        (lambda f: dataclasses.replace(f, lesion_map=None), "segmentation task did not run"),
        (
            lambda f: dataclasses.replace(
                f, lesions=tuple(dataclasses.replace(lesion, mask_voxels=0) for lesion in f.lesions)
            ),
            "owns mask voxels",
        ),
        (lambda f: dataclasses.replace(f, source=dataclasses.replace(f.source, stack=None)), "no DICOM"),
    ],
)
def test_without_a_mask_to_tell_there_is_no_file_and_a_reason(
    change: Callable[[Findings], Findings], reason: str, tmp_path: Path
) -> None:
    _, findings = make(tmp_path / "series")
    outcome = write_dicom_seg(change(findings), tmp_path / "seg.dcm")
    assert not outcome.written and reason in outcome.reason
    assert not (tmp_path / "seg.dcm").exists()


def test_a_lesion_without_mask_takes_no_segment(tmp_path: Path) -> None:
    _, findings = make(tmp_path / "series")
    assert findings.lesion_map is not None
    bare = dataclasses.replace(findings.lesions[0], mask_voxels=0)
    lesions = np.where(findings.lesion_map.array == 1, 0, findings.lesion_map.array)
    findings = dataclasses.replace(
        findings,
        lesions=(bare, findings.lesions[1]),
        lesion_map=dataclasses.replace(findings.lesion_map, array=lesions),
    )
    assert write_dicom_seg(findings, tmp_path / "seg.dcm").segments == (2,)
    seg = highdicom.seg.segread(str(tmp_path / "seg.dcm"))
    assert seg.get_segment_description(1).segment_label == "Lesion 2"
    assert errors_of(tmp_path / "seg.dcm") == []


def _uneven(tmp_path: Path, offsets: Sequence[float]) -> tuple[Findings, Geometry]:
    """Findings on an even grid of 2 mm over slices at other places, as a repair leaves them."""
    written = write_ct_series(tmp_path / "series", shape=(30, 30, 8), slice_offsets_mm=offsets)
    stack = stack_of(written.paths)
    first = geometry_of(stack)
    affine = first.affine_lps.copy()
    affine[:3, 2] = [0, 0, 2.0]
    grid = Geometry((30, 30, 12), affine)
    centre = grid.index_to_lps_mm([15, 14, 5.5])
    findings = findings_on(
        grid, [ball(grid, centre, 7.0)], stack=stack, study_uid=written.study_uid, series_uid=written.series_uid
    )
    return findings, grid


def test_findings_of_a_repaired_series_are_resampled_onto_the_source_slices(tmp_path: Path) -> None:
    offsets = [0, 2, 4, 7, 9.5, 11.3, 13, 16, 20]
    findings, grid = _uneven(tmp_path, offsets)
    outcome = write_dicom_seg(findings, tmp_path / "seg.dcm")
    assert outcome.written and [line.code for line in outcome.lines] == ["seg_resampled"]
    assert errors_of(tmp_path / "seg.dcm") == []
    centre = grid.index_to_lps_mm([15, 14, 5.5])
    found = masks_of(pydicom.dcmread(tmp_path / "seg.dcm"))[1]
    expected = [o for o in offsets if abs(o - 11) <= 7.0]
    assert sorted(round(place[2] - grid.origin_lps_mm[2], 3) for place in found) == pytest.approx(expected)
    for place, frame in found.items():
        # The cut of a ball of 7 mm at that height, to one pixel of 0.8 mm along its edge (masks 2 mm apart).
        radius = np.sqrt(max(49 - (place[2] - centre[2]) ** 2, 0))
        rows, columns = np.nonzero(frame)
        middle = [place[0] + 0.8 * columns.mean(), place[1] + 0.8 * rows.mean()]
        np.testing.assert_allclose(middle, centre[:2], atol=0.3)
        assert abs(np.sqrt(frame.sum() * 0.64 / np.pi) - radius) < 1.3


def test_a_lesion_between_the_source_slices_is_reported(tmp_path: Path) -> None:
    findings, grid = _uneven(tmp_path, [0, 2, 4, 20])
    small = ball(grid, grid.index_to_lps_mm([15, 14, 5]), 2.1)
    lesion_map = np.zeros_like(small)
    lesion_map[small] = True
    only = findings_on(grid, [lesion_map], stack=findings.source.stack, series_uid="1.2.3")
    outcome = write_dicom_seg(only, tmp_path / "seg.dcm")
    assert not outcome.written and "no lesion meets" in outcome.reason
    assert "lesion_between_slices" in [line.code for line in outcome.lines]
    both = findings_on(
        grid, [ball(grid, grid.index_to_lps_mm([15, 14, 1]), 3.0), small], stack=findings.source.stack, series_uid="1.2"
    )
    outcome = write_dicom_seg(both, tmp_path / "seg.dcm")
    assert outcome.segments == (1,)
    assert "Lesion 2 lies between" in outcome.lines[-1].message


def _spoil(dataset: Dataset, _: int) -> None:
    item = Dataset()
    item.ReferencedSOPInstanceUID = "1.2.3"
    values = {
        "PatientSex": "unknown",
        "PatientBirthDate": "01.02.1950",
        "PatientAge": "58",
        "StudyID": "far too long for a short string",
        "PatientWeight": None,
        "PatientIdentityRemoved": "YES",
        "PatientName": "Müller Ünal",
        "SpecificCharacterSet": "ISO_IR 100",
        "ReferencedStudySequence": DicomSequence([item]),
    }
    # An element keeps the strictness of the moment when it was made: these are made anew.
    with pydicom.config.disable_value_validation():
        for keyword, value in values.items():
            if keyword in dataset:
                delattr(dataset, keyword)
            setattr(dataset, keyword, value)


def test_invalid_attributes_of_the_source_are_left_out_and_named(tmp_path: Path) -> None:
    _, findings = make(tmp_path / "series", edit=_spoil)
    outcome = write_dicom_seg(findings, tmp_path / "seg.dcm")
    assert errors_of(tmp_path / "seg.dcm") == []
    message = outcome.lines[0].message
    for keyword in (
        "PatientSex",
        "PatientBirthDate",
        "PatientAge",
        "StudyID",
        "ReferencedStudySequence",
        "PatientIdentityRemoved",
    ):
        assert keyword in message
    assert "PatientWeight" not in message
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert str(seg.PatientName) == "Müller Ünal" and seg.PatientID == "SECRET-ID"
    assert seg.PatientSex == "" and "PatientAge" not in seg


def test_valid_attributes_of_the_source_are_kept() -> None:
    header = Dataset()
    header.PatientName, header.PatientID, header.PatientSex, header.PatientAge = "A^B", "7", "F", "058Y"
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "113100", "DCM", "Basic Profile"
    header.PatientIdentityRemoved, header.DeidentificationMethodCodeSequence = "YES", DicomSequence([code])
    taken, left_out = patient_and_study(header)
    assert left_out == ()
    assert (taken.PatientName, taken.PatientID, taken.PatientSex, taken.PatientAge) == ("A^B", "7", "F", "058Y")
    assert taken.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert taken.StudyID is None or taken.StudyID == ""


def test_no_patient_data_reach_logs_or_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    # highdicom logs a name without caret as potentially invalid, name and all; pydicom logs values that it dislikes.
    _, findings = make(tmp_path / "series", edit=_spoil)
    caplog.clear()
    caplog.set_level(logging.DEBUG)
    outcome = write_dicom_seg(findings, tmp_path / "seg.dcm")
    assert outcome.written
    told = caplog.text + "".join(capfd.readouterr()) + str(outcome)
    for secret in ("Müller", "Ünal", "SECRET", "20010203", "01.02.1950", "19500201", "far too long"):
        assert secret not in told
    assert pydicom.dcmread(tmp_path / "seg.dcm").PatientName == "Müller Ünal"


def test_a_source_inside_an_archive_gives_the_same_object(tmp_path: Path) -> None:
    written, findings = make(tmp_path / "series")
    write_dicom_seg(findings, tmp_path / "a.dcm")
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for path in written.paths:
            archive.write(path, f"deep/{path.name}")
    assert findings.source.stack is not None
    zipped = tuple(
        dataclasses.replace(i, path=tmp_path / "study.zip", member=f"deep/{i.path.name}")
        for i in findings.source.stack.instances
    )
    shutil.rmtree(tmp_path / "series")
    stack = dataclasses.replace(findings.source.stack, instances=zipped)
    write_dicom_seg(
        dataclasses.replace(findings, source=dataclasses.replace(findings.source, stack=stack)), tmp_path / "b.dcm"
    )
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()


def test_a_source_without_dates_and_frame_of_reference_still_gives_a_valid_object(tmp_path: Path) -> None:
    written = write_ct_series(tmp_path / "series", shape=(24, 20, 4), omit=("StudyDate", "StudyTime"))
    stack = stack_of(written.paths)
    stack = dataclasses.replace(
        stack, instances=tuple(dataclasses.replace(i, frame_of_reference_uid=None) for i in stack.instances)
    )
    geometry = geometry_of(stack)
    mask = ball(geometry, geometry.index_to_lps_mm([9, 8, 2]), 2.5)
    findings = findings_on(
        geometry, [mask], stack=stack, study_uid=written.study_uid, series_uid=written.series_uid, options={}
    )
    assert write_dicom_seg(findings, tmp_path / "seg.dcm").written
    assert errors_of(tmp_path / "seg.dcm") == []


def test_frames_of_an_enhanced_object_are_referred_to_by_their_numbers(tmp_path: Path) -> None:
    slices = write_ct_series(tmp_path / "in", shape=(24, 20, 8))
    written = write_enhanced(slices, tmp_path / "in" / "whole.dcm", order=[3, 0, 1, 7, 5, 2, 4, 6])
    (study,) = scan(tmp_path / "in")
    (series,) = study.series
    geometry = geometry_of(series.stacks[0])
    mask = ball(geometry, geometry.index_to_lps_mm([9, 8, 3]), 4.0)
    findings = findings_on(
        geometry,
        [mask],
        stack=series.stacks[0],
        study_uid=study.study_instance_uid,
        series_uid=series.series_instance_uid,
    )
    assert write_dicom_seg(findings, tmp_path / "seg.dcm").written
    assert errors_of(tmp_path / "seg.dcm") == []
    source, seg = pydicom.dcmread(written), pydicom.dcmread(tmp_path / "seg.dcm")
    (listed,) = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert listed.ReferencedSOPInstanceUID == source.SOPInstanceUID
    for item, frame in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True):
        reference = item.DerivationImageSequence[0].SourceImageSequence[0]
        assert reference.ReferencedSOPClassUID == source.SOPClassUID
        group = source.PerFrameFunctionalGroupsSequence[reference.ReferencedFrameNumber - 1]
        place = group.PlanePositionSequence[0].ImagePositionPatient
        assert place == item.PlanePositionSequence[0].ImagePositionPatient
        k = round(float(geometry.lps_mm_to_index([float(v) for v in place])[2]))
        np.testing.assert_array_equal(frame.astype(bool), mask[:, :, k].T)
    for outcome in (SegOutcome(False, "not asked for"), write_dicom_seg(findings, tmp_path / "seg.dcm")):
        assert write_dicom_report(findings, tmp_path / "report.dcm", seg=outcome).written
        assert errors_of(tmp_path / "report.dcm", "Comprehensive3DSR") == []
