from __future__ import annotations

import pytest
import torch
from monai.losses import SSIMLoss as MonaiSSIM
from torch import Tensor

from mtnet.losses import SSIMLoss


def pair(dims: int, channels: int = 1) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    shape = (2, channels, *(14, 17, 12)[:dims])
    truth = torch.rand(shape, generator=draw)
    return (truth + 0.2 * torch.randn(shape, generator=draw)).requires_grad_(), truth


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("scale", [1.0, 1400.0])
def test_the_loss_is_monais(dims: int, scale: float) -> None:
    predicted, truth = pair(dims)
    ours = SSIMLoss(dims, data_range=scale)(predicted * scale, truth * scale)
    torch.testing.assert_close(ours, MonaiSSIM(dims, data_range=scale)(predicted * scale, truth * scale))


@pytest.mark.parametrize("dims", [2, 3])
def test_equal_images_cost_nothing_and_every_voxel_teaches(dims: int) -> None:
    predicted, truth = pair(dims, channels=2)
    loss = SSIMLoss(dims)
    assert float(loss(truth, truth)) == pytest.approx(0, abs=1e-6)
    loss(predicted, truth).backward()
    assert predicted.grad is not None and bool((predicted.grad != 0).all())


def test_windows_with_padding_do_not_count() -> None:
    predicted, truth = pair(2)
    valid = torch.ones(2, 1, 14, 17)
    valid[..., 13:] = 0
    loss = SSIMLoss(2)
    torch.testing.assert_close(loss(predicted, truth, valid), loss(predicted[..., :13], truth[..., :13]))
    assert float(loss(predicted.detach(), truth, torch.zeros_like(valid))) == 0


def test_half_precision_answers_are_judged_in_float32() -> None:
    predicted, truth = pair(2)
    with torch.autocast("cpu", torch.bfloat16):
        under = SSIMLoss(2)(predicted, truth)
    assert torch.equal(under, SSIMLoss(2)(predicted, truth))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="smaller than SSIM's window of 11"):
        SSIMLoss(2)(torch.zeros(1, 1, 8, 20), torch.zeros(1, 1, 8, 20))
    with pytest.raises(ValueError, match="one shape"):
        SSIMLoss(3)(torch.zeros(1, 1, 20, 20), torch.zeros(1, 1, 20, 20))
    with pytest.raises(ValueError, match="odd number"):
        SSIMLoss(2, window=4)
    with pytest.raises(ValueError, match="data_range"):
        SSIMLoss(2, data_range=0)
