from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from mtnet.inference.lungs import Lungs
from mtnet.inference.region import find_lungs, lung_field
from mtnet.phantoms import draw_chest
from mtnet.structures import Geometry

Pocket = tuple[tuple[float, ...], tuple[float, ...], float]
SHAPE = (84, 60, 60)
GRID = Geometry.from_parts(SHAPE, (5.0, 5.0, 5.0), (-207.5, -147.5, -147.5))
POINTS = GRID.index_to_lps_mm(np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1))


def ball(centre: tuple[float, ...], radii: tuple[float, ...]) -> NDArray[np.bool_]:
    return np.asarray((((POINTS - centre) / radii) ** 2).sum(axis=-1) <= 1)


def body(*pockets: Pocket) -> NDArray[np.int16]:
    """A trunk in air with ellipsoids in it: centre, radii in mm, HU; with the noise of a scanner."""
    hu = np.full(SHAPE, -1000.0)
    hu[ball((0, 0, 0), (160, 110, 1000))] = 40
    for centre, radii, value in pockets:
        hu[ball(centre, radii)] = value
    return np.rint(hu + np.random.default_rng(1).normal(0, 20, SHAPE)).astype(np.int16)


LEFT: Pocket = ((70, 0, 0), (50, 75, 110), -850)
RIGHT: Pocket = ((-70, 0, 0), (50, 75, 110), -850)


def ellipsoid_ml(radii: tuple[float, ...]) -> float:
    return float(4 / 3 * np.pi * np.prod(radii) / 1000)


def test_two_ellipsoids_have_their_volume_area_and_proportions() -> None:
    found = find_lungs(body(LEFT, RIGHT), GRID)
    assert found.volume_ml == pytest.approx(2 * ellipsoid_ml(LEFT[1]), rel=0.05)
    assert found.largest_area_cm2 == pytest.approx(2 * np.pi * 5.0 * 7.5, rel=0.05)
    assert found.width_over_depth == pytest.approx(240 / 150, rel=0.15)
    assert (found.share_at_head, found.share_at_feet, found.area_at_sides_cm2) == (0, 0, 0)


@pytest.mark.parametrize(("family", "seed"), [("train", 3), ("held_out", 4)])
def test_the_lungs_of_a_drawn_chest_are_measured_as_they_were_drawn(family: str, seed: int) -> None:
    drawn = draw_chest(seed, family=family, spacing_mm=(3.0, 3.0, 3.0))  # type: ignore[arg-type]
    true_ml = np.count_nonzero(drawn.lung_mask) * drawn.volume.geometry.voxel_volume_mm3 / 1000
    found = find_lungs(drawn.volume.array[0], drawn.volume.geometry)
    assert true_ml * 0.85 < found.volume_ml < true_ml
    assert max(found.share_at_head, found.share_at_feet) < 0.06 and found.area_at_sides_cm2 == 0
    assert found.width_over_depth > 1.2


BOWEL: tuple[Pocket, ...] = (
    ((40, -40, 0), (60, 30, 60), -1000),
    ((-60, -30, -60), (40, 30, 50), -990),
    ((60, -50, 80), (40, 40, 30), -985),
)
SINUSES_AND_WINDPIPE: tuple[Pocket, ...] = (
    ((25, -50, 40), (15, 15, 20), -1000),
    ((-25, -50, 40), (15, 15, 20), -1000),
    ((0, 10, 0), (9, 9, 500), -1000),
)


@pytest.mark.parametrize("pockets", [(), BOWEL, SINUSES_AND_WINDPIPE])
def test_gas_is_not_taken_for_lung(pockets: tuple[Pocket, ...]) -> None:
    assert find_lungs(body(*pockets), GRID).largest_area_cm2 < 5


def test_gas_does_not_add_to_the_lungs_and_emphysema_does() -> None:
    alone = find_lungs(body(LEFT, RIGHT), GRID).volume_ml
    stomach = ((50, -40, 150), (45, 40, 30), -1000)
    assert find_lungs(body(LEFT, RIGHT, stomach), GRID).volume_ml == pytest.approx(alone, rel=0.02)
    torn = ((*LEFT[:2], -920), (*RIGHT[:2], -920))
    assert find_lungs(body(*torn), GRID).volume_ml == pytest.approx(alone, rel=0.05)


def test_one_lung_is_narrow_and_a_cut_one_is_told_by_the_end_at_which_it_is_cut() -> None:
    assert find_lungs(body(LEFT), GRID).width_over_depth < 0.9
    hu = body(LEFT, RIGHT)
    lower = find_lungs(hu[:, :, :30], Geometry.from_parts((84, 60, 30), (5, 5, 5), GRID.origin_lps_mm))
    assert lower.share_at_head > 0.9 and lower.share_at_feet == 0
    narrow = find_lungs(hu[30:], Geometry.from_parts((54, 60, 60), (5, 5, 5), (-57.5, -147.5, -147.5)))
    assert narrow.area_at_sides_cm2 > 100


@pytest.mark.parametrize(("order", "flips"), list(itertools.product(itertools.permutations(range(3)), ((0,), (1, 2)))))
def test_the_order_and_direction_of_the_axes_do_not_matter(order: tuple[int, ...], flips: tuple[int, ...]) -> None:
    hu = body(LEFT, RIGHT)[:, :, :40]
    affine = GRID.affine_lps.copy()
    for axis in flips:
        hu = np.flip(hu, axis)
        affine[:3, 3] += affine[:3, axis] * (hu.shape[axis] - 1)
        affine[:3, axis] *= -1
    turned = Geometry(tuple(hu.shape[a] for a in order), affine[:, [*order, 3]])  # type: ignore[arg-type]
    found = find_lungs(hu.transpose(order), turned)
    wanted = find_lungs(body(LEFT, RIGHT)[:, :, :40], Geometry((84, 60, 40), GRID.affine_lps))
    assert close(found, wanted)
    assert found.share_at_head > 0.5 and found.share_at_feet == 0


def close(one: Lungs, two: Lungs) -> bool:
    names = ("volume_ml", "largest_area_cm2", "share_at_head", "area_at_sides_cm2", "width_over_depth")
    return all(getattr(one, name) == pytest.approx(getattr(two, name)) for name in names)


def test_the_lung_field_hands_on_what_it_measured_also_where_it_fails() -> None:
    hu = body(LEFT, RIGHT)
    assert lung_field(hu, GRID).lungs == find_lungs(hu, GRID)
    nothing = lung_field(body(), GRID)
    assert nothing.lungs == Lungs() and nothing.lines[0].code == "region_failed"
