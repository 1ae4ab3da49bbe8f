from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from mtnet.losses import MaskedL1Loss, MultiTaskLoss
from mtnet.systems.chest_ct import HU_WINDOW, preprocessing
from mtnet.training import AutocastInferer, ItemsInOrder, TrainerLoss, one_bag, prepare_bag


def test_a_batch_is_one_bag():
    bag = {"image": torch.zeros(2, 1, 4, 4, 4)}
    assert one_bag([bag]) is bag
    with pytest.raises(ValueError, match="batch_size to 1"):
        one_bag([bag, bag])


def test_the_image_to_redraw_is_what_preprocessing_got_clipped_to_the_window():
    hu = np.linspace(-2000, 2000, 64).reshape(4, 4, 4)
    image = MetaTensor(torch.as_tensor(hu, dtype=torch.float32), affine=torch.diag(torch.tensor([-1.5, -1.5, 1.5, 1])))
    prepared = preprocessing(load=False)({"image": image})["image"].as_tensor()
    boxes = {"box_index": torch.zeros(0, 6), "label": torch.zeros(0), "texture": torch.zeros(0)}
    label = {"mask": torch.ones(1, 4, 4, 4), "boxes": [boxes], "classes": torch.ones(1, 2)}
    given, targets = prepare_bag({"image": prepared[None], "label": label}, "cpu", non_blocking=True)
    assert torch.equal(given[0], prepared)
    assert list(targets) == ["pred", "lesions", "classification", "reconstruction"]
    np.testing.assert_allclose(targets["reconstruction"][0, 0].numpy(), hu.clip(*HU_WINDOW), atol=1e-3)
    assert targets["lesions"][0]["box_index"].shape == (0, 6)


@pytest.mark.parametrize(("precision", "expected"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)])
def test_the_network_is_called_in_the_asked_precision(precision, expected):
    linear = nn.Linear(4, 4)
    assert AutocastInferer(precision)(torch.zeros(1, 4), linear).dtype == expected
    assert linear.weight.dtype == torch.float32


def test_the_trainers_loss_is_the_total_and_keeps_the_terms():
    loss = TrainerLoss(MultiTaskLoss({"a": MaskedL1Loss(), "b": MaskedL1Loss()}, {"a": 2.0, "b": 0.5}))
    outputs = {"a": torch.full((1, 1, 3), 3.0, requires_grad=True), "b": torch.full((1, 1, 3), 4.0)}
    total = loss(outputs, {"a": torch.zeros(1, 1, 3), "b": torch.zeros(1, 1, 3)})
    total.backward()
    assert total.item() == 8.0
    assert loss.terms == {"a": 3.0, "b": 4.0}


def test_items_come_in_order_from_where_a_training_stopped():
    items = ItemsInOrder(range(5))
    assert list(items) == [0, 1, 2, 3, 4] and len(items) == 5
    items.first = 3
    assert list(items) == [3, 4] and len(items) == 2
