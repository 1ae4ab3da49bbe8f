"""2D images as networks see them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image as PILImage

from mtnet.structures import Geometry
from mtnet.transforms import MaskPictured, PictureChannelsd, PictureRanged, picture_chain
from mtnet.transforms.pictures import IMAGENET_MEAN, IMAGENET_STD


def loaded(array: np.ndarray, spacing: tuple[float, float] = (1.0, 1.0)) -> MetaTensor:
    """``(i, j)`` or ``(i, j, 3)`` as ``LoadImageStudyd`` gives it."""
    affine = torch.diag(torch.tensor([-spacing[0], -spacing[1], 1.0], dtype=torch.float64))
    where = -1 if array.ndim == 3 else "no_channel"
    return MetaTensor(torch.as_tensor(array.astype(np.float32)), affine=affine, meta={"original_channel_dim": where})


@pytest.mark.parametrize("size", [(30, 40), (60, 40), (30, 120), (15, 20)])
def test_columns_by_rows_become_rows_by_columns_with_each_pixel_at_its_place(size):
    ramp = np.stack(np.meshgrid(np.arange(40.0), np.arange(30.0), indexing="ij"), -1)
    image = np.concatenate([ramp, np.full((40, 30, 1), 255.0)], -1)
    made = picture_chain(size, load=False)({"image": loaded(image, (0.5, 0.25))})["image"]
    assert made.shape == (3, *size)
    values = (made * torch.tensor(IMAGENET_STD)[:, None, None] + torch.tensor(IMAGENET_MEAN)[:, None, None]) * 255
    # A pixel's centre in the input's index space, through both affines.
    rows, columns = np.meshgrid(np.arange(size[0]), np.arange(size[1]), indexing="ij")
    there = np.stack([rows, columns, np.ones(size)], -1) @ made.affine.numpy().T
    index = there[..., :2] / [-0.5, -0.25]
    inner = (index > 2).all(-1) & (index < [37, 27]).all(-1)
    np.testing.assert_allclose(values[0].numpy()[inner], index[..., 0][inner], atol=0.02)
    np.testing.assert_allclose(values[1].numpy()[inner], index[..., 1][inner], atol=0.02)


def test_the_way_back_leads_to_the_pixels_that_were_given():
    image = loaded(np.random.default_rng(0).integers(0, 255, (12, 20, 3)))
    chain = picture_chain((20, 12), load=False)
    back = chain.inverse(chain({"image": image}))["image"]
    assert back.shape == (3, 12, 20)
    torch.testing.assert_close(back.affine, image.affine)
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(
        (back.as_tensor() * std + mean) * 255, image.as_tensor().movedim(-1, 0), atol=1e-3, rtol=0
    )


def test_a_file_is_read_as_its_array_would_be(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (24, 16, 3), dtype=np.uint8)
    mask = (pixels[..., 0] > 99).astype(np.uint8)
    PILImage.fromarray(pixels).save(tmp_path / "image.png")
    PILImage.fromarray(mask).save(tmp_path / "label.png")
    paths = {"image": str(tmp_path / "image.png"), "label": str(tmp_path / "label.png")}
    made = picture_chain((24, 16))(paths)
    told = picture_chain((24, 16), load=False)({"image": loaded(pixels.swapaxes(0, 1))})
    torch.testing.assert_close(made["image"].as_tensor(), told["image"].as_tensor())
    # PIL's own array is rows x columns already.
    np.testing.assert_array_equal(made["label"].numpy(), mask[None])


def test_a_label_takes_the_same_steps_in_space_and_keeps_its_numbers():
    label = np.zeros((40, 30))
    label[10:20, 4:8] = 2
    item = {"image": loaded(label * 100), "label": loaded(label)}
    made = picture_chain((60, 80), load=False, mask=False)(item)
    assert made["label"].shape == (1, 60, 80) and set(made["label"].unique().tolist()) == {0.0, 2.0}
    np.testing.assert_array_equal(made["label"][0, 8:16, 20:40].numpy(), 2)
    assert float(made["label"].sum()) == 2 * 8 * 20
    torch.testing.assert_close(made["label"].affine, made["image"].affine)


def test_one_number_is_the_longer_side_and_the_aspect_stays():
    made = picture_chain(64, load=False)({"image": loaded(np.zeros((128, 64, 3)))})["image"]
    assert made.shape == (3, 32, 64)
    grid = Geometry.from_ras((32, 64, 1), np.array([[0, -2, 0, -0.5], [-2, 0, 0, -0.5], [0, 0, 1, 0], [0, 0, 0, 1]]))
    np.testing.assert_allclose(made.affine.numpy()[:2, :2], grid.affine_ras[:2, :2])


def test_grey_is_copied_and_colour_becomes_its_luma():
    grey = PictureChannelsd("image", 3)({"image": loaded(np.arange(6.0).reshape(2, 3))})["image"]
    assert grey.shape == (3, 2, 3) and bool((grey == grey[:1]).all())
    colour = np.stack([np.full((2, 3), 255.0), np.zeros((2, 3)), np.zeros((2, 3))], -1)
    luma = PictureChannelsd("image", 1)({"image": loaded(colour)})["image"]
    assert luma.shape == (1, 2, 3) and luma.unique().tolist() == pytest.approx([0.299 * 255])
    first = PictureChannelsd("image", 3)({"image": torch.zeros(1, 3, 5)})["image"]
    assert first.shape == (3, 3, 5)


def test_8_bits_keep_their_darkness_and_wider_values_are_spread():
    ranged = PictureRanged("image")
    assert ranged({"image": torch.tensor([0.0, 51.0])})["image"].tolist() == pytest.approx([0, 0.2])
    assert ranged({"image": torch.tensor([1000.0, 3000.0, 2000.0])})["image"].tolist() == [0, 1, 0.5]
    assert ranged({"image": torch.full((4,), 900.0)})["image"].tolist() == [0, 0, 0, 0]
    assert ranged({"image": torch.tensor([-100.0, 100.0])})["image"].tolist() == [0, 1]


def test_a_mask_is_what_is_brighter_than_half_of_white():
    masked = MaskPictured("label")
    assert masked({"label": torch.tensor([0.0, 3.0, 251.0])})["label"].tolist() == [0, 0, 1]
    assert masked({"label": torch.tensor([0.0, 1.0])})["label"].tolist() == [0, 1]
    assert masked({"label": torch.tensor([0.0, 6.0])})["label"].tolist() == [0, 0]


@pytest.mark.parametrize("shape", [(5,), (4, 5, 6), (3, 4, 5, 6)])
def test_what_is_no_2d_image_is_refused(shape):
    with pytest.raises(ValueError, match="columns x rows"):
        PictureChannelsd("image", 3)({"image": torch.zeros(shape)})
    with pytest.raises(ValueError, match="expected 1 or 3"):
        PictureChannelsd("image", 2)
