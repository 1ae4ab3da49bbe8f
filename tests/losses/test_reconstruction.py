from __future__ import annotations

import pytest
import torch

from mtnet.losses import MaskedL1Loss


def test_only_valid_voxels_count() -> None:
    predicted = torch.tensor([[[1.0, 2.0, 50.0]], [[0.0, 70.0, 90.0]]])
    target = torch.zeros(2, 1, 3)
    valid = torch.tensor([[[True, True, False]], [[True, False, False]]])
    loss = MaskedL1Loss()
    assert float(loss(predicted, target, valid)) == pytest.approx(1.0)
    assert float(loss(predicted, target)) == pytest.approx(213 / 6)
    assert float(loss(predicted, target, torch.zeros_like(valid))) == 0


def test_one_mask_serves_all_channels() -> None:
    predicted = torch.stack([torch.tensor([1.0, 9.0]), torch.tensor([3.0, 9.0])])[None]
    valid = torch.tensor([[[1.0, 0.0]]])
    assert float(MaskedL1Loss()(predicted, torch.zeros(1, 2, 2), valid)) == pytest.approx(2.0)


def test_images_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        MaskedL1Loss()(torch.zeros(1, 1, 4), torch.zeros(1, 4))
