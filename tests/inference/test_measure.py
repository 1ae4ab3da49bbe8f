import itertools
import math

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mtnet.inference.measure import measure_mask
from mtnet.structures import Geometry

_WHOLE = (0, 0, 0)


def _turned(angle_deg: float, axis: tuple[float, float, float]) -> np.ndarray:
    """Rotation matrix by Rodrigues' formula."""
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = math.radians(angle_deg)
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def _ellipsoid(
    geometry: Geometry, centre_mm: np.ndarray, axes_mm: np.ndarray, radii_mm: tuple[float, ...]
) -> np.ndarray:
    """Voxels whose centres lie in an ellipsoid with unit vectors ``axes_mm`` (columns)."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in geometry.shape], indexing="ij"), axis=-1)
    along = (geometry.index_to_lps_mm(index) - centre_mm) @ axes_mm
    return ((along / np.asarray(radii_mm)) ** 2).sum(axis=-1) <= 1


def test_a_single_voxel_measures_its_faces():
    measures = measure_mask(np.ones((1, 1, 1), bool), (4, 5, 6), Geometry.from_parts((9, 9, 9), (3.0, 4.0, 7.0)))
    assert measures.voxels == 1
    assert measures.volume_mm3 == pytest.approx(84.0)
    assert measures.centroid_lps_mm == pytest.approx((12.0, 20.0, 42.0))
    assert measures.longest_axial_diameter_mm == pytest.approx(5.0)
    # The longest chord at a right angle to the diagonal of 4 x 3: 3 * 5 / 4. Its shadow's width would be 4.8.
    assert measures.short_axial_diameter_mm == pytest.approx(3.75)


def test_the_diameters_come_from_one_slice_and_the_longest_one():
    mask = np.zeros((12, 12, 2), bool)
    mask[:12, 5, 0] = True
    mask[2:10, 2:10, 1] = True
    measures = measure_mask(mask, _WHOLE, Geometry.from_parts((12, 12, 2), (1.0, 1.0, 50.0)))
    assert measures.longest_axial_diameter_mm == pytest.approx(math.hypot(12, 1))
    assert measures.short_axial_diameter_mm == pytest.approx(math.hypot(12, 1) / 12)


def test_a_hollow_or_split_slice_is_measured_over_its_outline():
    mask = np.zeros((10, 3, 1), bool)
    mask[[0, 9], 1, 0] = True
    measures = measure_mask(mask, _WHOLE, Geometry.from_parts((10, 3, 1), (1.0, 1.0, 1.0)))
    assert measures.longest_axial_diameter_mm == pytest.approx(math.hypot(10, 1))


@pytest.mark.parametrize("angle_deg", [0, 17, 45, 90, 130])
@pytest.mark.parametrize("spacing_mm", [(0.7, 0.7, 2.5), (0.5, 1.1, 3.0)])
def test_an_ellipse_measures_its_axes_to_within_a_pixel(angle_deg: float, spacing_mm: tuple[float, float, float]):
    shape = tuple(int(50 / s) for s in spacing_mm)
    geometry = Geometry.from_parts(shape, spacing_mm, (-20.0, 13.0, 70.0), _turned(31, (1, 2, 3)))
    centre = geometry.index_to_lps_mm((np.asarray(shape) - 1) // 2)
    in_grid = geometry.direction_lps @ _turned(angle_deg, (0, 0, 1))
    measures = measure_mask(_ellipsoid(geometry, centre, in_grid, (20.0, 9.0, 12.0)), _WHOLE, geometry)
    pixel = math.hypot(*spacing_mm[:2])
    assert abs(measures.longest_axial_diameter_mm - 40) <= pixel
    assert abs(measures.short_axial_diameter_mm - 18) <= pixel
    assert measures.volume_mm3 == pytest.approx(4 / 3 * math.pi * 20 * 9 * 12, rel=0.02)
    assert measures.centroid_lps_mm == pytest.approx(tuple(centre), abs=0.1)


def test_a_grid_sheared_in_the_slice_and_by_the_gantry_measures_the_same_sphere():
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = (0.8, 0, 0), (0.3, 0.75, 0), (0, -0.6, 2.0)
    affine[:3, 3] = (-70, -60, 5)
    geometry = Geometry((140, 110, 30), affine)
    centre = geometry.index_to_lps_mm((70, 55, 15))
    measures = measure_mask(_ellipsoid(geometry, centre, np.eye(3), (18.0,) * 3), _WHOLE, geometry)
    assert measures.volume_mm3 == pytest.approx(4 / 3 * math.pi * 18**3, rel=0.01)
    assert abs(measures.longest_axial_diameter_mm - 36) <= 1.4
    assert abs(measures.short_axial_diameter_mm - 36) <= 1.4
    assert measures.centroid_lps_mm == pytest.approx(tuple(centre), abs=0.1)


_MASKS = hnp.arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 3))).filter(np.any)


@settings(max_examples=60, deadline=None)
@given(mask=_MASKS)
def test_simpleitk_agrees_on_volume_centroid_and_longest_diameter(mask: np.ndarray):
    spacing, origin, direction = (0.6, 1.3, 4.0), (5.0, -8.0, 30.0), _turned(40, (2, -1, 1))
    geometry = Geometry.from_parts(mask.shape, spacing, origin, direction)
    measures = measure_mask(mask, _WHOLE, geometry)
    image = SimpleITK.GetImageFromArray(mask.transpose(2, 1, 0).astype(np.uint8))
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction.ravel().tolist())
    judge = SimpleITK.LabelShapeStatisticsImageFilter()
    judge.Execute(image)
    assert measures.voxels == judge.GetNumberOfPixels(1)
    assert measures.volume_mm3 == pytest.approx(judge.GetPhysicalSize(1))
    assert measures.centroid_lps_mm == pytest.approx(judge.GetCentroid(1))
    # Its Feret diameter runs between pixel centres, ours between faces.
    judge.ComputeFeretDiameterOn()
    feret = 0.0
    for k in np.flatnonzero(mask.any(axis=(0, 1))):
        flat = SimpleITK.GetImageFromArray(mask[:, :, k].T.astype(np.uint8))
        flat.SetSpacing(spacing[:2])
        judge.Execute(flat)
        feret = max(feret, judge.GetFeretDiameter(1))
    pixel = math.hypot(*spacing[:2])
    assert feret + min(spacing[:2]) - 1e-6 <= measures.longest_axial_diameter_mm <= feret + pixel + 1e-6


@settings(max_examples=60, deadline=None)
@given(mask=_MASKS)
def test_no_pair_of_outline_points_is_longer_and_the_short_diameter_never_exceeds_the_long_one(mask: np.ndarray):
    geometry = Geometry.from_parts(mask.shape, (0.6, 1.3, 4.0))
    measures = measure_mask(mask, _WHOLE, geometry)
    longest = 0.0
    for k in range(mask.shape[2]):
        corners = np.concatenate(
            [np.argwhere(mask[:, :, k]) + offset for offset in itertools.product((-0.5, 0.5), repeat=2)]
        ) * (0.6, 1.3)
        for corner in corners:
            longest = max(longest, float(np.linalg.norm(corners - corner, axis=1).max()))
    assert measures.longest_axial_diameter_mm == pytest.approx(longest)
    assert 0 < measures.short_axial_diameter_mm <= measures.longest_axial_diameter_mm + 1e-9


@settings(max_examples=40, deadline=None)
@given(mask=_MASKS, swap=st.booleans(), flips=st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_a_mirrored_or_transposed_lesion_measures_the_same(mask: np.ndarray, swap: bool, flips: tuple[bool, ...]):
    straight = measure_mask(mask, _WHOLE, Geometry.from_parts(mask.shape, (0.6, 1.3, 4.0)))
    moved = mask[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]
    spacing = (0.6, 1.3, 4.0)
    if swap:
        moved, spacing = moved.transpose(1, 0, 2), (1.3, 0.6, 4.0)
    other = measure_mask(moved, _WHOLE, Geometry.from_parts(moved.shape, spacing))
    assert other.longest_axial_diameter_mm == pytest.approx(straight.longest_axial_diameter_mm)
    assert other.short_axial_diameter_mm == pytest.approx(straight.short_axial_diameter_mm)


def test_an_empty_mask_is_refused():
    with pytest.raises(ValueError, match="no voxel"):
        measure_mask(np.zeros((2, 2, 2), bool), _WHOLE, Geometry.from_parts((2, 2, 2), (1, 1, 1)))
