from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom.sr import Comprehensive3DSR, MeasurementReport
from highdicom.sr.utils import find_content_items
from pydicom.dataset import Dataset

from mtnet.results import SegOutcome, write_dicom_report, write_dicom_seg
from mtnet.structures import Findings, ImageClass, Volume
from tests.builders import write_ct_series
from tests.results.judges import errors_of, filled
from tests.results.samples import ball, findings_on, geometry_of, measured_at_given_places, stack_of

DATA = Path(os.environ.get("MTNET_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
NO_SEG = SegOutcome(False, "not asked for")


def make(folder: Path) -> Findings:
    """A tiny series with two drawn lesions."""
    written = write_ct_series(folder, shape=(24, 20, 8), spacing_mm=(0.8, 0.9, 2.0))
    stack = stack_of(written.paths)
    geometry = geometry_of(stack)
    middle = geometry.index_to_lps_mm([9, 8, 3])
    masks = [ball(geometry, middle, 3.5), ball(geometry, np.add(middle, [8, 4, 3]), 2.2)]
    return findings_on(geometry, masks, stack=stack, study_uid=written.study_uid, series_uid=written.series_uid)


def without_findings(findings: Findings) -> Findings:
    assert findings.lesion_map is not None
    empty = Volume(np.zeros_like(findings.lesion_map.array), findings.geometry)
    absent = tuple(dataclasses.replace(c, probability=0.125) for c in findings.image_classes)
    return dataclasses.replace(findings, lesions=(), lesion_map=empty, image_classes=absent)


def content_of(path: Path) -> MeasurementReport:
    """The report as highdicom reads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = Comprehensive3DSR.from_dataset(pydicom.dcmread(path))
    assert isinstance(report.content, MeasurementReport)
    return report.content


def texts_of(path: Path) -> list[str]:
    """Comments at the root of the report, read with pydicom alone."""
    items = pydicom.dcmread(path).ContentSequence
    return [item.TextValue for item in items if item.ValueType == "TEXT" and item.RelationshipType == "CONTAINS"]


def items_of(dataset: Dataset) -> list[Dataset]:
    """Every content item below a data set."""
    children = list(dataset.get("ContentSequence") or ())
    return children + [below for child in children for below in items_of(child)]


def test_every_lesion_is_found_by_its_tracking_uid_with_its_segment_and_measurements(tmp_path: Path) -> None:
    findings = make(tmp_path / "series")
    seg = write_dicom_seg(findings, tmp_path / "seg.dcm")
    assert write_dicom_report(findings, tmp_path / "report.dcm", seg=seg).written
    written = pydicom.dcmread(tmp_path / "seg.dcm")
    content = content_of(tmp_path / "report.dcm")
    for lesion in findings.lesions:
        (group,) = content.get_volumetric_roi_measurement_groups(tracking_uid=lesion.tracking_uid)
        assert group.tracking_identifier == f"Lesion {lesion.number}"
        assert group.finding_type.value == "27925004" and group.finding_category.value == "49755003"
        assert [site.value.value for site in group.finding_sites] == ["39607008"]
        reference = group.referenced_segment
        assert reference[0].referenced_sop_instance_uid == written.SOPInstanceUID
        number = int(reference[0].ReferencedSOPSequence[0].ReferencedSegmentNumber)
        assert written.SegmentSequence[number - 1].TrackingUID == lesion.tracking_uid
        measured = {(m.name.value, m.unit.value): m.value for m in group.get_measurements()}
        assert measured["118565006", "mm3"] == pytest.approx(lesion.volume_mm3)
        assert measured["103339001", "mm"] == pytest.approx(lesion.longest_axial_diameter_mm)
        assert measured["103340004", "mm"] == pytest.approx(lesion.short_axial_diameter_mm)
        assert measured["score", "1"] == pytest.approx(lesion.score)
        evaluations = group.get_qualitative_evaluations()
        (texture,) = [e for e in evaluations if e.name.scheme_designator == "99MTNET"]
        assert (texture.name.meaning, texture.value.meaning) == ("texture", "solid")
        named = {m.name.meaning: m.value for m in group.get_measurements()}
        assert named["Probability of texture: part-solid"] == 0.2 and named["network diameter"] == 9.123456


@pytest.mark.parametrize("case", ["segments", "outlines", "boxes", "nothing"])
def test_a_report_has_no_error_for_dciodvfy(case: str, tmp_path: Path) -> None:
    findings = make(tmp_path / "series")
    seg = write_dicom_seg(findings, tmp_path / "seg.dcm") if case == "segments" else NO_SEG
    if case == "boxes":
        findings = dataclasses.replace(findings, lesion_map=None)
    if case == "nothing":
        findings = without_findings(findings)
    assert write_dicom_report(findings, tmp_path / "report.dcm", seg=seg).written
    assert errors_of(tmp_path / "report.dcm", "Comprehensive3DSR") == []


def test_an_empty_result_is_said(tmp_path: Path) -> None:
    findings = without_findings(make(tmp_path / "series"))
    write_dicom_report(findings, tmp_path / "report.dcm", seg=NO_SEG)
    assert texts_of(tmp_path / "report.dcm")[0] == "No lesion was found."
    content = content_of(tmp_path / "report.dcm")
    assert not content.get_volumetric_roi_measurement_groups() and not content.get_planar_roi_measurement_groups()
    (group,) = content.get_image_measurement_groups()
    answers = {e.name.value: e.value.value for e in group.get_qualitative_evaluations()}
    assert answers["111017"] == "111241" and set(answers.values()) == {"111241", "272519000"}
    assert next(m.value for m in group.get_measurements() if m.name.value == "lesion_count") == 0


def test_image_classes_are_answers_with_their_probability(tmp_path: Path) -> None:
    findings = make(tmp_path / "series")
    write_dicom_report(findings, tmp_path / "report.dcm", seg=NO_SEG)
    (group,) = content_of(tmp_path / "report.dcm").get_image_measurement_groups()
    answers = {e.name.meaning: e.value.meaning for e in group.get_qualitative_evaluations()}
    assert answers["findings: nodule"] == "Present" and answers["findings: effusion"] == "Absent"
    assert answers["CAD Processing and Findings Summary"] == "All algorithms succeeded; with findings"
    values = {m.name.meaning: (m.value, m.unit.value) for m in group.get_measurements()}
    assert values["Probability of findings: nodule"] == (0.875, "1")
    assert values["mean absolute error"] == (31.25, "[hnsf'U]")


def test_the_report_says_what_it_is_who_made_it_and_from_what(tmp_path: Path) -> None:
    findings = make(tmp_path / "series")
    seg = write_dicom_seg(findings, tmp_path / "seg.dcm")
    write_dicom_report(findings, tmp_path / "report.dcm", seg=seg)
    report = pydicom.dcmread(tmp_path / "report.dcm")
    assert report.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34"
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    flags = (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag)
    assert flags == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")
    assert report.StudyInstanceUID == findings.source.study_instance_uid
    source = pydicom.dcmread(findings.source.stack.instances[0].path)  # type: ignore[union-attr]
    assert (report.PatientID, report.PatientName) == (source.PatientID, source.PatientName)
    comments = texts_of(tmp_path / "report.dcm")
    assert comments == ["2 lesions were found.", "Research use only. Trained on drawn data. Not a medical device."]
    told = {item.ConceptNameCodeSequence[0].CodeMeaning: item for item in items_of(report)}
    assert told["Algorithm Name"].TextValue == "chest_ct_multitask" and told["Algorithm Version"].TextValue == "0.1.0"
    parameters = {i.TextValue for i in items_of(report) if i.ConceptNameCodeSequence[0].CodeValue == "111002"}
    assert parameters == {f"weights_sha256={'ab' * 32}", "overlap=0.25", "window=64x64x64"}
    series = {
        s.SeriesInstanceUID: s for s in report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    }
    listed = {i.ReferencedSOPInstanceUID for i in series[findings.source.series_instance_uid].ReferencedSOPSequence}
    assert listed == {i.sop_instance_uid for i in findings.source.stack.instances}  # type: ignore[union-attr]
    assert [i.ReferencedSOPInstanceUID for i in series[seg.series_instance_uid].ReferencedSOPSequence] == [
        seg.sop_instance_uid
    ]
    library = next(i for i in report.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "111028")
    images = [i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for i in items_of(library) if i.ValueType == "IMAGE"]
    assert set(images) == listed and len(images) == len(listed)


def test_private_codes_fit_and_their_scheme_is_named(tmp_path: Path) -> None:
    write_dicom_report(make(tmp_path / "series"), tmp_path / "report.dcm", seg=NO_SEG)
    report = pydicom.dcmread(tmp_path / "report.dcm")
    assert report.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99MTNET"
    codes = [item.ConceptNameCodeSequence[0] for item in items_of(report)]
    private = [code for code in codes if code.CodingSchemeDesignator == "99MTNET"]
    assert private and all(len(code.CodeValue) <= 16 and code.CodeMeaning for code in private)


def test_a_lesion_without_segment_is_outlined_on_the_slice_where_it_is_largest(tmp_path: Path) -> None:
    findings = make(tmp_path / "series")
    assert findings.lesion_map is not None and findings.source.stack is not None
    write_dicom_report(findings, tmp_path / "report.dcm", seg=NO_SEG)
    content = content_of(tmp_path / "report.dcm")
    by_uid = {i.sop_instance_uid: i for i in findings.source.stack.instances}
    for lesion in findings.lesions:
        (group,) = content.get_planar_roi_measurement_groups(tracking_uid=lesion.tracking_uid)
        (item,) = find_content_items(group[0], value_type="SCOORD")
        instance = by_uid[item.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID]
        k = round(float(findings.geometry.lps_mm_to_index(instance.position_lps_mm)[2]))
        masks = findings.lesion_map.array[0] == lesion.number
        assert masks[:, :, k].sum() == masks.sum(axis=(0, 1)).max()
        points = np.array(item.GraphicData).reshape(-1, 2)
        np.testing.assert_array_equal(filled(points, masks.shape[1::-1]), masks[:, :, k].T)


def test_a_lesion_without_mask_has_its_box_on_the_nearest_slice(tmp_path: Path) -> None:
    findings = make(tmp_path / "series")
    findings = dataclasses.replace(findings, lesion_map=None)
    assert findings.source.stack is not None
    write_dicom_report(findings, tmp_path / "report.dcm", seg=NO_SEG)
    content = content_of(tmp_path / "report.dcm")
    lesion = findings.lesions[0]
    (group,) = content.get_planar_roi_measurement_groups(tracking_uid=lesion.tracking_uid)
    (item,) = find_content_items(group[0], value_type="SCOORD")
    uid = item.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    instance = next(i for i in findings.source.stack.instances if i.sop_instance_uid == uid)
    off = np.subtract(instance.position_lps_mm, lesion.centre_lps_mm)  # type: ignore[arg-type]
    normal = findings.geometry.direction_lps[:, 2]
    assert abs(float(off @ normal)) <= findings.geometry.spacing_mm[2] / 2 + 1e-6
    points = np.array(item.GraphicData).reshape(-1, 2)
    low, high = np.array(lesion.box_index[:2]) + 0.5, np.array(lesion.box_index[3:5]) + 0.5
    np.testing.assert_allclose([points.min(axis=0), points.max(axis=0)], [low, high], atol=1e-3)


def test_the_same_findings_make_the_same_report(tmp_path: Path) -> None:
    findings = make(tmp_path / "series")
    for name in ("a.dcm", "b.dcm"):
        write_dicom_report(findings, tmp_path / name, seg=NO_SEG)
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda f: dataclasses.replace(f, model=dataclasses.replace(f.model, version="0.1.1")),
        lambda f: dataclasses.replace(f, options={"window": "96x96x96"}),
        lambda f: dataclasses.replace(f, lesions=(dataclasses.replace(f.lesions[0], volume_mm3=1.0), *f.lesions[1:])),
        lambda f: dataclasses.replace(f, image_classes=(ImageClass("findings", "nodule", 0.5, 0.5),)),
        lambda f: dataclasses.replace(f, reconstruction_error={}),
    ],
    ids=["version", "options", "volume", "classes", "error"],
)
def test_a_change_makes_a_report_with_other_uids(change: Callable[[Findings], Findings], tmp_path: Path) -> None:
    findings = make(tmp_path / "series")
    write_dicom_report(findings, tmp_path / "a.dcm", seg=NO_SEG)
    write_dicom_report(change(findings), tmp_path / "b.dcm", seg=NO_SEG)
    first, second = (pydicom.dcmread(tmp_path / name) for name in ("a.dcm", "b.dcm"))
    assert first.SOPInstanceUID != second.SOPInstanceUID and first.SeriesInstanceUID != second.SeriesInstanceUID


def test_findings_of_no_dicom_have_no_report(tmp_path: Path) -> None:
    findings = make(tmp_path / "series")
    findings = dataclasses.replace(findings, source=dataclasses.replace(findings.source, stack=None))
    outcome = write_dicom_report(findings, tmp_path / "report.dcm", seg=NO_SEG)
    assert not outcome.written and outcome.reason == "the source is no DICOM series"
    assert list(tmp_path.glob("*.dcm")) == []


def test_lesions_on_slices_without_place_are_told_without_outline(tmp_path: Path) -> None:
    findings = make(tmp_path / "series")
    stack = findings.source.stack
    assert stack is not None
    lost = tuple(dataclasses.replace(i, position_lps_mm=None) for i in stack.instances)
    source = dataclasses.replace(findings.source, stack=dataclasses.replace(stack, instances=lost))
    assert write_dicom_report(dataclasses.replace(findings, source=source), tmp_path / "r.dcm", seg=NO_SEG).written
    assert errors_of(tmp_path / "r.dcm", "Comprehensive3DSR") == []
    groups = content_of(tmp_path / "r.dcm").get_image_measurement_groups()
    assert [g.tracking_identifier for g in groups] == ["Image", "Lesion 1", "Lesion 2"]


@pytest.mark.study
@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")
def test_a_report_of_the_real_study_has_no_error_for_dciodvfy(tmp_path: Path) -> None:
    folder = next((DATA / "chest_ct_study" / "Lung_Dx-A0001").glob("*/2.000000-5mm-40805"), None)
    if folder is None:
        pytest.skip(f"no study under {DATA}")
    stack = stack_of(sorted(folder.glob("*.dcm")))
    geometry = geometry_of(stack)
    header = pydicom.dcmread(stack.instances[0].path, stop_before_pixels=True)
    mask = np.zeros(geometry.shape, bool)
    mask[200:230, 240:280, 20:24] = True
    findings = findings_on(
        geometry, [mask], stack=stack, study_uid=str(header.StudyInstanceUID), series_uid=str(header.SeriesInstanceUID)
    )
    for seg in (write_dicom_seg(findings, tmp_path / "seg.dcm"), NO_SEG):
        outcome = write_dicom_report(findings, tmp_path / "report.dcm", seg=seg)
        assert outcome.written and "ReferencedStudySequence" in outcome.lines[0].message
        assert errors_of(tmp_path / "report.dcm", "Comprehensive3DSR") == []


def test_what_was_measured_at_a_given_place_stands_with_its_error_and_nothing_of_the_drawn_mask_does(
    tmp_path: Path,
) -> None:
    findings = measured_at_given_places(make(tmp_path / "series"))
    seg = write_dicom_seg(findings, tmp_path / "seg.dcm")
    assert write_dicom_report(findings, tmp_path / "report.dcm", seg=seg).written
    content = content_of(tmp_path / "report.dcm")
    for lesion in findings.lesions:
        (group,) = content.get_volumetric_roi_measurement_groups(tracking_uid=lesion.tracking_uid)
        measured = {m.name.meaning: (m.value, m.unit.value) for m in group.get_measurements()}
        assert measured["Diameter"] == (8.25, "mm")
        assert measured["Expected standard deviation of diameter"] == (1.5, "mm")
        assert measured["reader rating"] == (2.5, "1")
        assert not measured.keys() & {"Volume", "Long axis", "Short axis", "Detection score"}
        said = [e.value.meaning for e in group.get_qualitative_evaluations()]
        assert "Given, not found by the algorithm" in said and "Ball of the measured diameter, drawn" in said
    image = content.get_image_measurement_groups()[0]
    assert {m.name.meaning: m.value for m in image.get_measurements()}["mean"] == -80.5
    assert "2 lesions were measured at given places; none was looked for." in texts_of(tmp_path / "report.dcm")
    assert errors_of(tmp_path / "report.dcm", "Comprehensive3DSR") == []
