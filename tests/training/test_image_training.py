"""Targets of 2D images."""

from __future__ import annotations

import torch

from mtnet.training import ImageTargets, boxes_of_mask


def test_each_component_of_a_mask_has_a_box_and_specks_have_none():
    mask = torch.zeros(1, 10, 12)
    mask[0, 2:5, 3:9] = 1
    mask[0, 5, 9] = 1
    mask[0, 8:10, 0:2] = 1
    mask[0, 0, 11] = 1
    found = boxes_of_mask(mask, smallest=2)
    # The pixel that touches by a corner belongs to the first; half-open, in continuous index space.
    assert found["box_index"].tolist() == [[1.5, 2.5, 5.5, 9.5], [7.5, -0.5, 9.5, 1.5]]
    assert found["label"].tolist() == [0, 0]
    assert boxes_of_mask(mask)["box_index"].shape == (3, 4)
    assert boxes_of_mask(torch.zeros(1, 4, 4))["box_index"].shape == (0, 4)


def test_a_batch_becomes_the_image_and_targets_by_output():
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, 0, 2:6, 2:6] = 1
    batch = {"image": torch.zeros(2, 3, 8, 8), "label": mask}
    image, targets = ImageTargets({"pred": "label", "classification": "class"}, {"lesions": "label"})(batch, "cpu")
    assert image.shape == (2, 3, 8, 8) and torch.equal(targets["pred"], mask)
    assert [len(item["label"]) for item in targets["lesions"]] == [1, 0]
    assert "classification" not in targets
