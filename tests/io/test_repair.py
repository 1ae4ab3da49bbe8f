"""Uneven and sheared stacks are resampled at true positions: every voxel still tells where it is."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pydicom
import pytest

from mtnet.io.limits import Limits
from mtnet.io.values import AIR_HU
from mtnet.structures import Volume
from tests.builders import ramp_hu, write_ct_series
from tests.io.test_load import OBLIQUE, load_only, refused_codes

DATA = Path(os.environ.get("MTNET_DATA", Path(__file__).parents[3] / "shared" / "data"))
SHAPE = (20, 24, 8)
SPACING = (0.8, 0.8, 2.0)


def assert_tells_its_place_inside(volume: Volume, smallest_share: float) -> None:
    """The ramp where a slice gave the value; nothing else than air elsewhere."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in volume.geometry.shape), indexing="ij"), axis=-1)
    expected = ramp_hu(volume.geometry.index_to_lps_mm(index))
    values = volume.array[0].astype(float)
    inside = values != AIR_HU
    assert inside.mean() >= smallest_share
    np.testing.assert_allclose(values[inside], expected[inside], atol=0.6)


def repairs(volume: Volume) -> list[str]:
    return [item.code for item in volume.report if item.severity == "repaired"]


def test_missing_slices_are_filled_at_their_places(tmp_path: Path) -> None:
    write_ct_series(tmp_path, shape=SHAPE, spacing_mm=SPACING, drop=(2, 5))
    volume = load_only(tmp_path)
    assert repairs(volume) == ["missing_slices"]
    assert volume.geometry.shape == SHAPE
    assert volume.geometry.spacing_mm == pytest.approx(SPACING)
    assert_tells_its_place_inside(volume, 1.0)
    assert refused_codes(tmp_path, strict=True) == ["missing_slices"]


@pytest.mark.parametrize("offsets", [(0, 2, 4, 6, 9, 14, 19), (0, 1.3, 4.9, 6.0, 9.1, 10.2), (0, 3, 4)])
def test_variable_spacing_becomes_an_even_grid(tmp_path: Path, offsets: tuple[float, ...]) -> None:
    write_ct_series(tmp_path, shape=SHAPE, spacing_mm=SPACING, slice_offsets_mm=offsets, direction_lps=OBLIQUE)
    volume = load_only(tmp_path)
    assert repairs(volume)[0] in ("variable_spacing", "missing_slices")
    assert volume.geometry.is_orthogonal()
    steps = volume.geometry.spacing_mm[2] * (volume.geometry.shape[2] - 1)
    assert steps == pytest.approx(offsets[-1])
    assert volume.geometry.spacing_mm[2] <= min(np.diff(offsets)) * 1.05
    assert_tells_its_place_inside(volume, 1.0)


def test_a_gap_of_more_than_five_mm_is_bridged_only_under_repair(tmp_path: Path) -> None:
    write_ct_series(tmp_path, shape=SHAPE, spacing_mm=(0.8, 0.8, 3.0), drop=(4,))
    assert refused_codes(tmp_path) == ["missing_slices_wide_gap"]
    volume = load_only(tmp_path, repair=True)
    assert repairs(volume) == ["missing_slices_wide_gap"]
    assert_tells_its_place_inside(volume, 1.0)


@pytest.mark.parametrize("tag", [True, False])
@pytest.mark.parametrize("handed", [1, -1])
@pytest.mark.parametrize("tilt", [15.0, -18.5])
def test_gantry_tilt_is_sheared_back(tmp_path: Path, tilt: float, handed: int, tag: bool) -> None:
    direction = np.eye(3) * np.array([1, 1, handed])
    write_ct_series(tmp_path, shape=SHAPE, spacing_mm=SPACING, direction_lps=direction, tilt_deg=tilt, tilt_tag=tag)
    volume = load_only(tmp_path)
    assert repairs(volume) == ["gantry_tilt"]
    assert volume.geometry.is_orthogonal(1e-9)
    widened = abs(np.tan(np.deg2rad(tilt))) * SPACING[2] * (SHAPE[2] - 1) / SPACING[1]
    assert volume.geometry.shape == (SHAPE[0], SHAPE[1] + int(np.ceil(widened)), SHAPE[2])
    assert_tells_its_place_inside(volume, 0.75)
    assert refused_codes(tmp_path, strict=True) == ["gantry_tilt"]


def test_tilt_and_missing_slices_are_mended_together(tmp_path: Path) -> None:
    write_ct_series(tmp_path, shape=SHAPE, spacing_mm=SPACING, tilt_deg=15, drop=(3,), direction_lps=OBLIQUE)
    volume = load_only(tmp_path)
    assert repairs(volume) == ["missing_slices", "gantry_tilt"]
    assert_tells_its_place_inside(volume, 0.7)


def test_the_repaired_grid_is_held_to_the_limit(tmp_path: Path) -> None:
    write_ct_series(tmp_path, shape=SHAPE, spacing_mm=SPACING, drop=(2, 5))
    needed = 4 * 20 * 24 * 8
    assert load_only(tmp_path, limits=Limits(decoded_bytes=needed)).array.nbytes == needed
    assert refused_codes(tmp_path, limits=Limits(decoded_bytes=needed - 1)) == ["limit_exceeded"]


@pytest.mark.study
def test_slices_of_a_real_gap_stay_as_they_are_and_the_missing_one_is_between(tmp_path: Path) -> None:
    folder = DATA / "dicom_robustness" / "ct_chest_missing_slices"
    volume = load_only(folder)
    for path in sorted(folder.glob("*.dcm")):
        source = pydicom.dcmread(path)
        i, j, k = volume.geometry.lps_mm_to_index([float(v) for v in source.ImagePositionPatient])
        assert (i, j) == pytest.approx((0, 0), abs=1e-3)
        stored = source.pixel_array.T
        expected = np.where(stored == source.PixelPaddingValue, AIR_HU, stored + int(source.RescaleIntercept))
        np.testing.assert_allclose(volume.array[0, :, :, round(k)], expected, atol=1.0)
