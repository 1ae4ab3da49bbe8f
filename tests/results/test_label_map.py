from __future__ import annotations

import dataclasses
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest

from mtnet.cli.main import main
from mtnet.results import write_dicom_seg, write_results
from mtnet.structures import Findings, Geometry, Volume
from tests.builders import write_ct_series
from tests.results.samples import ball, findings_on, geometry_of, stack_of

needs_label_maps = pytest.mark.skipif(
    tuple(int(part) for part in highdicom.__version__.split(".")[:2]) < (0, 24), reason="this highdicom has none"
)


def make(folder: Path, shape: tuple[int, int, int] = (41, 31, 8)) -> Findings:
    """A tiny series of odd size with two drawn lesions."""
    written = write_ct_series(folder, shape=shape, spacing_mm=(0.8, 0.9, 2.0))
    stack = stack_of(written.paths)
    geometry = geometry_of(stack)
    middle = geometry.index_to_lps_mm([9, 8, 3])
    masks = [ball(geometry, middle, 3.5), ball(geometry, np.add(middle, [8, 4, 3]), 2.2)]
    return findings_on(geometry, masks, stack=stack, study_uid=written.study_uid, series_uid=written.series_uid)


def voxels_of(path: Path, geometry: Geometry) -> np.ndarray:
    """Lesion values on the grid, put there by the plane position of each frame, with pydicom alone."""
    seg = pydicom.dcmread(path)
    frames = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    values = np.zeros(geometry.shape, np.uint16)
    for item, frame in zip(seg.PerFrameFunctionalGroupsSequence, frames, strict=True):
        place = [float(v) for v in item.PlanePositionSequence[0].ImagePositionPatient]
        i, j, k = geometry.lps_mm_to_index(place)
        assert abs(i) < 1e-3 and abs(j) < 1e-3 and abs(k - round(k)) < 1e-3
        values[:, :, round(float(k))] = frame.T
    return values


@needs_label_maps
def test_a_label_map_reads_back_equal_by_pydicom_and_by_highdicom(tmp_path: Path) -> None:
    findings = make(tmp_path / "series")
    assert findings.lesion_map is not None
    outcome = write_dicom_seg(findings, tmp_path / "seg.dcm", kind="labelmap")
    assert outcome.written and outcome.segments == (1, 2)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert seg.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.7" and seg.SegmentationType == "LABELMAP"
    assert seg.file_meta.TransferSyntaxUID == pydicom.uid.RLELossless
    lesions = findings.lesion_map.array[0]
    np.testing.assert_array_equal(voxels_of(tmp_path / "seg.dcm", findings.geometry), lesions)
    volume = highdicom.seg.segread(str(tmp_path / "seg.dcm")).get_volume(combine_segments=True)
    index = np.stack(np.meshgrid(*map(np.arange, volume.spatial_shape), indexing="ij"), -1)
    world = index.reshape(-1, 3) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    own = np.rint(findings.geometry.lps_mm_to_index(world)).astype(int)
    np.testing.assert_array_equal(volume.array.ravel(), lesions[tuple(own.T)])
    assert volume.array.astype(bool).sum() == (lesions > 0).sum()


@needs_label_maps
def test_segments_of_a_label_map_are_those_of_the_binary_one(tmp_path: Path) -> None:
    findings = make(tmp_path / "series")
    write_dicom_seg(findings, tmp_path / "binary.dcm")
    write_dicom_seg(findings, tmp_path / "map.dcm", kind="labelmap")
    binary, label_map = (highdicom.seg.segread(str(tmp_path / name)) for name in ("binary.dcm", "map.dcm"))
    assert binary.SOPInstanceUID != label_map.SOPInstanceUID
    for number in (1, 2):
        one, other = binary.get_segment_description(number), label_map.get_segment_description(number)
        assert one.tracking_uid == other.tracking_uid == findings.lesions[number - 1].tracking_uid
        assert one.segmented_property_type == other.segmented_property_type
    assert label_map.PatientID == binary.PatientID and label_map.ContentDescription == binary.ContentDescription


@needs_label_maps
def test_the_same_findings_make_the_same_label_map(tmp_path: Path) -> None:
    findings = make(tmp_path / "series")
    for name in ("a.dcm", "b.dcm"):
        write_dicom_seg(findings, tmp_path / name, kind="labelmap")
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()


@needs_label_maps
def test_more_lesions_than_a_byte_counts_are_kept_apart(tmp_path: Path) -> None:
    findings = make(tmp_path / "series")
    lesions = np.zeros((1, *findings.geometry.shape), np.uint16)
    lesions[0, :37:2, :29:2, 0] = np.arange(1, 19 * 15 + 1).reshape(19, 15)
    first = dataclasses.replace(findings.lesions[0], mask_voxels=1)
    many = tuple(dataclasses.replace(first, number=n, tracking_uid=f"2.25.{n}") for n in range(1, 19 * 15 + 1))
    findings = dataclasses.replace(findings, lesions=many, lesion_map=Volume(lesions, findings.geometry))
    assert write_dicom_seg(findings, tmp_path / "seg.dcm", kind="labelmap").written
    np.testing.assert_array_equal(voxels_of(tmp_path / "seg.dcm", findings.geometry), lesions[0])


def test_an_older_highdicom_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = make(tmp_path / "series")
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.22.0")
    with pytest.raises(ValueError, match=r"highdicom 0\.24 or later; here is highdicom 0\.22\.0"):
        write_results(findings, None, tmp_path / "out", dicom_seg="labelmap")
    assert not (tmp_path / "out").exists()


def test_the_command_refuses_a_label_map_before_it_reads_a_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.22.0")
    (tmp_path / "in").mkdir()
    code = main(["infer", str(tmp_path / "in"), str(tmp_path / "out"), "--bundle", "no_such", "--seg", "labelmap"])
    assert code == 1
    told = capsys.readouterr().err
    assert "highdicom" in told and "--seg labelmap" in told and "no_such" not in told


def test_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'fractional'; expected binary or labelmap"):
        write_dicom_seg(make(tmp_path / "series"), tmp_path / "seg.dcm", kind="fractional")  # type: ignore[arg-type]
