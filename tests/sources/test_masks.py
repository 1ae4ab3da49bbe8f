"""Masks of every kind that the sets hold."""

import numpy as np
import pytest
from PIL import Image

from mtnet.sources.manifest import Sample
from mtnet.sources.masks import component_boxes, read_mask, read_mask_file, stored_mask, without_single_pixels
from tests.sources import made

BOX = (8, 5, 24, 17)


def sample(tmp_path, masks):
    return Sample("s/a", "s", "s:a", tmp_path / "a.png", "train", 2, masks=masks)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("8-bit.png", {}),
        ("1-bit.png", {"mode": "1"}),
        ("colour.png", {"mode": "RGB"}),
        ("alpha.png", {"mode": "RGBA"}),
        ("labels.png", {"top": 1}),
        ("label_2.png", {"top": 2}),
        ("plain.tif", {}),
        ("plain.bmp", {}),
        ("grey.jpg", {"quality": 75}),
        ("grey_colour.jpg", {"mode": "RGB", "quality": 60}),
    ],
)
def test_a_mask_is_the_same_foreground_whatever_it_is_stored_as(tmp_path, name, options):
    path = made.mask(tmp_path / name, BOX, **options)
    found = read_mask_file(path)
    expected = made.rectangle(made.SIZE, BOX)
    wrong = np.count_nonzero(found != expected)
    assert found.shape == made.SIZE
    assert wrong == 0 if path.suffix != ".jpg" else wrong <= 4


def test_a_jpeg_mask_really_holds_values_between_so_that_any_threshold_but_half_is_wrong(tmp_path):
    path = made.mask(tmp_path / "m.jpg", BOX, quality=75)
    values = np.asarray(Image.open(path)).T
    assert np.count_nonzero(values > 0) > np.count_nonzero(made.rectangle(made.SIZE, BOX))
    assert not (values == 255).all(where=made.rectangle(made.SIZE, BOX))


def test_a_black_jpeg_mask_with_noise_is_empty(tmp_path):
    values = np.random.default_rng(0).integers(0, 9, (30, 40), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "m.jpg")
    assert not read_mask_file(tmp_path / "m.jpg").any()


def test_a_stray_pixel_in_the_corner_is_no_lesion_and_gives_no_box(tmp_path):
    path = made.mask(tmp_path / "m.png", (0, 0, 1, 1), BOX)
    assert stored_mask(path)[0, 0]
    assert not read_mask_file(path)[0, 0]
    assert component_boxes(read_mask_file(path)) == ((7.5, 4.5, 23.5, 16.5),)


def test_two_pixels_that_touch_by_a_corner_are_kept():
    mask = np.zeros((5, 5), dtype=bool)
    mask[1, 1] = mask[2, 2] = mask[4, 0] = True
    kept = without_single_pixels(mask)
    assert kept[1, 1] and kept[2, 2] and not kept[4, 0]


def test_several_masks_of_an_image_count_together(tmp_path):
    one = made.mask(tmp_path / "a_mask.png", (2, 2, 8, 8), mode="1")
    two = made.mask(tmp_path / "a_mask_1.png", (6, 6, 20, 12), mode="RGBA")
    found = read_mask(sample(tmp_path, (one, two)))
    np.testing.assert_array_equal(found, made.rectangle(made.SIZE, (2, 2, 8, 8), (6, 6, 20, 12)))


def test_masks_of_different_size_are_refused_with_both_sizes(tmp_path):
    one = made.mask(tmp_path / "a.png", BOX)
    two = made.mask(tmp_path / "b.png", BOX, size=(44, 30))
    with pytest.raises(ValueError, match="40 x 30, 44 x 30"):
        read_mask(sample(tmp_path, (one, two)))


@pytest.mark.parametrize("masks", [None, ()])
def test_unknown_and_known_empty_masks_give_no_array(tmp_path, masks):
    assert read_mask(sample(tmp_path, masks)) is None


def test_a_volume_mask_keeps_its_axes_and_single_voxels(tmp_path):
    values = np.zeros((6, 5, 4), dtype=np.uint8)
    values[2, 3, 1] = 3
    found = read_mask_file(made.volume(tmp_path / "m.nii.gz", values))
    np.testing.assert_array_equal(found, values > 0)


def test_boxes_of_components_are_those_of_a_flood_fill():
    """Against a flood fill of its own: 8 neighbours in a plane, 26 in space, half-open in index space."""
    rng = np.random.default_rng(3)
    for shape in ((17, 13), (9, 8, 7)):
        mask = rng.random(shape) < 0.15
        assert sorted(component_boxes(mask)) == sorted(_flooded(mask))


def _flooded(mask):
    left = {tuple(int(v) for v in place) for place in np.argwhere(mask)}
    while left:
        reached = [left.pop()]
        for place in reached:
            near = {other for other in left if max(abs(a - b) for a, b in zip(place, other, strict=True)) <= 1}
            left -= near
            reached += near
        places = np.array(reached)
        yield (*(places.min(axis=0) - 0.5).tolist(), *(places.max(axis=0) + 0.5).tolist())
