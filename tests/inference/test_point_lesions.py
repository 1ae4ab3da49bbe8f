"""Lesions at given places: drawn where the place is, as large as was measured, and nothing measured on the drawing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mtnet.inference.point_lesions import PointLesions, lesions_at
from mtnet.structures import Geometry, Point
from mtnet.systems.res_mtnet import CLASSIFICATION, DIAMETER, RATING
from tests.results.samples import ball

SPECS = (CLASSIFICATION, DIAMETER, RATING)
TURNED = Rotation.from_euler("xyz", [20, -30, 40], degrees=True).as_matrix()
GRIDS = [
    Geometry.from_parts((40, 36, 30), (0.8, 0.8, 1.25), (-12.3, 40.1, -200.7)),
    Geometry.from_parts((30, 30, 12), (0.9, 0.7, 5.0), (10.0, -20.0, 30.0), np.diag([-1.0, 1.0, -1.0])),
    Geometry.from_parts((40, 40, 40), (1.0, 0.8, 1.5), (0.0, 0.0, 0.0), TURNED),
]


def said(diameter_mm: float, high: float = 0.75, rating: float = 3.5) -> dict[str, list[float]]:
    return {"pred": [1 - high, high], "diameter": [diameter_mm], "reader_rating": [rating]}


def at(geometry: Geometry, *index: float) -> Point:
    x, y, z = geometry.index_to_lps_mm(index)
    return Point((x, y, z))


def drawn(geometry: Geometry, *places: tuple[Point, float]) -> PointLesions:
    answers = [said(diameter_mm) for _, diameter_mm in places]
    return lesions_at([place for place, _ in places], answers, SPECS, geometry, "seed")


@pytest.mark.parametrize("geometry", GRIDS)
@pytest.mark.parametrize("diameter_mm", [1.0, 4.0, 9.3, 17.0])
def test_the_ball_lies_at_the_place_to_half_a_voxel_and_is_as_large_as_was_measured(
    geometry: Geometry, diameter_mm: float
) -> None:
    middle = np.array(geometry.shape) / 2
    for shift in ([0.0, 0.0, 0.0], [0.49, -0.3, 0.2], [-0.5, 0.5, -0.5]):
        place = at(geometry, *(middle + shift))
        found = drawn(geometry, (place, diameter_mm))
        mask = found.lesion_map.array[0] == 1
        off_index = np.argwhere(mask).mean(axis=0) - geometry.lps_mm_to_index(place.lps_mm)
        assert (np.abs(off_index) <= 0.5 + 1e-9).all()
        wanted = ball(geometry, place.lps_mm, diameter_mm / 2)
        if wanted.any():
            np.testing.assert_array_equal(mask, wanted)
        else:
            assert mask.sum() == 1
        (lesion,) = found.lesions
        assert lesion.mask_voxels == mask.sum() and lesion.centre_lps_mm == place.lps_mm


@pytest.mark.parametrize("geometry", GRIDS)
def test_the_box_is_the_smallest_that_holds_the_ball(geometry: Geometry) -> None:
    place = at(geometry, *(np.array(geometry.shape) / 2))
    (lesion,) = drawn(geometry, (place, 9.0)).lesions
    directions = np.random.default_rng(0).normal(size=(200_000, 3))
    surface = place.lps_mm + 4.5 * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    index = geometry.lps_mm_to_index(surface)
    np.testing.assert_allclose(lesion.box_index, [*index.min(axis=0), *index.max(axis=0)], atol=0.01)


def test_a_lesion_says_what_the_network_said_and_that_its_mask_is_drawn() -> None:
    found = drawn(GRIDS[0], (at(GRIDS[0], 20, 18, 15), 8.0))
    (lesion,) = found.lesions
    assert lesion.place_given and lesion.mask_drawn
    assert (lesion.volume_mm3, lesion.longest_axial_diameter_mm, lesion.short_axial_diameter_mm) == (None, None, None)
    assert lesion.measured["diameter_mm"].value == 8.0 and lesion.measured["reader_rating"].value == 3.5
    assert lesion.class_probabilities == {
        "reader_suspicion": {"low_reader_suspicion": 0.25, "high_reader_suspicion": 0.75}
    }
    assert lesion.label == "high_reader_suspicion"
    assert [(label.value, label.name) for label in found.labels] == [
        (1, "low_reader_suspicion"),
        (2, "high_reader_suspicion"),
    ]
    assert set(np.unique(found.label_map.array)) == {0, 2}
    assert "masks_drawn" in [line.code for line in found.lines]


def test_tracking_uids_are_kept_or_made_from_what_was_said() -> None:
    geometry = GRIDS[0]
    known = Point(at(geometry, 10, 10, 10).lps_mm, "2.25.77")
    new = at(geometry, 20, 18, 15)
    first = drawn(geometry, (known, 5.0), (new, 6.0)).lesions
    again = drawn(geometry, (known, 5.0), (new, 6.0)).lesions
    other = drawn(geometry, (known, 5.0), (new, 7.0)).lesions
    assert first[0].tracking_uid == other[0].tracking_uid == "2.25.77"
    assert first[1].tracking_uid == again[1].tracking_uid != other[1].tracking_uid


def test_a_voxel_of_two_balls_is_the_first_ones_and_who_gets_none_is_told() -> None:
    geometry = GRIDS[0]
    place = at(geometry, 20, 18, 15)
    found = drawn(geometry, (place, 10.0), (at(geometry, 24, 18, 15), 8.0), (place, 4.0))
    whole = int(ball(geometry, place.lps_mm, 5.0).sum())
    assert found.lesions[0].mask_voxels == whole
    assert 0 < found.lesions[1].mask_voxels < ball(geometry, at(geometry, 24, 18, 15).lps_mm, 4.0).sum()
    assert found.lesions[2].mask_voxels == 0 and not found.lesions[2].mask_drawn
    (told,) = [line for line in found.lines if line.code == "masks_overlap"]
    assert "Lesion 3" in told.message


@pytest.mark.parametrize("diameter_mm", [0.0, -3.0])
def test_a_diameter_that_cannot_be_is_told_as_it_is_and_draws_one_voxel(diameter_mm: float) -> None:
    found = drawn(GRIDS[0], (at(GRIDS[0], 20.2, 18.3, 14.6), diameter_mm))
    (lesion,) = found.lesions
    assert lesion.measured["diameter_mm"].value == diameter_mm
    assert lesion.box_index == (19.5, 17.5, 14.5, 20.5, 18.5, 15.5) and lesion.mask_voxels == 1
    assert "diameter_not_positive" in [line.code for line in found.lines]


def test_a_ball_at_the_edge_is_cut_by_the_grid() -> None:
    geometry = GRIDS[0]
    for corner in ([-0.5, -0.5, -0.5], [39.5, 35.5, 29.5]):
        found = drawn(geometry, (at(geometry, *corner), 6.0))
        (lesion,) = found.lesions
        assert lesion.mask_voxels == ball(geometry, at(geometry, *corner).lps_mm, 3.0).sum()
        low, high = np.array(lesion.box_index).reshape(2, 3)
        assert (low >= -0.5).all() and (high <= np.array(geometry.shape) - 0.5).all() and (low < high).all()


def test_without_a_diameter_there_are_no_masks_and_without_classes_it_is_a_lesion() -> None:
    geometry = GRIDS[0]
    place = at(geometry, 20, 18, 15)
    classes = lesions_at([place], [said(8.0)], (CLASSIFICATION,), geometry, "seed")
    assert classes.label_map is None and classes.lesion_map is None and not classes.lesions[0].mask_drawn
    assert classes.lesions[0].box_index == (19.5, 17.5, 14.5, 20.5, 18.5, 15.5)
    values = lesions_at([place], [said(8.0)], (DIAMETER, RATING), geometry, "seed")
    assert values.lesions[0].label == "lesion" and values.lesions[0].class_probabilities == {}
    assert [label.name for label in values.labels] == ["lesion"] and values.label_map.array.max() == 1
