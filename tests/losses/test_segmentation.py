from __future__ import annotations

import pytest
import torch
from monai.losses import GeneralizedDiceLoss as MonaiGeneralizedDice
from torch import Tensor
from torch.nn import functional as F

from mtnet.losses import SegmentationLoss


def drawn(dims: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    shape = (6, 5, 4)[:dims]
    return torch.randn(2, 3, *shape, generator=draw), torch.randint(0, 3, (2, *shape), generator=draw)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_terms_are_monais_generalised_dice_and_torchs_cross_entropy(dims: int) -> None:
    logits, target = drawn(dims)
    terms = SegmentationLoss()(logits, target)
    one_hot = F.one_hot(target, 3).movedim(-1, 1).float()
    torch.testing.assert_close(terms["dice"], MonaiGeneralizedDice(softmax=True, batch=True)(logits, one_hot))
    torch.testing.assert_close(terms["cross_entropy"], F.cross_entropy(logits, target))


@pytest.mark.parametrize("unknown", [-1, -100])
def test_voxels_with_any_negative_number_neither_cost_nor_teach(unknown: int) -> None:
    logits, target = drawn(3)
    logits.requires_grad_()
    target[:, 3:] = unknown
    terms = SegmentationLoss()(logits, target)
    kept = SegmentationLoss()(logits[:, :, :3], target[:, :3])
    for name, value in terms.items():
        torch.testing.assert_close(value, kept[name])
    sum(terms.values()).backward()
    assert logits.grad is not None
    assert float(logits.grad[:, :, 3:].abs().sum()) == 0 < float(logits.grad[:, :, :3].abs().sum())


def test_a_false_lesion_on_an_empty_window_costs() -> None:
    empty = torch.zeros(1, 8, 8, dtype=torch.long)
    quiet = torch.tensor([6.0, -6.0]).reshape(1, 2, 1, 1).expand(1, 2, 8, 8)
    loss = SegmentationLoss()
    assert float(loss(-quiet, empty)["cross_entropy"]) > 11.9
    assert float(loss(quiet, empty)["cross_entropy"]) < 1e-4
