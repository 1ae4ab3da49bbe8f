import time

import numpy as np
import pytest
from scipy import ndimage

from mtnet.phantoms import NoduleRequest, Phantom, draw_chest
from mtnet.phantoms.families import FAMILIES, Family
from mtnet.phantoms.nodules import FORMS, PLACES, TEXTURES, NoduleShape, random_turn
from mtnet.phantoms.scanner import profile_margin, slice_weights

COARSE = (3.0, 3.0, 3.0)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return draw_chest(3, nodules=9)


def test_the_same_seed_draws_the_same_bytes_and_another_seed_others() -> None:
    one, again, other = (draw_chest(seed, spacing_mm=COARSE) for seed in (8, 8, 9))
    assert one.volume.array.tobytes() == again.volume.array.tobytes()
    assert one.lesion_map.tobytes() == again.lesion_map.tobytes()
    assert one.lesions == again.lesions
    assert one.volume.array.shape != other.volume.array.shape or (one.volume.array != other.volume.array).any()


def test_the_volume_is_a_ct_in_hounsfield_units_along_lps(phantom: Phantom) -> None:
    assert phantom.volume.array.dtype == np.int16
    assert phantom.volume.modality == "CT"
    assert np.array_equal(phantom.volume.geometry.direction_lps, np.eye(3))
    assert phantom.lesion_map.shape == phantom.lung_mask.shape == phantom.volume.geometry.shape
    assert phantom.volume.array.min() >= -1024
    assert phantom.volume.array.max() <= 3071


def test_every_nodule_has_a_mask_with_the_drawn_centroid_and_volume(phantom: Phantom) -> None:
    assert len(phantom.lesions) >= 7
    geometry = phantom.volume.geometry
    for lesion in phantom.lesions:
        mask = phantom.lesion_map == lesion.number
        centroid = ndimage.center_of_mass(mask)
        drawn = geometry.lps_mm_to_index(lesion.centre_lps_mm)
        assert np.abs(centroid - drawn).max() < 0.35
        volume = mask.sum() * geometry.voxel_volume_mm3
        assert volume == pytest.approx(lesion.volume_mm3, rel=0.12 if lesion.diameter_mm > 8 else 0.35)
        assert lesion.volume_mm3 == pytest.approx(np.pi / 6 * lesion.diameter_mm**3)


def test_the_box_of_a_nodule_is_the_extent_of_its_mask_to_a_voxel(phantom: Phantom) -> None:
    for lesion in phantom.lesions:
        index = np.argwhere(phantom.lesion_map == lesion.number)
        low, high = index.min(axis=0) - 0.5, index.max(axis=0) + 0.5
        assert np.abs(np.array(lesion.box_index[:3]) - low).max() < 1.0
        assert np.abs(np.array(lesion.box_index[3:]) - high).max() < 1.0
        world = phantom.volume.geometry.box_index_to_lps_mm(lesion.box_index)
        assert np.allclose(world, lesion.box_lps_mm, atol=1e-6)


def test_an_ellipsoids_facts_equal_the_analytic_ones() -> None:
    rng = np.random.default_rng(1)
    turn = random_turn(rng)
    shape = NoduleShape(np.array([10.0, -4.0, 7.0]), np.array([5.0, 7.0, 9.0]), turn)
    volume, centre, low, high = shape.facts()
    half = np.sqrt(((turn * [5.0, 7.0, 9.0]) ** 2).sum(axis=1))
    assert volume == pytest.approx(4 / 3 * np.pi * 5 * 7 * 9, rel=2e-3)
    assert np.allclose(centre, [10, -4, 7], atol=0.02)
    assert np.allclose(low, np.array([10, -4, 7]) - half, rtol=0, atol=0.03)
    assert np.allclose(high, np.array([10, -4, 7]) + half, rtol=0, atol=0.03)


def test_a_sphere_cut_in_half_has_half_the_volume_and_its_centroid_moved_by_three_eighths() -> None:
    shape = NoduleShape(
        np.zeros(3), np.full(3, 10.0), np.eye(3), limit=lambda p: np.asarray(p[..., 0], dtype=np.float32)
    )
    volume, centre, low, high = shape.facts()
    assert volume == pytest.approx(2 / 3 * np.pi * 1000, rel=0.01)
    assert np.allclose(centre, [-3.75, 0, 0], atol=0.1)
    assert np.allclose(low, [-10, -10, -10], atol=0.05)
    assert np.allclose(high, [0, 10, 10], atol=0.05)


def test_tissues_have_the_hounsfield_units_of_a_real_ct(phantom: Phantom) -> None:
    array = phantom.volume.array[0]
    measured = 0
    lung = ndimage.binary_erosion(phantom.lung_mask, iterations=4) & (phantom.lesion_map == 0)
    assert -910 < np.median(array[lung]) < -790
    assert 10 < array[lung & (array < -700)].std() < 60
    assert 0.01 < (array[lung] > -600).mean() < 0.1
    corner = array[2:12, 2:8, -12:-2]
    assert -1024 <= corner.mean() < -950
    assert (array > 400).sum() * phantom.volume.geometry.voxel_volume_mm3 > 50_000
    soft = (array > 0) & (array < 120)
    assert soft.mean() > 0.15
    for lesion in phantom.lesions:
        if lesion.texture == "solid" and 9 < lesion.diameter_mm < 13:
            core = ndimage.binary_erosion(phantom.lesion_map == lesion.number, iterations=2)
            assert abs(np.median(array[core]) - lesion.hu) < 80
            measured += 1
    assert measured > 0


def test_lungs_have_the_volume_of_an_adults(phantom: Phantom) -> None:
    litres = phantom.lung_mask.sum() * phantom.volume.geometry.voxel_volume_mm3 / 1e6
    assert 1.8 < litres < 8
    assert ndimage.label(phantom.lung_mask)[1] >= 2


@pytest.mark.parametrize("texture", TEXTURES)
@pytest.mark.parametrize("place", PLACES)
def test_every_texture_is_drawn_at_every_place(texture: str, place: str) -> None:
    request = NoduleRequest(diameter_mm=14, texture=texture, place=place, form="smooth")  # type: ignore[arg-type]
    phantom = draw_chest(21, spacing_mm=COARSE, nodules=[request], noise=False)
    (lesion,) = phantom.lesions
    assert (lesion.texture, lesion.place) == (texture, place)
    inside = phantom.volume.array[0][phantom.lesion_map == 1]
    bare = draw_chest(21, spacing_mm=COARSE, nodules=0, noise=False)
    before = bare.volume.array[0][phantom.lesion_map == 1]
    assert inside.mean() > before.mean() + 60
    if place == "pleura":
        grown = ndimage.binary_dilation(phantom.lesion_map == 1, iterations=2)
        assert (grown & ~phantom.lung_mask).any()
        assert lesion.diameter_mm < 14


def test_random_phantoms_hold_every_texture_place_and_form_and_large_and_small_nodules() -> None:
    lesions = [n for seed in range(16) for n in draw_chest(seed, spacing_mm=(5.0, 5.0, 5.0)).lesions]
    assert {n.texture for n in lesions} == set(TEXTURES)
    assert {n.place for n in lesions} == set(PLACES)
    assert {n.form for n in lesions} == set(FORMS)
    diameters = np.array([n.diameter_mm for n in lesions])
    assert (diameters < 6).any()
    assert (diameters > 20).any()
    assert (diameters >= 8).mean() > 0.5


def test_the_families_differ_in_the_spectrum_of_their_noise() -> None:
    def spectrum(family: Family) -> tuple[float, float]:
        streaks, slow = [], []
        for seed in range(12):
            rng = np.random.default_rng(seed)
            noise = FAMILIES[family].scanner(rng).noise(rng, (96, 64, 8), (1.0, 1.0, 2.0))
            rows = noise.mean(axis=0, keepdims=True)
            streaks.append(rows.std() / noise.std())
            rest = noise - rows
            slow.append(ndimage.gaussian_filter(rest, (4, 4, 0)).std() / rest.std())
        return float(np.mean(streaks)), float(np.mean(slow))

    train, held_out = spectrum("train"), spectrum("held_out")
    assert held_out[0] > 1.2 * train[0]
    assert held_out[1] < 0.7 * train[1]


def test_thick_slices_are_the_mean_of_the_thin_ones_that_they_cover() -> None:
    thick = draw_chest(5, spacing_mm=(2.5, 2.5, 5.0), shape=(60, 50, 9), nodules=0, noise=False)
    thin = draw_chest(5, spacing_mm=(2.5, 2.5, 5 / 3), shape=(60, 50, 27), nodules=0, noise=False)
    assert thick.slice_thickness_mm == 5.0
    mean = thin.volume.array[0].astype(float).reshape(60, 50, 9, 3).mean(axis=-1)
    inner = slice(1, -1)
    assert np.abs(mean - thick.volume.array[0])[:, :, inner].max() < 1.5
    assert thick.volume.array.mean() == pytest.approx(thin.volume.array.mean(), abs=0.5)


def test_resampled_slices_lie_on_the_lines_between_the_thick_ones() -> None:
    thick = draw_chest(5, spacing_mm=(2.5, 2.5, 5.0), shape=(60, 50, 9), nodules=2)
    fine = draw_chest(5, spacing_mm=(2.5, 2.5, 5.0), shape=(60, 50, 9), resample_k_mm=1.5, nodules=2)
    assert fine.volume.geometry.spacing_mm == (2.5, 2.5, 1.5)
    assert fine.volume.geometry.origin_lps_mm == thick.volume.geometry.origin_lps_mm
    z = np.arange(fine.volume.geometry.shape[2]) * 1.5 / 5.0
    places = np.stack(np.meshgrid(np.arange(60), np.arange(50), z, indexing="ij"))
    expected = ndimage.map_coordinates(thick.volume.array[0].astype(float), places, order=1)
    assert np.abs(fine.volume.array[0] - expected).max() <= 1.01
    assert [n.centre_lps_mm for n in fine.lesions] == [n.centre_lps_mm for n in thick.lesions]
    assert len(fine.lesions) > 0
    for lesion in fine.lesions:
        centroid = ndimage.center_of_mass(fine.lesion_map == lesion.number)
        assert np.abs(centroid - fine.volume.geometry.lps_mm_to_index(lesion.centre_lps_mm)).max() < 0.6


def test_a_slice_profile_keeps_the_mean_for_any_thickness() -> None:
    for thickness in (0.4, 1.0, 2.0, 2.5, 3.0, 6.4):
        weights = slice_weights(3, 5, thickness)
        assert weights.shape == (5, 13 + 2 * profile_margin(thickness))
        assert np.allclose(weights.sum(axis=1), 1)
        centres = weights @ np.arange(weights.shape[1])
        assert np.allclose(centres, np.arange(5) * 3 + profile_margin(thickness), atol=1e-4)


def test_a_nodule_asked_for_at_a_place_is_drawn_there() -> None:
    found = draw_chest(4, spacing_mm=COARSE, nodules=[NoduleRequest(diameter_mm=18, place="parenchyma")])
    centre = found.lesions[0].centre_lps_mm
    request = NoduleRequest(diameter_mm=12, texture="solid", form="smooth", centre_lps_mm=centre)
    again = draw_chest(4, spacing_mm=COARSE, nodules=[request], noise=False)
    assert np.linalg.norm(np.subtract(again.lesions[0].centre_lps_mm, centre)) < 0.3
    i, j, k = np.rint(again.volume.geometry.lps_mm_to_index(centre)).astype(int)
    assert again.lesion_map[i, j, k] == 1
    assert again.volume.array[0, i, j, k] > -150


def test_image_classes_say_what_was_drawn() -> None:
    assert not draw_chest(2, spacing_mm=(5.0, 5.0, 5.0), nodules=0).image_classes["nodule"]
    assert draw_chest(2, spacing_mm=(5.0, 5.0, 5.0), nodules=3).image_classes["nodule"]
    ill = [draw_chest(s, spacing_mm=(5.0, 5.0, 5.0), nodules=0).image_classes["emphysema"] for s in range(10)]
    assert 1 <= sum(ill) <= 7


def test_a_tiny_phantom_is_quick() -> None:
    draw_chest(0, spacing_mm=(4.0, 4.0, 4.0))
    start = time.process_time()
    phantom = draw_chest(6, spacing_mm=(4.0, 4.0, 4.0), shape=(72, 56, 60), nodules=2)
    assert time.process_time() - start < 2.0
    assert phantom.volume.geometry.shape == (72, 56, 60)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"family": "other"}, "family"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, "spacing_mm"),
        ({"resample_k_mm": -1.0}, "resample_k_mm"),
    ],
)
def test_senseless_arguments_are_refused(arguments: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        draw_chest(0, **arguments)  # type: ignore[arg-type]


def test_a_senseless_request_is_refused() -> None:
    with pytest.raises(ValueError, match="diameter_mm"):
        NoduleRequest(diameter_mm=0.0)
    with pytest.raises(ValueError, match="texture"):
        NoduleRequest(texture="wooden")  # type: ignore[arg-type]
