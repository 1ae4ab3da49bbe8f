from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from mtnet.phantoms import draw_chest
from mtnet.systems.chest_ct import TEXTURES, preprocessing
from mtnet.training import PhantomBags, phantom_bags
from mtnet.training.phantom_bags import CROWDED, draw_sample, nodules_of_chest
from tests.training.drawn import CUBOIDS, cuboid_sample

PATCH = (24, 20, 22)


@pytest.fixture
def bags(tmp_path, monkeypatch):
    monkeypatch.setattr(phantom_bags, "draw_sample", lambda seed, preprocessing: cuboid_sample())

    def make(**options):
        return PhantomBags(tmp_path, dict, **{"chests": 3, "bags": 30, "patch_size": PATCH, "patches": 3, **options})

    return make


def assert_same(one, other):
    assert torch.equal(one["image"], other["image"])
    assert torch.equal(one["label"]["mask"], other["label"]["mask"])
    assert torch.equal(one["label"]["classes"], other["label"]["classes"])
    for a, b in zip(one["label"]["boxes"], other["label"]["boxes"], strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_bag_is_the_same_for_the_same_index_whatever_was_asked_before(bags):
    one, other = bags(), bags()
    for index in (7, 0, 29):
        other[11]
        assert_same(one[index], other[index])
    assert not torch.equal(one[0]["image"], one[1]["image"])
    assert not torch.equal(one[0]["image"], bags(seed=1)[0]["image"])


def test_a_bag_has_the_shapes_and_types_that_it_says(bags):
    data = bags()
    assert len(data) == 30
    bag = data[3]
    assert bag["image"].shape == (3, 1, *PATCH) and bag["image"].dtype == torch.float32
    assert float(bag["image"].min()) >= -0.2 and float(bag["image"].max()) <= 1.2
    assert bag["label"]["mask"].shape == (3, *PATCH) and bag["label"]["mask"].dtype == torch.int64
    assert bag["label"]["classes"].shape == (3, 2) and bag["label"]["classes"].dtype == torch.float32
    for boxes in bag["label"]["boxes"]:
        assert boxes["box_index"].shape == (len(boxes["label"]), 6) == (len(boxes["texture"]), 6)


def test_boxes_are_the_extents_of_the_lesions_whose_centre_lies_in_the_patch_after_every_flip(bags):
    """Each connected part of the mask is compared with the box that scipy finds around it."""
    data = bags()
    edges = {tuple(sorted(np.subtract(c[3:], c[:3]))): number for number, c in enumerate(CUBOIDS)}
    seen, cut = 0, 0
    for index in range(len(data)):
        bag = data[index]
        for image, mask, boxes in zip(bag["image"], bag["label"]["mask"], bag["label"]["boxes"], strict=True):
            found = boxes["box_index"].numpy().astype(np.float64)
            parts, count = ndimage.label(mask.numpy())
            assert count >= len(found)
            for place in ndimage.find_objects(parts):
                low = np.array([s.start for s in place]) - 0.5
                high = np.array([s.stop for s in place]) - 0.5
                whole = ((low > -0.5) & (high < np.array(PATCH) - 0.5)).all()
                fits = (np.abs(found - np.concatenate([low, high])) < 1e-6).all(axis=1)
                if whole:
                    assert fits.sum() == 1
                    number = edges[tuple(sorted((high - low).astype(int)))]
                    assert int(boxes["texture"][fits.argmax()]) == number % 4
                    seen += 1
            for box in found:
                centre = (box[:3] + box[3:]) / 2
                assert ((centre >= -0.5) & (centre <= np.array(PATCH) - 0.5)).all()
                inner = np.clip(np.round([box[:3] + 0.5, box[3:] + 0.5]), 0, PATCH).astype(int)
                inside = tuple(slice(a, b) for a, b in zip(*inner, strict=True))
                assert mask.numpy()[inside].all()
                # The image is brighter there, so it was flipped with its mask.
                assert float(image[0][inside].mean()) > 0.35
                cut += bool((box[:3] < -0.5).any() or (box[3:] > np.array(PATCH) - 0.5).any())
    assert seen > 30 and cut > 3


def test_a_lesion_whose_centre_lies_outside_is_in_the_mask_and_not_among_the_boxes(bags):
    data = bags()
    found = 0
    for index in range(len(data)):
        label = data[index]["label"]
        for mask, boxes in zip(label["mask"], label["boxes"], strict=True):
            _, count = ndimage.label(mask.numpy())
            found += count - len(boxes["label"])
            if count == 0:
                assert len(boxes["label"]) == 0
    assert found > 3


def test_the_classes_say_what_can_be_seen_in_each_patch(bags):
    data = bags()
    said = set()
    for index in range(len(data)):
        label = data[index]["label"]
        for mask, boxes, classes in zip(label["mask"], label["boxes"], label["classes"], strict=True):
            visible = int(mask.sum()) >= 4
            subsolid = any(int(texture) in (1, 2) for texture in boxes["texture"])
            assert classes.tolist() == [float(visible), float(subsolid)]
            said.add(tuple(classes.tolist()))
    assert {(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)} <= said


def test_a_chest_smaller_than_the_patch_is_padded_with_air_at_its_end(bags):
    bag = bags(patch_size=(64, 64, 64), patches=1, bags=4)[2]
    assert bag["image"].shape == (1, 1, 64, 64, 64)
    assert int(bag["label"]["mask"].sum()) == int(cuboid_sample().mask.sum())
    assert len(bag["label"]["boxes"][0]["label"]) == len(CUBOIDS)


def test_a_chest_is_drawn_once_and_kept(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(phantom_bags, "draw_sample", lambda seed, preprocessing: drawn.append(seed) or cuboid_sample())
    bags = PhantomBags(tmp_path, dict, chests=9, bags=1)
    first, again = bags.chest(4), bags.chest(4)
    assert drawn == [4]
    for name in ("image", "mask", "lung", "box_index", "texture"):
        np.testing.assert_array_equal(getattr(first, name), getattr(cuboid_sample(), name))
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
    bags.chest(5)
    assert drawn == [4, 5]
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_two_chests_of_three_are_crowded_with_every_texture_and_with_large_nodules():
    asked = [nodules_of_chest(seed) for seed in range(60)]
    assert [crowd is None for crowd in asked] == [True, False, False] * 20
    crowds = [crowd for crowd in asked if crowd is not None]
    assert {len(crowd) for crowd in crowds} <= set(range(*CROWDED))
    for crowd in crowds:
        counts = [sum(nodule.texture == texture for nodule in crowd) for texture in ("solid", "part_solid")]
        counts += [sum(nodule.texture == texture for nodule in crowd) for texture in ("ground_glass", "calcified")]
        assert max(counts) - min(counts) <= 1
    sizes = [nodule.diameter_mm for crowd in crowds for nodule in crowd]
    large = [size for size in sizes if size is not None]
    assert 0.1 < len(large) / len(sizes) < 0.3
    assert min(large) >= 18 and max(large) > 35
    assert nodules_of_chest(7) == nodules_of_chest(7)


@pytest.mark.slow
def test_the_boxes_of_a_drawn_chest_lie_on_its_resampled_mask(monkeypatch):
    native, spacing = (2.5, 2.5, 5.0), (2.0, 2.0, 2.0)
    monkeypatch.setattr(phantom_bags, "NATIVE_GRIDS_MM", (native,))
    sample = draw_sample(11, preprocessing(spacing, load=False))
    phantom = draw_chest(11, family="train", spacing_mm=native, nodules=nodules_of_chest(11))
    assert len(sample.box_index) == len(phantom.lesions)
    assert sample.image.shape == sample.mask.shape == sample.lung.shape
    names = [TEXTURES[number].name for number in sample.texture]
    assert names == [lesion.texture for lesion in phantom.lesions]
    checked = 0
    for box, lesion in zip(sample.box_index, phantom.lesions, strict=True):
        if lesion.diameter_mm < 8:
            continue
        assert sample.lung[tuple(np.round((box[:3] + box[3:]) / 2).astype(int))]
        inner = np.round(np.clip([box[:3] - 1, box[3:] + 1], 0, sample.mask.shape)).astype(int)
        at = np.argwhere(sample.mask[tuple(slice(a, b + 1) for a, b in zip(*inner, strict=True))]) + inner[0]
        # A voxel of the grid, and half a native one: the mask was drawn on the native grid.
        slack = np.tile(1 + 0.5 * np.divide(native, spacing), 2)
        assert (np.abs(np.concatenate([at.min(0) - 0.5, at.max(0) + 0.5]) - box) <= slack).all()
        centroid_lps_mm = phantom.volume.geometry.origin_lps_mm + at.mean(0) * spacing
        assert np.linalg.norm(centroid_lps_mm - lesion.centre_lps_mm) < 1.0
        checked += 1
    assert checked >= 4
