"""The field around a point, whatever grid the volume lies on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from mtnet.transforms import NodulePatchd

SLOPE = np.array([5.0, 7.0, 11.0])


def volume(order=(0, 1, 2), signs=(1, 1, 1), shape=(40, 50, 30), spacing=(0.7, 0.6, 1.5)) -> MetaTensor:
    """Each voxel holds a linear function of where it is, in LPS mm."""
    direction = np.eye(3)[:, list(order)] * np.asarray(signs)
    affine_lps = np.eye(4)
    affine_lps[:3, :3] = direction @ np.diag(spacing)
    affine_lps[:3, 3] = (-3.0, 5.0, 7.0)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    values = (index @ affine_lps[:3, :3].T + affine_lps[:3, 3]) @ SLOPE
    affine_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_lps
    return MetaTensor(torch.from_numpy(values.astype(np.float32)), affine=torch.from_numpy(affine_ras))


def middle_lps(made: MetaTensor) -> np.ndarray:
    affine_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ made.affine.numpy()
    return affine_lps[:3, :3] @ ((np.array(made.shape) - 1) / 2) + affine_lps[:3, 3]


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_each_pixel_of_the_planes_is_where_the_point_and_the_field_say(order, signs):
    source = volume(order, signs)
    at = middle_lps(source) + np.array([1.0, -2.0, 0.5])
    patch = NodulePatchd("image", size=16, field_mm=8.0, planes=3, plane_mm=2.0)
    made = patch({"image": source, "at_lps_mm": at})["image"]
    assert made.shape == (3, 16, 16)
    steps = (np.arange(16) - 7.5) * 0.5
    for plane, up in enumerate((-2.0, 0.0, 2.0)):
        wanted = at @ SLOPE + up * 11 + steps[:, None] * 7 + steps[None] * 5
        np.testing.assert_allclose(made[plane].numpy(), wanted, atol=0.02)
    # Its affine tells the same: rows go to posterior, columns to the left.
    x, y = -(made.affine.numpy()[:2] @ [3, 5, 1])
    np.testing.assert_allclose([x, y], at[:2] + steps[[5, 3]], atol=1e-9)


def test_each_voxel_of_the_cube_is_where_the_point_and_the_field_say():
    source = volume((1, 2, 0), (1, -1, 1))
    at = middle_lps(source)
    made = NodulePatchd("image", size=8, field_mm=8.0)({"image": source})["image"]
    assert made.shape == (1, 8, 8, 8)
    index = np.stack(np.meshgrid(*[np.arange(8)] * 3, indexing="ij"), -1)
    wanted = (at + index - 3.5) @ SLOPE
    np.testing.assert_allclose(made[0].numpy(), wanted, atol=0.02)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ made.affine.numpy()
    np.testing.assert_allclose(lps[:3, 3], at - 3.5, atol=1e-9)


def test_beyond_the_volume_its_last_voxels_are_repeated():
    source = volume(shape=(40, 40, 2))
    made = NodulePatchd("image", size=8, field_mm=4.0, planes=5, plane_mm=3.0)({"image": source})["image"]
    assert torch.equal(made[0], made[1]) and torch.equal(made[3], made[4]) and not torch.equal(made[1], made[2])


@pytest.mark.parametrize("options", [{"size": 0, "field_mm": 4.0}, {"size": 8, "field_mm": 4.0, "planes": 0}])
def test_a_field_of_nothing_is_refused(options):
    with pytest.raises(ValueError, match="expected numbers above 0"):
        NodulePatchd("image", **options)


def test_what_is_no_volume_is_refused():
    with pytest.raises(ValueError, match=r"one value a voxel of \(i, j, k\)"):
        NodulePatchd("image", size=8, field_mm=4.0)({"image": MetaTensor(torch.zeros(3, 4, 4, 4))})


def test_the_middle_is_taken_of_crops_alone():
    large = volume(shape=(40, 50, 30), spacing=(2.0, 2.5, 2.0))
    patch = NodulePatchd("image", size=8, field_mm=4.0, planes=3)
    with pytest.raises(ValueError, match=r"125 mm long.*Give the place"):
        patch({"image": large})
    assert patch({"image": large, "at_lps_mm": middle_lps(large)})["image"].shape == (3, 8, 8)


def test_the_field_is_told_from_face_to_face():
    assert NodulePatchd("image", size=64, field_mm=22.0, planes=3, plane_mm=1.5).field_mm == (22.0, 22.0, 4.5)
    assert NodulePatchd("image", size=32, field_mm=32.0).field_mm == (32.0, 32.0, 32.0)
