from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mtnet.losses import StructureLoss

MASK = torch.zeros(1, 1, 4, 4)
MASK[..., 1:3, 1:3] = 1
HALVES = torch.tensor([1.0, 1.0, -1.0, -1.0]).expand(1, 1, 4, 4)
CASES: dict[str, tuple[Tensor, float, float]] = {
    "right": (2 * MASK - 1, 0.658042, 0.658042),
    "zero": (torch.zeros(1, 1, 4, 4), 1.275696, 1.275696),
    "halves": (HALVES, 1.395810, 1.395810),
    "nothing": (-torch.ones(1, 1, 4, 4), 1.711109, 1.299813),
}


@pytest.mark.parametrize("name", CASES)
def test_the_structure_loss_gives_the_tabled_values_as_meant_and_as_published(name: str) -> None:
    logits, meant, published = CASES[name]
    assert float(StructureLoss()(logits, MASK)) == pytest.approx(meant, abs=2e-6)
    assert float(StructureLoss(legacy_reduction=True)(logits, MASK)) == pytest.approx(published, abs=2e-6)


def test_each_image_of_a_batch_has_its_own_sums() -> None:
    logits = torch.cat([2 * MASK - 1, torch.ones_like(MASK)])
    target = torch.cat([MASK, torch.zeros_like(MASK)])
    assert float(StructureLoss()(logits, target)) == pytest.approx(1.446272, abs=2e-6)


def test_published_code_takes_the_mean_of_bce_over_the_batch() -> None:
    logits = torch.cat([-torch.ones_like(MASK), 2 * MASK - 1])
    both = float(StructureLoss(legacy_reduction=True)(logits, torch.cat([MASK, MASK])))
    assert both == pytest.approx((1.299813 + 0.658042) / 2, abs=2e-6)


def test_in_3d_a_slice_alone_is_weighed_as_a_volume() -> None:
    volume = torch.zeros(1, 1, 5, 5, 5)
    volume[..., 1:4, 1:4, 2] = 1
    mean = 9 / 31**3
    weight = 1 + 5 * (mean - volume).abs()
    expected = (weight * volume).sum() / weight.sum()
    big = 50.0
    loss = StructureLoss()(torch.full_like(volume, -big), volume)
    assert float(loss) == pytest.approx(big * float(expected) + 1 - 1 / (float((weight * volume).sum()) + 1), rel=1e-5)


def test_unknown_pixels_neither_cost_nor_teach() -> None:
    logits = torch.randn(1, 2, 6, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = torch.ones(1, 6, 6, dtype=torch.long)
    target[:, 3:] = -1
    StructureLoss()(logits, target).backward()
    assert logits.grad is not None
    assert float(logits.grad[:, :, 3:].abs().sum()) == 0 < float(logits.grad[:, :, :3].abs().sum())


def test_an_even_window_is_refused() -> None:
    with pytest.raises(ValueError, match="odd number"):
        StructureLoss(window=30)


@pytest.mark.parametrize("window", [1, 3, 7, 21, 31])
def test_the_surroundings_are_torch_s_mean_of_the_window(window: int) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 40, 56, generator=draw)
    mask = (torch.rand(2, 1, 40, 56, generator=draw) > 0.7).float()
    mean = functional.avg_pool2d(mask, window, stride=1, padding=window // 2)
    weight = 1 + 5 * (mean - mask).abs()
    entropy = functional.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    inter = (weight * logits.sigmoid() * mask).sum((2, 3))
    union = (weight * (logits.sigmoid() + mask)).sum((2, 3)) - inter
    expected = (weight * entropy).sum((2, 3)) / weight.sum((2, 3)) + 1 - (inter + 1) / (union + 1)
    assert float(StructureLoss(window=window)(logits, mask)) == pytest.approx(float(expected.mean()), rel=1e-5)
