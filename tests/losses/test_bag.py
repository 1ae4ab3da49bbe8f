from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mtnet.losses import BagClassificationLoss


def test_without_a_window_weight_the_bag_is_the_plain_mean_of_its_windows() -> None:
    logits = torch.tensor([[2.0, -1.0], [-3.0, 0.5]])
    target = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    windows = F.binary_cross_entropy_with_logits(logits, target)
    bag = F.binary_cross_entropy_with_logits(torch.tensor([-0.5, -0.25]), torch.tensor([1.0, 0.0]))
    assert float(BagClassificationLoss()(logits, target)) == pytest.approx(float(windows + bag))


def test_equal_window_weights_change_nothing() -> None:
    logits, target = torch.tensor([[2.0], [-3.0]]), torch.tensor([[1.0], [0.0]])
    weighted = torch.cat([logits, torch.full((2, 1), 7.0)], 1)
    loss = BagClassificationLoss()
    torch.testing.assert_close(loss(weighted, target), loss(logits, target))


def test_a_heavy_window_speaks_for_the_bag() -> None:
    target = torch.tensor([[1.0], [0.0]])
    loss = BagClassificationLoss()
    right = loss(torch.tensor([[4.0, 30.0], [-4.0, 0.0]]), target)
    wrong = loss(torch.tensor([[4.0, 0.0], [-4.0, 30.0]]), target)
    said = F.softplus(torch.tensor(-4.0))
    assert float(right) == pytest.approx(2 * float(said), rel=1e-4)
    assert float(wrong) == pytest.approx(float(said) + 4 + float(said), rel=1e-4)


def test_the_window_weight_learns_which_window_to_trust() -> None:
    logits = torch.tensor([[3.0, 0.0], [-3.0, 0.0]], requires_grad=True)
    BagClassificationLoss()(logits, torch.tensor([[1.0], [0.0]])).backward()
    assert logits.grad is not None
    assert float(logits.grad[0, 1]) < 0 < float(logits.grad[1, 1])


def test_channels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="4 channels; expected 2, or 3"):
        BagClassificationLoss()(torch.zeros(2, 4), torch.zeros(2, 2))
