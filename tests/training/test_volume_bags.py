"""Chests of a manifest as bags of patches, and as whole chests to be measured against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mtnet.systems import chest_ct
from mtnet.training import ChestTargets, PhantomBags, VolumeBags, chest_bags, prepare_bag, samples_of
from mtnet.training.samples import BoxesOnImaged, LoadSampled, collate_samples
from mtnet.training.volume_bags import prepared_volume
from tests.training.made import write_chests

GRID_MM = (4.0, 4.0, 4.0)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module", name="manifest")
def _manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chests(tmp_path_factory.mktemp("chests"))


def preprocessing():
    return chest_ct.preprocessing(GRID_MM, load=False)


def test_a_volume_comes_onto_the_network_s_grid_with_its_mask_and_boxes(manifest):
    sample = prepared_volume(samples_of(manifest, "train")[0], preprocessing())
    assert sample.image.shape == sample.mask.shape == sample.lung.shape
    assert sample.image.min() >= 0 and sample.image.max() <= 1 and 0.1 < sample.lung.mean() < 0.9
    assert set(np.unique(sample.mask)) == {0, 1} and (sample.texture == -1).all()
    # Every box lies around its part of the mask.
    for box in sample.box_index:
        inside = tuple(slice(round(a + 0.5), round(b + 0.5)) for a, b in zip(box[:3], box[3:], strict=True))
        assert sample.mask[inside].any()


def test_what_a_volume_s_sample_does_not_tell_is_unknown_and_off(manifest, tmp_path):
    known, unmasked = samples_of(manifest, "train")
    nothing = samples_of(manifest, "val")[0]
    options = {"bags": 2, "patch_size": (16, 16, 16), "patches": 2}
    seen = []
    for item in (known, unmasked, nothing):
        label = VolumeBags([item], tmp_path, preprocessing(), **options)[0]["label"]
        seen.append((bool((label["mask"] >= 0).any()), label["boxes"][0] is not None))
    assert seen == [(True, True), (False, True), (False, False)]
    bag = VolumeBags([nothing], tmp_path, preprocessing(), **options)[1]
    image, targets = prepare_bag(bag)
    assert targets["lesions"] == [None, None] and bool(targets["classification"].isnan().all())
    network = chest_ct.network(tasks=chest_ct.TASKS)
    total, terms = chest_ct.loss()(network(image), targets)
    assert torch.isfinite(total) and terms["reconstruction"] > 0 and terms["lesions"] == terms["pred"] == 0
    total.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_boxes_come_from_the_mask_where_nobody_marked_them(manifest):
    item = samples_of(manifest, "train")[0]
    marked = prepared_volume(item, preprocessing()).box_index
    found = prepared_volume({key: value for key, value in item.items() if key != "boxes"}, preprocessing()).box_index
    assert len(found) and all(np.abs(marked - box).max(axis=1).min() <= 2.5 for box in found)


def test_a_volume_is_prepared_once_and_again_when_its_targets_change(manifest, tmp_path):
    item = samples_of(manifest, "train")[0]
    bags = VolumeBags([item], tmp_path, preprocessing(), bags=1)
    bags.chest(0)
    files = sorted(tmp_path.iterdir())
    VolumeBags([item], tmp_path, dict, bags=1).chest(0)
    assert sorted(tmp_path.iterdir()) == files and len(files) == 4
    VolumeBags([{**item, "boxes": []}], tmp_path, preprocessing(), bags=1).chest(0)
    assert len(list(tmp_path.iterdir())) == 8


def test_without_samples_chests_are_drawn(tmp_path):
    assert type(chest_bags([], tmp_path, dict, chests=4, bags=2)) is PhantomBags
    assert isinstance(chest_bags([{"image": "x"}], tmp_path, dict, chests=4, bags=2), VolumeBags)


def test_a_whole_chest_is_measured_by_its_mask_boxes_and_image_in_hu(manifest):
    outputs = chest_ct.network().outputs
    seen = {}
    for split, place in (("train", 0), ("train", 1), ("val", 0)):
        item = BoxesOnImaged()(preprocessing()(LoadSampled()(samples_of(manifest, split)[place])))
        image, targets = ChestTargets(outputs)(collate_samples([item]), "cpu")
        seen[split, place] = targets
        assert float(targets["reconstruction"].min()) == -1000.0 and targets["reconstruction"].shape == image.shape
    full, unmasked, nothing = seen.values()
    assert full["pred"][0].shape == full["reconstruction"].shape[1:] and len(full["lesions"][0]["label"]) > 0
    assert full["classification"][0, 0] == 1.0 and bool(full["classification"][0, 1].isnan())
    assert "pred" not in unmasked and len(unmasked["lesions"][0]["label"]) > 0
    assert "lesions" not in nothing and bool(nothing["classification"].isnan().all())
