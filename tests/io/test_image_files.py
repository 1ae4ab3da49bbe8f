"""Image files that are no DICOM: geometry as SimpleITK and nibabel have it, odd ones refused by name."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from mtnet.io.image_files import load_image_file
from mtnet.io.limits import Limits
from mtnet.io.nifti_out import write_nifti
from mtnet.structures import Geometry, RefusedError, Volume

DIRECTION = np.linalg.qr(np.array([[0.9, 0.2, -0.3], [-0.1, 0.95, 0.2], [0.35, -0.15, 0.9]]))[0]


def sitk_image(dtype: type = np.int16) -> SimpleITK.Image:
    values = np.arange(4 * 5 * 6).reshape(4, 5, 6).astype(dtype)
    image = SimpleITK.GetImageFromArray(values)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-10.0, 20.0, -300.0))
    image.SetDirection(DIRECTION.ravel().tolist())
    return image


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(RefusedError) as caught:
        load_image_file(path, **options)  # type: ignore[arg-type]
    (found,) = caught.value.lines
    return found.code


def nifti(values: np.ndarray, edit: Callable[[nibabel.Nifti1Image], object] | None = None) -> nibabel.Nifti1Image:
    image = nibabel.Nifti1Image(values, np.diag([-0.7, -0.8, 2.5, 1.0]))
    image.set_sform(image.affine, code=1)
    image.set_qform(image.affine, code=1)
    if edit is not None:
        edit(image)
    return image


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
def test_every_format_keeps_simpleitks_geometry_and_values(tmp_path: Path, name: str, dtype: type) -> None:
    image = sitk_image(dtype)
    SimpleITK.WriteImage(image, str(tmp_path / name))
    volume = load_image_file(tmp_path / name, modality="CT")
    assert volume.modality == "CT"
    assert volume.array.dtype == (np.float32 if dtype is np.float32 else np.int16)
    np.testing.assert_array_equal(volume.array[0], SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0))
    for index in [(0, 0, 0), (5, 4, 3), (2, 1, 3)]:
        expected = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(volume.geometry.index_to_lps_mm(index), expected, atol=1e-3)


def test_scaled_values_become_int16_where_exact_and_float32_elsewhere(tmp_path: Path) -> None:
    stored = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    for slope, intercept, dtype in [(2.0, -1024.0, np.int16), (0.5, 0.0, np.float32), (4000.0, 0.0, np.float32)]:
        image = nifti(stored)
        image.header.set_slope_inter(slope, intercept)
        path = tmp_path / "scaled.nii"
        image.header["magic"] = b"n+1"
        with path.open("wb") as stream:
            image.header["vox_offset"] = 352
            stream.write(image.header.binaryblock + bytes(4) + stored.tobytes(order="F"))
        volume = load_image_file(path)
        assert volume.array.dtype == dtype
        np.testing.assert_array_equal(volume.array[0], stored * slope + intercept)


def test_a_nifti_without_orientation_is_refused_and_assumed_under_repair(tmp_path: Path) -> None:
    def edit(image: nibabel.Nifti1Image) -> None:
        image.set_sform(None, code=0)
        image.set_qform(None, code=0)

    nibabel.save(nifti(np.zeros((3, 4, 5), np.int16), edit), tmp_path / "a.nii")
    assert refusal(tmp_path / "a.nii") == refusal(tmp_path / "a.nii", strict=True) == "no_orientation"
    volume = load_image_file(tmp_path / "a.nii", repair=True)
    assert [(item.code, item.severity) for item in volume.report] == [("no_orientation", "repaired")]
    assert volume.geometry.spacing_mm == pytest.approx((0.7, 0.8, 2.5))


def test_the_qform_is_used_where_the_sform_is_not_set(tmp_path: Path) -> None:
    nibabel.save(nifti(np.zeros((3, 4, 5), np.int16), lambda image: image.set_sform(None, code=0)), tmp_path / "a.nii")
    volume = load_image_file(tmp_path / "a.nii")
    np.testing.assert_allclose(volume.geometry.affine_ras, np.diag([-0.7, -0.8, 2.5, 1.0]), atol=1e-6)


def test_an_sform_that_differs_from_the_qform_is_taken_and_noted(tmp_path: Path) -> None:
    moved = np.diag([-0.7, -0.8, 2.5, 1.0])
    moved[0, 3] = 30
    nibabel.save(nifti(np.zeros((3, 4, 5), np.int16), lambda image: image.set_sform(moved, code=2)), tmp_path / "a.nii")
    volume = load_image_file(tmp_path / "a.nii")
    assert volume.report.codes == ("sform_qform_differ",)
    np.testing.assert_allclose(volume.geometry.affine_ras, moved, atol=1e-6)


def test_units_other_than_mm_are_converted(tmp_path: Path) -> None:
    def in_metres(image: nibabel.Nifti1Image) -> None:
        image.set_sform(np.diag([0.0007, 0.0008, 0.0025, 1.0]), code=1)
        image.header.set_xyzt_units("meter")

    nibabel.save(nifti(np.zeros((3, 4, 5), np.int16), in_metres), tmp_path / "a.nii")
    assert load_image_file(tmp_path / "a.nii").geometry.spacing_mm == pytest.approx((0.7, 0.8, 2.5), rel=1e-5)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5, 2), (3, 4, 5, 1, 3)])
def test_what_is_not_3d_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    nibabel.save(nifti(np.zeros(shape, np.int16)), tmp_path / "a.nii.gz")
    assert refusal(tmp_path / "a.nii.gz") == "not_three_dimensional"
    if len(shape) == 4:
        array = np.zeros(shape[::-1], np.int16)
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array, isVector=False), str(tmp_path / "a.nrrd"))
        assert refusal(tmp_path / "a.nrrd") == "not_three_dimensional"


def test_trailing_axes_of_one_are_dropped_and_vectors_refused(tmp_path: Path) -> None:
    nibabel.save(nifti(np.ones((3, 4, 5, 1), np.int16)), tmp_path / "a.nii")
    assert load_image_file(tmp_path / "a.nii").array.shape == (1, 3, 4, 5)
    vector = SimpleITK.GetImageFromArray(np.zeros((3, 4, 5, 2), np.float32), isVector=True)
    SimpleITK.WriteImage(vector, str(tmp_path / "a.mha"))
    assert refusal(tmp_path / "a.mha") == "not_three_dimensional"


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha"])
def test_the_limit_is_checked_from_the_header(tmp_path: Path, name: str) -> None:
    SimpleITK.WriteImage(sitk_image(), str(tmp_path / name))
    assert refusal(tmp_path / name, limits=Limits(decoded_bytes=479)) == "limit_exceeded"
    assert load_image_file(tmp_path / name, limits=Limits(decoded_bytes=480)).array.size == 120


def test_a_header_that_claims_terabytes_takes_no_memory(tmp_path: Path) -> None:
    image = nifti(np.zeros((3, 4, 5), np.int16))
    image.header.set_data_shape((30000, 30000, 30000))
    with gzip.open(tmp_path / "a.nii.gz", "wb") as stream:
        stream.write(image.header.binaryblock + bytes(100))
    assert refusal(tmp_path / "a.nii.gz") == "limit_exceeded"
    lines = "ObjectType = Image", "NDims = 3", "DimSize = 30000 30000 30000", "ElementType = MET_SHORT"
    (tmp_path / "a.mha").write_text("\n".join([*lines, "ElementDataFile = LOCAL", ""]))
    assert refusal(tmp_path / "a.mha") == "limit_exceeded"


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha"])
@pytest.mark.parametrize("keep", [10, 0.6])
def test_a_file_that_is_cut_short_is_refused(
    tmp_path: Path, name: str, keep: float, capfd: pytest.CaptureFixture[str]
) -> None:
    SimpleITK.WriteImage(sitk_image(), str(tmp_path / name), useCompression=name == "a.nii.gz")
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(keep if keep >= 1 else keep * len(content))])
    assert refusal(tmp_path / name) == "unsupported_format"


def test_a_header_that_names_a_file_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    for name, key in [("a.mhd", "ElementDataFile ="), ("a.nhdr", "data file:")]:
        SimpleITK.WriteImage(sitk_image(), str(tmp_path / "deeper" / name))
        path = tmp_path / "deeper" / name
        lines = path.read_text(encoding="latin-1").splitlines()
        data = next(item.split()[-1] for item in lines if item.lower().startswith(key.lower()))
        (tmp_path / "deeper" / data).rename(tmp_path / data)
        path.write_text(
            "\n".join(f"{key} ../{data}" if item.lower().startswith(key.lower()) else item for item in lines) + "\n",
            encoding="latin-1",
        )
        assert refusal(path) == "unsupported_format"


def test_values_that_are_not_finite_are_refused_and_replaced_under_repair(tmp_path: Path) -> None:
    values = np.full((3, 4, 5), 7, np.float32)
    values[0, 0, :2] = np.nan, np.inf
    values[1, 1, 1] = -900
    nibabel.save(nifti(values), tmp_path / "a.nii")
    assert refusal(tmp_path / "a.nii") == "values_not_finite"
    volume = load_image_file(tmp_path / "a.nii", repair=True)
    assert volume.array[0, 0, 0, :3].tolist() == [-900, -900, 7]
    assert [item.severity for item in volume.report] == ["repaired"]


def test_complex_values_and_unknown_suffixes_are_refused(tmp_path: Path) -> None:
    nibabel.save(nifti(np.zeros((3, 4, 5), np.complex64)), tmp_path / "a.nii")
    assert refusal(tmp_path / "a.nii") == "unsupported_format"
    (tmp_path / "a.txt").write_text("x")
    assert refusal(tmp_path / "a.txt") == "unsupported_format"
    with pytest.raises(FileNotFoundError, match="There is no file"):
        load_image_file(tmp_path / "b.nii")


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.uint8])
def test_a_written_volume_is_read_equal_by_simpleitk_and_by_us(tmp_path: Path, name: str, dtype: type) -> None:
    values = np.random.default_rng(0).integers(0, 200, (1, 6, 5, 4)).astype(dtype)
    volume = Volume(values, Geometry.from_parts((6, 5, 4), (0.7, 0.8, 2.5), (1.0, 2.0, -300.0), DIRECTION))
    write_nifti(volume, tmp_path / name)
    judge = SimpleITK.ReadImage(str(tmp_path / name))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(judge).transpose(2, 1, 0), values[0])
    last = judge.TransformIndexToPhysicalPoint((5, 4, 3))
    np.testing.assert_allclose(last, volume.geometry.index_to_lps_mm((5, 4, 3)), atol=1e-3)
    header = nibabel.load(tmp_path / name).header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    assert header.get_xyzt_units()[0] == "mm"
    assert load_image_file(tmp_path / name).geometry.almost_equal(volume.geometry)


def test_the_same_volume_gives_the_same_bytes(tmp_path: Path) -> None:
    volume = Volume(np.ones((1, 6, 5, 4), np.int16), Geometry.from_parts((6, 5, 4), (1, 1, 1)))
    write_nifti(volume, tmp_path / "a.nii.gz")
    write_nifti(volume, tmp_path / "b.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_sheared_grid_is_held_by_the_sform_alone(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[1, 2] = 0.3
    write_nifti(Volume(np.ones((1, 6, 5, 4), np.int16), Geometry((6, 5, 4), affine)), tmp_path / "a.nii")
    header = nibabel.load(tmp_path / "a.nii").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 0)
    np.testing.assert_allclose(load_image_file(tmp_path / "a.nii").geometry.affine_lps, affine, atol=1e-6)


def test_what_nifti_cannot_hold_is_an_error_that_names_it(tmp_path: Path) -> None:
    geometry = Geometry.from_parts((6, 5, 4), (1, 1, 1))
    with pytest.raises(ValueError, match="float64"):
        write_nifti(Volume(np.ones((1, 6, 5, 4)), geometry), tmp_path / "a.nii")
    with pytest.raises(ValueError, match="one channel"):
        write_nifti(Volume(np.ones((2, 6, 5, 4), np.int16), geometry), tmp_path / "a.nii")
    with pytest.raises(ValueError, match=r"\.nii"):
        write_nifti(Volume(np.ones((1, 6, 5, 4), np.int16), geometry), tmp_path / "a.mha")
    far = Geometry.from_parts((6, 5, 4), (1, 1, 1), (123456.785, 0, 0))
    with pytest.raises(ValueError, match="32-bit"):
        write_nifti(Volume(np.ones((1, 6, 5, 4), np.int16), far), tmp_path / "a.nii")
    assert list(tmp_path.iterdir()) == []
