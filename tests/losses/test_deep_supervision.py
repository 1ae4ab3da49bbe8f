from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mtnet.losses import DeepSupervisionLoss, SegmentationLoss, StructureLoss

NAMES = ("pred", "pred_aux_s2", "pred_aux_s4", "pred_aux_s8")


def maps(count: int = 4, channels: int = 1, dims: int = 2) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(2, channels, *(16 >> i,) * dims, generator=draw).requires_grad_()
        for i, name in enumerate(NAMES[:count])
    }


MASK = (torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1)) < 0.3).float()


def test_four_answers_have_nnunets_weights_on_the_whole_truth() -> None:
    given, loss = maps(), StructureLoss()
    expected = sum(
        weight * loss(F.interpolate(given[name], size=(16, 16), mode="bilinear"), MASK)
        for name, weight in zip(NAMES, (8 / 15, 4 / 15, 2 / 15, 1 / 15), strict=True)
    )
    torch.testing.assert_close(DeepSupervisionLoss(loss, NAMES)(given, MASK), expected)


def test_weights_of_ones_own_are_normalised() -> None:
    given, loss = maps(2), StructureLoss()
    fine, coarse = (DeepSupervisionLoss(loss, NAMES[:2], w)(given, MASK) for w in ((1, 0), (3, 3)))
    torch.testing.assert_close(fine, loss(given["pred"], MASK))
    assert not torch.allclose(fine, coarse)


def test_without_auxiliary_answers_the_output_counts_alone() -> None:
    given = maps(1)
    torch.testing.assert_close(
        DeepSupervisionLoss(StructureLoss(), NAMES)(given, MASK), StructureLoss()(given["pred"], MASK)
    )


@pytest.mark.parametrize("dims", [2, 3])
def test_named_terms_stay_named_and_every_answer_learns(dims: int) -> None:
    given = maps(3, channels=2, dims=dims)
    target = torch.ones(2, *(16,) * dims, dtype=torch.long)
    terms = DeepSupervisionLoss(SegmentationLoss(), NAMES)(given, target)
    assert isinstance(terms, dict) and set(terms) == {"dice", "cross_entropy"}
    torch.stack(list(terms.values())).sum().backward()
    assert all(x.grad is not None and float(x.grad.abs().sum()) > 0 for x in given.values())


def test_wrong_weights_are_refused() -> None:
    for names, weights in (((), None), (NAMES, (1.0,)), (NAMES[:2], (0.0, 1.0)), (NAMES[:2], (1.0, -1.0))):
        with pytest.raises(ValueError, match="the first above 0"):
            DeepSupervisionLoss(StructureLoss(), names, weights)
