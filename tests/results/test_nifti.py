from __future__ import annotations

import dataclasses
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from mtnet.results import write_lesions_nifti, write_reconstruction_nifti, write_segmentation_nifti
from mtnet.structures import Findings, Geometry, Volume
from tests.results.samples import ball, findings_on


def _turned(degrees: float, axis: int) -> np.ndarray:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    plane = [a for a in range(3) if a != axis]
    turn = np.eye(3)
    turn[np.ix_(plane, plane)] = [[c, -s], [s, c]]
    return turn


GRIDS = {
    "axial": np.eye(3),
    "flipped": np.diag([-1.0, 1.0, -1.0]),
    "coronal": np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]]),
    "oblique": _turned(20, 0) @ _turned(35, 2),
}


@pytest.fixture(params=GRIDS, name="findings")
def _findings(request: pytest.FixtureRequest) -> Findings:
    geometry = Geometry.from_parts((14, 12, 9), (0.7, 0.9, 2.5), (-120.5, 33.25, -401.75), GRIDS[request.param])
    middle = geometry.index_to_lps_mm([6, 6, 4])
    return findings_on(
        geometry, [ball(geometry, middle, 4), ball(geometry, np.add(middle, [3, 3, 3]), 2)], reconstruction=True
    )


def test_an_outside_reader_finds_each_voxel_where_the_geometry_puts_it(findings: Findings, tmp_path: Path) -> None:
    write_lesions_nifti(findings, tmp_path / "lesions.nii.gz")
    image = sitk.ReadImage(str(tmp_path / "lesions.nii.gz"))
    assert image.GetSize() == findings.geometry.shape
    for index in ((0, 0, 0), (13, 0, 0), (0, 11, 0), (0, 0, 8), (5, 7, 3)):
        place = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(place, findings.geometry.index_to_lps_mm(index), rtol=0, atol=1e-4)
    assert findings.lesion_map is not None
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).transpose(2, 1, 0), findings.lesion_map.array[0])


def test_the_affine_is_that_of_the_geometry_as_scanner_space_in_mm(findings: Findings, tmp_path: Path) -> None:
    write_segmentation_nifti(findings, tmp_path / "segmentation.nii.gz")
    image = nibabel.load(tmp_path / "segmentation.nii.gz")
    # NIfTI-1 keeps single precision: 1e-6 of a coordinate.
    np.testing.assert_allclose(image.affine, findings.geometry.affine_ras, rtol=1e-6, atol=1e-6)
    for form, code in (image.get_sform(coded=True), image.get_qform(coded=True)):
        assert code == 1
        np.testing.assert_allclose(form, findings.geometry.affine_ras, rtol=1e-5, atol=1e-4)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert image.get_data_dtype() == np.uint8
    assert b"Trained on drawn data" in image.header["descrip"].item()


def test_a_sheared_grid_claims_no_qform(tmp_path: Path) -> None:
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[1, 2] = 0.5
    geometry = Geometry((6, 5, 4), affine)
    write_lesions_nifti(findings_on(geometry, []), tmp_path / "lesions.nii.gz")
    image = nibabel.load(tmp_path / "lesions.nii.gz")
    assert image.get_qform(coded=True)[1] == 0
    np.testing.assert_allclose(image.affine, geometry.affine_ras, rtol=1e-6, atol=1e-6)


def test_a_ct_reconstruction_is_whole_hu(findings: Findings, tmp_path: Path) -> None:
    write_reconstruction_nifti(findings, tmp_path / "reconstruction.nii.gz")
    image = nibabel.load(tmp_path / "reconstruction.nii.gz")
    assert image.get_data_dtype() == np.int16
    assert findings.reconstruction is not None
    assert np.abs(np.asarray(image.dataobj) - findings.reconstruction.array[0]).max() <= 0.5


def test_another_modality_keeps_its_fractions(findings: Findings, tmp_path: Path) -> None:
    assert findings.reconstruction is not None
    redrawn = Volume(findings.reconstruction.array / 1000, findings.geometry, "MR")
    write_reconstruction_nifti(dataclasses.replace(findings, reconstruction=redrawn), tmp_path / "r.nii.gz")
    image = nibabel.load(tmp_path / "r.nii.gz")
    assert image.get_data_dtype() == np.float32
    np.testing.assert_allclose(np.asarray(image.dataobj), redrawn.array[0], rtol=1e-6)


@pytest.mark.parametrize("name", ["lesions.nii.gz", "lesions.nii"])
def test_the_same_findings_give_the_same_bytes(findings: Findings, tmp_path: Path, name: str) -> None:
    write_lesions_nifti(findings, tmp_path / name)
    first = (tmp_path / name).read_bytes()
    write_lesions_nifti(findings, tmp_path / name)
    assert (tmp_path / name).read_bytes() == first


def test_more_than_255_lesions_keep_their_numbers(tmp_path: Path) -> None:
    geometry = Geometry.from_parts((20, 20, 1), (1, 1, 1))
    numbers = np.arange(400, dtype=np.uint16).reshape(1, 20, 20, 1)
    findings = dataclasses.replace(findings_on(geometry, []), lesion_map=Volume(numbers, geometry))
    write_lesions_nifti(findings, tmp_path / "lesions.nii.gz")
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "lesions.nii.gz").dataobj), numbers[0])
    with pytest.raises(ValueError, match="0 to 255"):
        write_segmentation_nifti(
            dataclasses.replace(findings, label_map=Volume(numbers, geometry)), tmp_path / "segmentation.nii.gz"
        )
    assert not (tmp_path / "segmentation.nii.gz").exists()


@pytest.mark.parametrize("write", [write_segmentation_nifti, write_lesions_nifti, write_reconstruction_nifti])
def test_an_answer_that_was_not_given_is_not_written(write: object, tmp_path: Path) -> None:
    findings = findings_on(Geometry.from_parts((4, 4, 4), (1, 1, 1)), [])
    empty = dataclasses.replace(findings, label_map=None, lesion_map=None, reconstruction=None)
    with pytest.raises(ValueError, match="did not run"):
        write(empty, tmp_path / "x.nii.gz")  # type: ignore[operator]
    assert list(tmp_path.iterdir()) == []
