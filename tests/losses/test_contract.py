"""What every loss term promises: float32 numbers out of half-precision answers, and zero where nothing is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtnet.losses import (
    BagClassificationLoss,
    BinarySegmentationLoss,
    ClassificationLoss,
    DenseDetectionLoss,
    DiceLoss,
    FocalLoss,
    GaussianRegressionLoss,
    GeneralizedDiceLoss,
    MaskedL1Loss,
    RegressionLoss,
    SegmentationLoss,
    SSIMLoss,
    StructureLoss,
)
from mtnet.structures import Label, OutputSpec

LABELS = (Label(0, "benign"), Label(1, "malignant"), Label(2, "normal"))
BOXES = OutputSpec("boxes", "boxes", labels=(Label(0, "nodule"),), strides=(4,))
MASK = (torch.arange(2 * 8 * 8).reshape(2, 8, 8) % 3 == 0).long()
NO_BOX = {"box_index": torch.zeros(0, 4), "label": torch.zeros(0, dtype=torch.long)}
BOX = {"box_index": torch.tensor([[1.0, 1.0, 5.0, 5.0]]), "label": torch.tensor([0])}

# Loss, shape of the answer, a target, and a target that says nothing at all.
CASES: dict[str, tuple[nn.Module, tuple[int, ...], Any, Any]] = {
    "dice": (DiceLoss(), (2, 2, 8, 8), MASK, torch.full_like(MASK, -1)),
    "generalised dice": (GeneralizedDiceLoss(), (2, 2, 8, 8), MASK, torch.full_like(MASK, -1)),
    "segmentation": (SegmentationLoss(), (2, 2, 8, 8), MASK, torch.full_like(MASK, -1)),
    "binary segmentation": (BinarySegmentationLoss(), (2, 1, 8, 8), MASK[:, None], None),
    "structure": (StructureLoss(), (2, 2, 8, 8), MASK, torch.full_like(MASK, -1)),
    "published structure": (StructureLoss(True), (2, 2, 8, 8), MASK, torch.full_like(MASK, -1)),
    "structure 3d": (StructureLoss(), (1, 1, 4, 5, 6), torch.ones(1, 1, 4, 5, 6), None),
    "smooth l1": (RegressionLoss(), (2, 1), torch.tensor([1.0, 3.0]), torch.full((2,), float("nan"))),
    "gaussian": (GaussianRegressionLoss(), (2, 2), torch.tensor([1.0, 3.0]), torch.full((2,), float("nan"))),
    "ssim": (SSIMLoss(2, window=7), (2, 1, 8, 8), MASK[:, None].float(), None),
    "focal": (FocalLoss(), (2, 3), torch.tensor([0, 2]), None),
    "classes": (
        ClassificationLoss(OutputSpec("c", "global", LABELS, activation="softmax")),
        (2, 3),
        torch.tensor([0, 2]),
        torch.tensor([-1, -1]),
    ),
    "classes that may overlap": (
        ClassificationLoss(OutputSpec("c", "global", LABELS, activation="sigmoid")),
        (2, 4),
        torch.tensor([[1.0, 0.0, 1.0], [0.0, float("nan"), 1.0]]),
        torch.full((2, 3), float("nan")),
    ),
    "bag": (BagClassificationLoss(), (2, 3), torch.tensor([[1.0, 0.0], [0.0, 0.0]]), None),
    "reconstruction": (MaskedL1Loss(), (2, 1, 8, 8), torch.ones(2, 1, 8, 8), None),
    "detection": (DenseDetectionLoss(BOXES, 2), (2, 6, 2, 2), [BOX, NO_BOX], [None, None]),
}


def answer(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return drawn.to(dtype).requires_grad_()


def terms_of(loss: nn.Module, logits: Tensor, target: Any) -> dict[str, Tensor]:
    said = loss({"boxes_s4": logits}, target) if isinstance(loss, DenseDetectionLoss) else loss(logits, target)
    return said if isinstance(said, dict) else {"loss": said}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_every_term_is_a_finite_float32_number_that_teaches(name: str, dtype: torch.dtype) -> None:
    loss, shape, target, _ = CASES[name]
    logits = answer(shape, dtype)
    terms = terms_of(loss, logits, target)
    for term in terms.values():
        assert term.shape == () and term.dtype == torch.float32 and bool(torch.isfinite(term))
    torch.stack(list(terms.values())).sum().backward()
    assert logits.grad is not None and bool(torch.isfinite(logits.grad).all())
    assert float(logits.grad.float().abs().sum()) > 0


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[3] is not None])
def test_where_nothing_is_known_nothing_is_taught_and_nothing_becomes_nan(name: str) -> None:
    loss, shape, _, nothing = CASES[name]
    logits = answer(shape)
    terms = terms_of(loss, logits, nothing)
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    assert logits.grad is not None and float(logits.grad.abs().sum()) == 0
    assert float(total.detach()) == pytest.approx(0, abs=1e-6)
