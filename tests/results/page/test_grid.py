from __future__ import annotations

import gzip
import io
from itertools import permutations, product

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from mtnet.results.page.grid import PageGrid
from mtnet.results.page.scene import volume_scene
from mtnet.structures import Findings, Geometry, Volume
from tests.results.samples import ball, findings_on

SHAPE, SPACING = (30, 24, 16), (1.5, 2.0, 3.0)
AT_LPS_MM = np.array([9.0, -7.0, 6.0])


def oriented(order: tuple[int, ...], signs: tuple[float, ...]) -> Geometry:
    """The same block of the patient, centred at 0, with its axes in another order and direction."""
    direction = np.zeros((3, 3))
    direction[list(order), range(3)] = signs
    shape, spacing = [SHAPE[axis] for axis in order], [SPACING[axis] for axis in order]
    return Geometry.from_parts(
        shape, spacing, -direction @ (np.multiply(spacing, np.subtract(shape, 1)) / 2), direction
    )


def centres(geometry: Geometry) -> NDArray[np.float64]:
    return geometry.index_to_lps_mm(np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), axis=-1))


def nifti(content: bytes) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(content))


def world(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """HU that tell where a point is."""
    return -300 + 6 * points[..., 0] + 5 * points[..., 1] + 4 * points[..., 2]


@pytest.mark.parametrize("most_voxels", [10**6, 1500])
@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_every_voxel_of_the_page_tells_its_place_in_the_patient(order: tuple[int, ...], most_voxels: int) -> None:
    for signs in product((1.0, -1.0), repeat=3):
        geometry = oriented(order, signs)
        volume = Volume(world(centres(geometry)).astype(np.float32)[None], geometry, "CT")
        scene = volume_scene(Findings(geometry, *_nothing()), volume, most_voxels)
        image = nifti(scene.blobs["volume"])
        assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
        assert image.shape == tuple(scene.data["shape"]) and np.prod(image.shape) <= most_voxels
        index = np.stack(np.meshgrid(*map(np.arange, image.shape), indexing="ij"), axis=-1)
        ras = index @ image.affine[:3, :3].T + image.affine[:3, 3]
        # A step of the 8 bits is 5.9 HU. A coarse voxel that cuts source voxels is off by a part of one: 9 to 12 HU.
        assert np.abs(image.get_fdata() - world(ras * [-1, -1, 1])).max() < (3.1 if most_voxels == 10**6 else 6.0)


@pytest.mark.parametrize("most_voxels", [10**6, 900])
def test_boxes_and_centres_go_to_the_same_place_as_the_mask(most_voxels: int) -> None:
    for order, signs in (((0, 1, 2), (1.0, 1.0, 1.0)), ((2, 0, 1), (-1.0, 1.0, -1.0)), ((1, 2, 0), (1.0, -1.0, -1.0))):
        geometry = oriented(order, signs)
        mask = ball(geometry, AT_LPS_MM, 7.0)
        findings = findings_on(geometry, [mask])
        grid = PageGrid.of(geometry, most_voxels)
        lesion = findings.lesions[0]
        low, high = np.split(grid.box(lesion.box_index), 2)
        ends = np.array([low, high]) @ grid.affine_ras[:3, :3].T + grid.affine_ras[:3, 3]
        lps = np.sort(ends * [-1, -1, 1], axis=0)
        np.testing.assert_allclose(lps.ravel(), lesion.box_lps_mm, atol=1e-9)
        centre = grid.point(geometry.lps_mm_to_index(lesion.centre_lps_mm).tolist())
        np.testing.assert_allclose((grid.affine_ras @ [*centre, 1])[:3] * [-1, -1, 1], lesion.centre_lps_mm, atol=1e-9)
        scene = volume_scene(findings, Volume(np.zeros((1, *geometry.shape), np.int16), geometry, "CT"), most_voxels)
        codes = np.asarray(nifti(scene.blobs["masks"]).dataobj)
        (lesion_entry,) = (entry for entry in scene.data["legend"] if entry["lesion"])
        drawn = np.argwhere(codes == lesion_entry["code"])
        assert (drawn >= np.floor(low)).all() and (drawn <= np.ceil(high)).all()
        volume_mm3 = len(drawn) * np.prod(grid.spacing_mm)
        assert volume_mm3 == pytest.approx(
            mask.sum() * geometry.voxel_volume_mm3, rel=0.02 if most_voxels > 900 else 0.4
        )


def test_a_lesion_of_one_voxel_stays_however_coarse_the_page_is() -> None:
    geometry = oriented((0, 1, 2), (1.0, 1.0, 1.0))
    mask = np.zeros(SHAPE, bool)
    mask[17, 11, 5] = True
    volume = Volume(np.zeros((1, *SHAPE), np.int16), geometry, "CT")
    scene = volume_scene(findings_on(geometry, [mask]), volume, 200)
    assert any(entry["lesion"] for entry in scene.data["legend"])


def test_coarsening_starts_with_the_finest_axis() -> None:
    geometry = Geometry.from_parts((512, 512, 60), (0.8, 0.8, 5.0))
    grid = PageGrid.of(geometry, 6_000_000)
    assert grid.shape[2] == 60 and grid.shape[0] == grid.shape[1] < 512
    assert 5_500_000 < np.prod(grid.shape) <= 6_000_000
    assert PageGrid.of(geometry, 10**9).shape == (512, 512, 60)


def test_headers_hold_no_text() -> None:
    geometry = oriented((0, 1, 2), (1.0, 1.0, 1.0))
    scene = volume_scene(
        findings_on(geometry, [ball(geometry, AT_LPS_MM, 7.0)]),
        Volume(np.zeros((1, *SHAPE), np.int16), geometry, "CT"),
        10**6,
    )
    for content in scene.blobs.values():
        header = nibabel.Nifti1Header.from_fileobj(io.BytesIO(gzip.decompress(content)))
        assert all(not header[key].item() for key in ("descrip", "aux_file", "intent_name", "db_name", "data_type"))
        # No name and no time in the gzip stream.
        assert content[3] == 0 and content[4:8] == bytes(4)


def _nothing() -> tuple[object, object]:
    from mtnet.structures import Source
    from tests.results.samples import MODEL

    return Source(), MODEL
