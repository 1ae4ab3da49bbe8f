"""A regular series becomes the right volume whatever its orientation and order; what is not understood is refused."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from mtnet.io.limits import Limits
from mtnet.io.load import load
from mtnet.io.nifti_out import write_nifti
from mtnet.io.scan import scan
from mtnet.structures import RefusedError, Volume
from tests.builders import ramp_hu, write_ct_series
from tests.dcm2niix_judge import convert_with_dcm2niix, read_canonical, worst_distance_mm

DATA = Path(os.environ.get("MTNET_DATA", Path(__file__).parents[3] / "shared" / "data"))
OBLIQUE = np.linalg.qr(np.array([[0.9, 0.2, -0.3], [-0.1, 0.95, 0.2], [0.35, -0.15, 0.9]]))[0]


def load_only(folder: Path, **options: Any) -> Volume:
    (study,) = scan(folder)
    (series,) = study.series
    return load(series.stacks[0], series, **options)


def refused_codes(folder: Path, **options: Any) -> list[str]:
    with pytest.raises(RefusedError) as caught:
        load_only(folder, **options)
    return [item.code for item in caught.value.lines]


def assert_tells_its_place(volume: Volume, tolerance_hu: float = 0.51) -> None:
    """Every voxel holds the ramp of its own world position: a shift of 0.1 mm along any axis would show."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in volume.geometry.shape), indexing="ij"), axis=-1)
    expected = ramp_hu(volume.geometry.index_to_lps_mm(index))
    np.testing.assert_allclose(volume.array[0].astype(float), expected, atol=tolerance_hu)


def signed_permutations() -> list[np.ndarray]:
    return [
        np.eye(3)[list(order)] * np.array(signs)
        for order in itertools.permutations(range(3))
        for signs in itertools.product((1, -1), repeat=3)
    ]


@pytest.mark.parametrize("index", range(48))
def test_every_orientation_comes_out_right_and_right_handed(tmp_path: Path, index: int) -> None:
    direction = signed_permutations()[index]
    write_ct_series(tmp_path, shape=(6, 5, 4), spacing_mm=(0.8, 0.7, 2.0), direction_lps=direction)
    volume = load_only(tmp_path)
    assert volume.array.shape == (1, 6, 5, 4)
    assert volume.array.dtype == np.int16
    assert volume.geometry.spacing_mm == pytest.approx((0.8, 0.7, 2.0))
    assert np.linalg.det(volume.geometry.direction_lps) == pytest.approx(1.0)
    np.testing.assert_allclose(volume.geometry.direction_lps[:, :2], direction[:, :2], atol=1e-9)
    assert_tells_its_place(volume)


@pytest.mark.parametrize("handed", [1, -1])
def test_an_oblique_series_comes_out_right(tmp_path: Path, handed: int) -> None:
    write_ct_series(tmp_path, direction_lps=OBLIQUE * np.array([1, 1, handed]))
    assert_tells_its_place(load_only(tmp_path))


@pytest.mark.parametrize("numbers", ["shuffled", "absent"])
@pytest.mark.parametrize("files", ["reversed", "shuffled"])
def test_order_comes_from_positions_alone(tmp_path: Path, numbers: Any, files: Any) -> None:
    write_ct_series(tmp_path, instance_numbers=numbers, file_order=files)
    assert_tells_its_place(load_only(tmp_path))


def test_rescale_is_applied_slice_by_slice(tmp_path: Path) -> None:
    write_ct_series(tmp_path, rescale=lambda k: (1.0, -1000.0 - k))
    volume = load_only(tmp_path)
    assert volume.array.dtype == np.int16
    assert_tells_its_place(volume)


def test_a_fractional_slope_on_one_slice_gives_float32(tmp_path: Path) -> None:
    write_ct_series(tmp_path, rescale=lambda k: (0.5 if k == 5 else 1.0, -1000.0))
    volume = load_only(tmp_path)
    assert volume.array.dtype == np.float32
    assert_tells_its_place(volume)


def test_missing_rescale_is_refused_and_taken_as_hu_under_repair(tmp_path: Path) -> None:
    write_ct_series(tmp_path, rescale=None)
    assert refused_codes(tmp_path) == ["rescale_missing"]
    volume = load_only(tmp_path, repair=True)
    assert ("rescale_missing", "repaired") in {(item.code, item.severity) for item in volume.report}
    assert_tells_its_place(volume)


def test_a_ct_that_is_shown_inverted_keeps_its_hu(tmp_path: Path) -> None:
    def edit(dataset: Dataset, _: int) -> None:
        dataset.PhotometricInterpretation = "MONOCHROME1"

    write_ct_series(tmp_path, edit=edit)
    volume = load_only(tmp_path, strict=True)
    assert ("monochrome1", "note") in {(item.code, item.severity) for item in volume.report}
    assert_tells_its_place(volume)


def test_a_single_slice_is_as_thick_as_its_tag_says(tmp_path: Path) -> None:
    write_ct_series(tmp_path, shape=(6, 5, 1), thickness_mm=3.5)
    volume = load_only(tmp_path)
    assert volume.geometry.spacing_mm[2] == pytest.approx(3.5)
    assert_tells_its_place(volume)
    assert refused_codes(tmp_path, strict=True) == ["single_slice"]


def test_a_cut_file_refuses_the_stack_and_is_named(tmp_path: Path) -> None:
    written = write_ct_series(tmp_path)
    written.paths[3].write_bytes(written.paths[3].read_bytes()[:-50])
    with pytest.raises(RefusedError, match=written.paths[3].name):
        load_only(tmp_path)


def test_the_limit_on_decoded_bytes_counts_the_whole_volume(tmp_path: Path) -> None:
    write_ct_series(tmp_path, shape=(6, 5, 4))
    assert load_only(tmp_path, limits=Limits(decoded_bytes=240)).array.nbytes == 240
    assert refused_codes(tmp_path, limits=Limits(decoded_bytes=239)) == ["limit_exceeded"]


def test_the_limit_holds_where_values_turn_out_to_need_float32(tmp_path: Path) -> None:
    write_ct_series(tmp_path, shape=(6, 5, 4), rescale=(0.5, -1000.0))
    assert refused_codes(tmp_path, limits=Limits(decoded_bytes=479)) == ["limit_exceeded"]
    assert load_only(tmp_path, limits=Limits(decoded_bytes=480)).array.nbytes == 480


def test_a_localizer_is_no_volume(tmp_path: Path) -> None:
    write_ct_series(tmp_path, shape=(6, 5, 1), image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    assert refused_codes(tmp_path) == ["not_a_volume"]


def test_strict_and_repair_contradict_each_other(tmp_path: Path) -> None:
    write_ct_series(tmp_path, shape=(6, 5, 4))
    with pytest.raises(ValueError, match="strict and repair"):
        load_only(tmp_path, strict=True, repair=True)


@pytest.mark.study
@pytest.mark.slow
def test_both_series_of_the_real_study_equal_dcm2niixs(tmp_path: Path) -> None:
    judged = convert_with_dcm2niix(DATA / "chest_ct_study" / "Lung_Dx-A0001", tmp_path / "judge")
    (study,) = scan(DATA / "chest_ct_study" / "Lung_Dx-A0001")
    assert len(study.series) == len(judged) == 2
    for series in study.series:
        volume = load(series.stacks[0], series)
        assert volume.array.dtype == np.int16
        write_nifti(volume, tmp_path / "ours.nii")
        ours = read_canonical(tmp_path / "ours.nii")
        (theirs,) = [judge for judge in judged if judge.name.startswith(series.series_instance_uid)]
        assert worst_distance_mm(ours, theirs) < 1e-3
        np.testing.assert_array_equal(ours.values, theirs.values)


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("number_of_frames", 2, "unreadable_pixels"),
        ("position_lps_mm", None, "missing_geometry"),
        ("pixel_spacing_mm", None, "missing_geometry"),
        ("rows", None, "missing_geometry"),
    ],
)
def test_what_no_grid_can_be_made_of_is_refused_whatever_the_scan_said(
    tmp_path: Path, field: str, value: Any, code: str
) -> None:
    write_ct_series(tmp_path, shape=(6, 5, 3))
    ((series,),) = (study.series for study in scan(tmp_path))
    stack = replace(series.stacks[0], instances=tuple(replace(i, **{field: value}) for i in series.instances))
    with pytest.raises(RefusedError) as caught:
        load(stack, series)
    assert [item.code for item in caught.value.lines] == [code]
