import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from mtnet.phantoms import NoduleRequest, Phantom, draw_chest
from mtnet.phantoms.dicom import uid, write_implanted_series, write_study
from mtnet.phantoms.implant import implant_nodules
from mtnet.structures import Geometry, Volume

DATA = Path(os.environ.get("MTNET_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return draw_chest(5, spacing_mm=(3.0, 2.5, 5.0), shape=(104, 96, 40), nodules=4)


def _read(folder: Path, series_uid: str) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), series_uid, False, True))
    return reader.Execute()


def test_simpleitk_reads_the_drawn_values_and_grid(phantom: Phantom, tmp_path: Path) -> None:
    written = write_study(phantom, tmp_path / "study", sharp_series=True)
    image = _read(written.soft[0].parent, written.soft_series_uid)
    geometry = phantom.volume.geometry
    array = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    assert np.array_equal(array, phantom.volume.array[0])
    assert np.allclose(image.GetSpacing(), geometry.spacing_mm, atol=1e-5)
    assert np.allclose(image.GetOrigin(), geometry.origin_lps_mm, atol=1e-4)
    assert np.allclose(np.reshape(image.GetDirection(), (3, 3)), np.eye(3))


def test_dciodvfy_finds_no_error_in_any_kind_of_object(phantom: Phantom, tmp_path: Path) -> None:
    program = shutil.which("dciodvfy")
    assert program, "dciodvfy is missing: install Debian's package dicom3tools (make test does)"
    written = write_study(phantom, tmp_path / "study", sharp_series=True)
    for path in (written.soft[0], written.soft[-1], written.sharp[7], *written.others[:2]):
        told = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
        assert "Error" not in told.stdout + told.stderr, told.stderr


def test_the_study_holds_a_localizer_a_capture_and_a_foreign_file(phantom: Phantom, tmp_path: Path) -> None:
    written = write_study(phantom, tmp_path / "study")
    localizer, capture = (pydicom.dcmread(path) for path in written.others[:2])
    assert "LOCALIZER" in localizer.ImageType
    assert capture.PhotometricInterpretation == "RGB"
    assert capture.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    files = [path for path in written.folder.rglob("*") if path.is_file()]
    assert len(files) == 40 + 3
    assert len({path.parent for path in files}) == 4
    assert all(path.suffix == "" or path.name == "notes.txt" for path in files)
    kernels = {pydicom.dcmread(path, stop_before_pixels=True).ConvolutionKernel for path in written.soft}
    assert kernels == {"B30f"}


def test_two_kernels_share_a_description_and_a_frame_of_reference(phantom: Phantom, tmp_path: Path) -> None:
    written = write_study(phantom, tmp_path / "study", sharp_series=True, localizer=False, secondary_capture=False)
    soft, sharp = (pydicom.dcmread(files[3]) for files in (written.soft, written.sharp))
    assert soft.SeriesDescription == sharp.SeriesDescription
    assert soft.ConvolutionKernel != sharp.ConvolutionKernel
    assert soft.FrameOfReferenceUID == sharp.FrameOfReferenceUID
    assert soft.SeriesInstanceUID != sharp.SeriesInstanceUID


def test_the_same_phantom_gives_the_same_files(phantom: Phantom, tmp_path: Path) -> None:
    one, again = (write_study(phantom, tmp_path / name) for name in ("a", "b"))
    for left, right in zip(one.soft + one.others, again.soft + again.others, strict=True):
        assert left.read_bytes() == right.read_bytes()


def test_a_folder_that_holds_something_is_refused_and_left_alone(phantom: Phantom, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds something"):
        write_study(phantom, folder)
    assert [path.name for path in tmp_path.rglob("*")] == ["study", "mine.txt"]


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    phantom = draw_chest(1, spacing_mm=(5.0, 5.0, 8.0), nodules=0)
    written = write_study(phantom, tmp_path / "study")
    moved = Geometry.from_parts(phantom.volume.geometry.shape, (5.0, 5.0, 8.0), (0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="do not lie on the volume's voxels"):
        write_implanted_series(written.soft, Volume(phantom.volume.array, moved, "CT"), tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["study"]


def test_uids_are_valid_and_follow_from_the_text() -> None:
    assert uid("a") == uid("a") != uid("b")
    assert pydicom.uid.UID(uid("a")).is_valid


def test_an_implanted_copy_has_the_new_pixels_at_the_old_positions(phantom: Phantom, tmp_path: Path) -> None:
    written = write_study(phantom, tmp_path / "study")
    volume, lesions = implant_nodules(phantom.volume, 3, [NoduleRequest(diameter_mm=16, texture="calcified")])
    flipped = Geometry.from_parts(
        volume.geometry.shape,
        volume.geometry.spacing_mm,
        volume.geometry.index_to_lps_mm([0, 0, volume.geometry.shape[2] - 1]).tolist(),
        np.diag([1.0, 1.0, -1.0]),
    )
    upside_down = Volume(volume.array[..., ::-1], flipped, "CT")
    for n, given in enumerate((volume, upside_down)):
        files = write_implanted_series(written.soft, given, tmp_path / f"copy{n}")
        header = pydicom.dcmread(files[0])
        assert header.StudyInstanceUID == written.study_instance_uid
        assert header.SeriesInstanceUID != written.soft_series_uid
        image = _read(tmp_path / f"copy{n}", header.SeriesInstanceUID)
        array = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
        assert np.array_equal(array, volume.array[0])
        at = image.TransformPhysicalPointToIndex(lesions[0].centre_lps_mm)
        assert array[at] > 0
        assert phantom.volume.array[0][at] < -400


@pytest.mark.study
@pytest.mark.slow
def test_a_nodule_in_a_copy_of_the_real_series_lies_where_it_was_drawn(tmp_path: Path) -> None:
    series = next((DATA / "chest_ct_study").glob("Lung_Dx-A0001/*/3.000000-*"))
    files = sorted(series.glob("*.dcm"))
    image = sitk.ReadImage([str(p) for p in sorted(files, key=lambda p: -int(p.stem.split("-")[1]))])
    array = sitk.GetArrayFromImage(image).transpose(2, 1, 0).astype(np.int16)
    geometry = Geometry.from_parts(array.shape, image.GetSpacing(), image.GetOrigin())
    requests = [NoduleRequest(diameter_mm=d, texture="solid", form="smooth") for d in (14.0, 18.0)]
    volume, lesions = implant_nodules(Volume(array[None], geometry, "CT"), 4, requests)
    written = write_implanted_series(files, volume, tmp_path / "copy")
    header = pydicom.dcmread(written[0])
    source = pydicom.dcmread(files[0])
    assert header.ImagePositionPatient == source.ImagePositionPatient
    again = sitk.GetArrayFromImage(_read(tmp_path / "copy", header.SeriesInstanceUID)).transpose(2, 1, 0)
    assert np.array_equal(again, volume.array[0])
    for lesion in lesions:
        _assert_placed(again.astype(float) - array, geometry, lesion.centre_lps_mm, lesion.diameter_mm)


def _assert_placed(
    change: np.ndarray, geometry: Geometry, centre_lps_mm: tuple[float, float, float], diameter_mm: float
) -> None:
    """The centroid of what was added lies within half a voxel of the centre that is told."""
    index = geometry.lps_mm_to_index(centre_lps_mm)
    reach = np.ceil(0.9 * diameter_mm / np.asarray(geometry.spacing_mm)).astype(int) + 1
    low = np.maximum(np.rint(index).astype(int) - reach, 0)
    part = change[tuple(slice(a, a + 2 * r + 1) for a, r in zip(low, reach, strict=True))]
    weight = np.where(part > 150, part, 0)
    places = np.stack(np.indices(weight.shape), axis=-1) + low
    centroid = (places * weight[..., None]).sum(axis=(0, 1, 2)) / weight.sum()
    assert np.abs(centroid - index).max() < 0.5
