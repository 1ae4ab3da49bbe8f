"""Pieces of one CT pasted into another: how much, where, and that nothing but the nodule tells."""

import numpy as np
import pytest

from mtnet.sources.pasting import grain_hu, paste, pasted_mask, piece_of, random_turn
from mtnet.structures import Geometry, Volume

LUNG_HU = -850.0
STRAIGHT = np.eye(3)


def crop(shape=(48, 48, 20), spacing=(0.7, 0.7, 1.25), radius_mm=5.0, noise_hu=0.0, lung_hu=LUNG_HU, nodule_hu=0.0):
    """A ball of soft tissue in lung, and its mask."""
    grid = Geometry.from_parts(shape, spacing, (10.0, 20.0, 30.0))
    places = grid.index_to_lps_mm(np.moveaxis(np.indices(shape), 0, -1))
    centre = grid.index_to_lps_mm((np.array(shape) - 1) / 2)
    mask = np.linalg.norm(places - centre, axis=-1) <= radius_mm
    hu = np.where(mask, nodule_hu, lung_hu) + np.random.default_rng(1).normal(0, 1, shape) * noise_hu
    return Volume(hu.astype(np.float32)[None], grid, "CT"), mask


def lung(spacing, noise_hu=0.0, lung_hu=LUNG_HU, edge_mm=60.0):
    shape = tuple(round(edge_mm / mm) for mm in spacing)
    hu = lung_hu + np.random.default_rng(2).normal(0, 1, shape) * noise_hu
    return hu.astype(np.float32), Geometry.from_parts(shape, spacing)


@pytest.mark.parametrize("spacing", [(0.7, 0.7, 1.25), (0.84, 0.84, 5.0), (1.5, 1.5, 1.5)])
def test_a_nodule_adds_the_same_hu_on_every_grid(spacing):
    image, mask = crop()
    piece = piece_of(image, mask, nodule=True)
    old, grid = lung(spacing)
    new = old.copy()
    paste(new, grid, piece, np.array([30.0, 31.0, 29.0]), random_turn(np.random.default_rng(5)), 0)
    added = (new - old).sum() * grid.voxel_volume_mm3
    assert added == pytest.approx(mask.sum() * image.geometry.voxel_volume_mm3 * -LUNG_HU, rel=0.05)


def test_a_nodule_comes_to_the_place_and_keeps_its_volume_however_it_is_turned():
    image, mask = crop(shape=(48, 48, 24), radius_mm=6.0)
    piece = piece_of(image, mask, nodule=True)
    _, grid = lung((0.84, 0.84, 2.0))
    place = np.array([30.0, 28.0, 31.0])
    for seed in range(4):
        window, inside = pasted_mask(grid, piece, place, random_turn(np.random.default_rng(seed)))
        found = grid.index_to_lps_mm(np.argwhere(inside) + [side.start for side in window])
        np.testing.assert_allclose(found.mean(axis=0), place, atol=0.3)
        assert len(found) * grid.voxel_volume_mm3 == pytest.approx(4 / 3 * np.pi * 6**3, rel=0.08)


def test_a_turn_keeps_lengths_and_the_patients_long_axis():
    turn = random_turn(np.random.default_rng(3))
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert abs(turn[2, 2]) == 1


def test_what_is_pasted_ends_where_its_crop_ends_and_does_not_go_on():
    image, _ = crop(shape=(48, 48, 4))
    mask = np.zeros((48, 48, 4), dtype=bool)
    mask[20:28, 20:28] = True
    image.array[0][mask] = 0
    _, grid = lung((0.7, 0.7, 0.625))
    _, inside = pasted_mask(grid, piece_of(image, mask, nodule=True), np.array([30.0, 30.0, 30.0]), STRAIGHT)
    assert np.ptp(np.argwhere(inside)[:, 2]) + 1 == pytest.approx(4 * 1.25 / 0.625, abs=1)


def test_lung_takes_the_level_of_its_new_surroundings_and_soft_tissue_keeps_its_hu():
    image, mask = crop(lung_hu=-780.0, nodule_hu=30.0)
    old, grid = lung((0.7, 0.7, 1.25), lung_hu=-900.0)
    place = np.array([30.0, 30.0, 30.0])
    new = old.copy()
    paste(new, grid, piece_of(image, mask, nodule=True), place, STRAIGHT, 0)
    assert new.max() == pytest.approx(30.0, abs=1)
    beside = tuple(np.round(grid.lps_mm_to_index(place + np.array([7.0, 0, 0]))).astype(int))
    assert new[beside] == pytest.approx(-900.0, abs=3)


@pytest.mark.parametrize("noise_hu", [8.0, 35.0, 90.0])
def test_neither_more_nor_less_grain_tells_what_was_pasted(noise_hu):
    image, mask = crop(noise_hu=noise_hu, nodule_hu=LUNG_HU, radius_mm=7.0)
    old, grid = lung((0.84, 0.84, 1.25), noise_hu=35.0)
    place = np.array([30.0, 30.0, 30.0])
    piece = piece_of(image, mask, nodule=False)
    new = old.copy()
    paste(new, grid, piece, place, STRAIGHT, 7)
    ball = np.linalg.norm(grid.index_to_lps_mm(np.moveaxis(np.indices(grid.shape), 0, -1)) - place, axis=-1) <= 6
    assert 0.75 < new[ball].std() / 35.0 < 1.3
    assert 0.55 < grain_hu(new, ball) / 35.0 < 1.3
    assert not piece.mask.any()
    np.testing.assert_array_equal(new[0], old[0])


def test_chest_wall_beside_a_nodule_is_not_taken_along():
    image, mask = crop()
    image.array[0, 38:] = 40.0
    mask[33:38, 20:28, 8:12] = True
    piece = piece_of(image, mask, nodule=True)
    wall = piece.weight[1:-1, 1:-1, 1:-1][38:, 20:28, 8:12]
    air = piece.weight[1:-1, 1:-1, 1:-1][30:33, 20:28, 8:12]
    assert wall[0].mean() < 0.5 and wall[1:].max() == 0
    assert air[-1].min() > 0.9
