"""Bags in which some classes of some windows are unknown."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from mtnet.losses import BagClassificationLoss


def test_unknown_classes_of_windows_cost_nothing_and_one_window_that_has_it_tells_of_the_bag():
    logits = torch.tensor([[1.0, -2.0, 0.0], [0.5, 1.5, 0.0]], requires_grad=True)
    nan = math.nan
    target = torch.tensor([[1.0, nan], [nan, nan]])
    loss = BagClassificationLoss()(logits, target)
    expected = F.softplus(-logits[0, 0]) + F.softplus(-logits[:, 0].mean())
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert (logits.grad[:, 1] == 0).all()
    # A window without it says nothing of a bag with an unknown one.
    negative = BagClassificationLoss()(logits, torch.tensor([[0.0, nan], [nan, nan]]))
    torch.testing.assert_close(negative, F.softplus(logits[0, 0]))
    nothing = BagClassificationLoss()(logits, torch.full((2, 2), nan))
    assert nothing == 0 and torch.isfinite(nothing)
