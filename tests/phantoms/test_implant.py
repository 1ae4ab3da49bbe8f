import itertools

import numpy as np
import pytest

from mtnet.phantoms import NoduleRequest, Phantom, draw_chest
from mtnet.phantoms.implant import implant_nodules
from mtnet.structures import Geometry, Volume


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return draw_chest(2, spacing_mm=(2.0, 2.0, 3.0), nodules=0)


def test_implanted_nodules_change_the_image_only_around_the_places_told(phantom: Phantom) -> None:
    volume, lesions = implant_nodules(phantom.volume, 1, 3)
    change = volume.array[0] != phantom.volume.array[0]
    assert len(lesions) == 3
    assert volume.array.dtype == np.int16
    far = np.ones(change.shape, dtype=bool)
    axes = np.meshgrid(*(np.arange(n) for n in change.shape), indexing="ij", sparse=True)
    for lesion in lesions:
        index = phantom.volume.geometry.lps_mm_to_index(lesion.centre_lps_mm)
        distance = sum(
            ((a - c) * mm) ** 2 for a, c, mm in zip(axes, index, phantom.volume.geometry.spacing_mm, strict=True)
        )
        far &= np.sqrt(distance) > 1.5 * lesion.diameter_mm + 8
        nearest = tuple(np.rint(index).astype(int))
        assert phantom.lung_mask[nearest]
        assert volume.array[0][nearest] > phantom.volume.array[0][nearest] + 50
    assert not (change & far).any()


def test_the_same_seed_implants_the_same(phantom: Phantom) -> None:
    one, again = (implant_nodules(phantom.volume, 5, 2) for _ in range(2))
    assert np.array_equal(one[0].array, again[0].array)
    assert one[1] == again[1]


def test_a_solid_nodule_reaches_its_density_and_keeps_the_noise(phantom: Phantom) -> None:
    request = NoduleRequest(diameter_mm=13, texture="solid", form="smooth")
    volume, (lesion,) = implant_nodules(phantom.volume, 2, [request])
    i, j, k = np.rint(phantom.volume.geometry.lps_mm_to_index(lesion.centre_lps_mm)).astype(int)
    core = volume.array[0][i - 1 : i + 2, j - 1 : j + 2, k]
    assert abs(core.mean() - lesion.hu) < 60
    assert core.std() > 2


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[1:5:3])
def test_a_volume_on_permuted_and_flipped_axes_gets_the_same_nodule(phantom: Phantom, order: tuple[int, ...]) -> None:
    geometry = phantom.volume.geometry
    centre = implant_nodules(phantom.volume, 9, [NoduleRequest(diameter_mm=20)])[1][0].centre_lps_mm
    request = NoduleRequest(diameter_mm=14, texture="solid", form="smooth", centre_lps_mm=centre)
    straight, (lesion,) = implant_nodules(phantom.volume, 9, [request])
    turned_array = np.transpose(phantom.volume.array[0], order)[::-1][None]
    step = geometry.direction_lps[:, order] * np.asarray(geometry.spacing_mm)[list(order)]
    affine = np.eye(4)
    affine[:3, :3] = step * [-1, 1, 1]
    affine[:3, 3] = np.asarray(geometry.origin_lps_mm) + step[:, 0] * (turned_array.shape[1] - 1)
    turned = Volume(turned_array, Geometry(turned_array.shape[1:], affine), "CT")
    volume, (same,) = implant_nodules(turned, 9, [request])
    assert np.allclose(same.centre_lps_mm, lesion.centre_lps_mm)
    back = np.transpose(volume.array[0][::-1], np.argsort(order))
    assert np.array_equal(back, straight.array[0])
    assert np.allclose(volume.geometry.box_index_to_lps_mm(same.box_index), lesion.box_lps_mm, atol=1e-6)


def test_an_oblique_volume_and_a_nodule_without_room_are_refused(phantom: Phantom) -> None:
    c, s = np.cos(0.3), np.sin(0.3)
    geometry = Geometry.from_parts(
        phantom.volume.geometry.shape, (2.0, 2.0, 3.0), (0.0, 0.0, 0.0), [[c, -s, 0], [s, c, 0], [0, 0, 1]]
    )
    with pytest.raises(ValueError, match="oblique"):
        implant_nodules(Volume(phantom.volume.array, geometry, "CT"), 0, 1)
    with pytest.raises(ValueError, match="room"):
        implant_nodules(phantom.volume, 0, [NoduleRequest(diameter_mm=300)])
