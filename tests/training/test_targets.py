"""Targets of each output, as its OutputSpec says."""

from __future__ import annotations

import pytest
import torch

from mtnet.structures import Label, OutputSpec
from mtnet.systems import breast_ultrasound, res_mtnet, yolo_med
from mtnet.training import SampleTargets, boxes_of_mask


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
    mask = torch.zeros(1, 8, 8)
    mask[0, 2:6, 2:6] = 1
    batch = {
        "image": torch.zeros(3, 3, 8, 8),
        "label": [mask, None, torch.zeros(1, 8, 8)],
        "class": ["malignant", "normal", None],
    }
    outputs = (*breast_ultrasound.network().outputs, yolo_med.DETECTION)
    image, targets = SampleTargets(outputs)(batch, "cpu")
    assert image.shape == (3, 3, 8, 8) and list(targets) == ["pred", "classification", "lesions"]
    assert torch.equal(targets["pred"][0], mask) and targets["pred"][1] is None
    assert targets["classification"].tolist() == [1, 2, -1]
    assert [None if item is None else len(item["label"]) for item in targets["lesions"]] == [1, None, 0]


def test_what_no_item_of_a_batch_knows_has_no_target():
    outputs = (*breast_ultrasound.network().outputs, yolo_med.DETECTION, res_mtnet.DIAMETER)
    _, targets = SampleTargets(outputs)({"image": torch.zeros(1, 3, 8, 8), "label": [None]})
    assert targets == {}


def test_marked_boxes_are_taken_where_they_are_preferred_or_where_there_is_no_mask():
    boxes = torch.tensor([[0.5, 0.5, 3.5, 3.5], [3.5, 3.5, 6.5, 6.5]])
    mask = torch.zeros(1, 8, 8)
    mask[0, 1:7, 1:7] = 1
    batch = {"image": torch.zeros(2, 3, 8, 8), "label": [mask, None], "boxes": [boxes, boxes]}
    for preferred, counts in (("label", [1, 2]), ("boxes", [2, 2])):
        _, targets = SampleTargets([yolo_med.DETECTION], preferred)(batch)
        assert [len(item["box_index"]) for item in targets["lesions"]] == counts
    with pytest.raises(ValueError, match="expected label or boxes"):
        SampleTargets([yolo_med.DETECTION], "mask")


def test_values_are_found_by_the_output_s_name_with_or_without_its_unit():
    batch = {"image": torch.zeros(2, 3, 8, 8), "diameter_mm": [8.0, None], "reader_rating": [None, 4.0]}
    _, targets = SampleTargets([res_mtnet.DIAMETER, res_mtnet.RATING])(batch)
    torch.testing.assert_close(targets["diameter"], torch.tensor([8.0, torch.nan]), equal_nan=True)
    torch.testing.assert_close(targets["reader_rating"], torch.tensor([torch.nan, 4.0]), equal_nan=True)


def test_classes_of_a_sigmoid_output_are_rows_and_an_unknown_one_is_not_a_number():
    spec = OutputSpec("findings", "global", (Label(0, "nodule"), Label(1, "mass")), activation="sigmoid")
    _, targets = SampleTargets([spec])({"image": torch.zeros(2, 1, 4, 4), "class": ["mass", None]})
    torch.testing.assert_close(targets["findings"], torch.tensor([[0.0, 1.0], [torch.nan, torch.nan]]), equal_nan=True)


def test_a_class_that_the_output_does_not_have_is_named_with_those_it_has():
    with pytest.raises(ValueError, match="class 'cyst'; the output 'classification' has benign, malignant, normal"):
        SampleTargets([breast_ultrasound.CLASSIFICATION])({"image": torch.zeros(1, 3, 4, 4), "class": ["cyst"]})
