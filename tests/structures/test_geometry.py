import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from mtnet.structures import Geometry

finite = st.floats(-500, 500, allow_nan=False)
sizes = st.floats(0.2, 9.0, allow_nan=False)


def rotation(seed: int) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q


def sitk_image(geometry: Geometry) -> sitk.Image:
    image = sitk.Image(list(geometry.shape), sitk.sitkUInt8)
    image.SetSpacing(geometry.spacing_mm)
    image.SetOrigin(geometry.origin_lps_mm)
    image.SetDirection(geometry.direction_lps.ravel().tolist())
    return image


@settings(deadline=None)
@given(st.tuples(sizes, sizes, sizes), st.tuples(finite, finite, finite), st.integers(0, 10_000))
def test_index_to_lps_equals_simpleitk(spacing, origin, seed):
    direction = rotation(seed)
    if np.linalg.det(direction) < 0:
        direction[:, 2] *= -1
    geometry = Geometry.from_parts((4, 5, 6), spacing, origin, direction)
    image = sitk_image(geometry)
    for index in [(0, 0, 0), (3, 4, 5), (1.5, -0.5, 2.25)]:
        expected = image.TransformContinuousIndexToPhysicalPoint(index)
        assert np.allclose(geometry.index_to_lps_mm(index), expected, atol=1e-6)
        assert np.allclose(geometry.lps_mm_to_index(expected), index, atol=1e-6)


def test_ras_and_lps_differ_in_the_sign_of_the_first_two_world_axes():
    geometry = Geometry.from_parts((2, 3, 4), (0.5, 1.0, 2.0), (10.0, 20.0, 30.0))
    assert geometry.affine_ras.tolist() == [[-0.5, 0, 0, -10], [0, -1, 0, -20], [0, 0, 2, 30], [0, 0, 0, 1]]
    assert Geometry.from_ras(geometry.shape, geometry.affine_ras).almost_equal(geometry)


def test_a_box_goes_to_any_of_the_48_orientations_and_back_without_change():
    home = Geometry.from_parts((20, 30, 40), (0.7, 0.8, 2.5), (-100.0, 50.0, 7.0))
    box = np.array([2.5, 3.0, 4.5, 9.5, 8.25, 12.5])
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            direction = np.eye(3)[:, order] * signs
            other = Geometry.from_parts((9, 9, 9), (1.1, 1.3, 0.9), (3.0, 2.0, 1.0), direction)
            there = home.box_index_to(other, box)
            assert np.all(there[:3] < there[3:])
            assert np.allclose(other.box_index_to(home, there), box, atol=1e-9)
            assert np.allclose(other.box_index_to_lps_mm(there), home.box_index_to_lps_mm(box), atol=1e-9)


def test_a_whole_grid_as_a_half_open_box_has_the_size_of_shape_times_spacing():
    geometry = Geometry.from_parts((10, 20, 30), (0.5, 1.0, 2.0))
    box = geometry.box_index_to_lps_mm([-0.5, -0.5, -0.5, 9.5, 19.5, 29.5])
    assert np.allclose(box[3:] - box[:3], [5.0, 20.0, 60.0])


def test_a_sheared_grid_keeps_its_voxel_volume_and_is_not_orthogonal():
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[1, 2] = 0.5
    geometry = Geometry((3, 3, 3), affine)
    assert geometry.voxel_volume_mm3 == pytest.approx(2.0)
    assert not geometry.is_orthogonal()


@pytest.mark.parametrize(
    ("shape", "affine", "message"),
    [
        ((1, 2), np.eye(4), "Geometry.shape"),
        ((1, 0, 2), np.eye(4), "Geometry.shape"),
        ((1, 2, 3), np.eye(3), "Geometry.affine_lps"),
        ((1, 2, 3), np.zeros((4, 4)), "last row"),
        ((1, 2, 3), np.diag([1.0, 0.0, 1.0, 1.0]), "not invertible"),
        ((1, 2, 3), np.full((4, 4), np.nan), "finite"),
    ],
)
def test_a_wrong_field_is_refused_by_name(shape, affine, message):
    with pytest.raises(ValueError, match=message):
        Geometry(shape, affine)


def test_the_affine_cannot_be_changed_afterwards():
    geometry = Geometry.from_parts((2, 2, 2), (1, 1, 1))
    with pytest.raises(ValueError, match="read-only"):
        geometry.affine_lps[0, 0] = 5.0
