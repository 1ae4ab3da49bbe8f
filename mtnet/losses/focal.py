"""Focal loss: cross-entropy that turns away from what is already easy (Lin 2017, arXiv 1708.02002)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_EASE_FLOOR = 1e-12
"""Least modulating factor: below gamma 1 the slope of a power at exactly 0 is infinite, and its gradient NaN."""


def softmax_focal(logits: Tensor, target: Tensor, gamma: float = 2.0, class_weight: Tensor | None = None) -> Tensor:
    """Focal loss of every element, -alpha_y (1 - p_y)^gamma ln p_y with p = softmax over channels.

    This is the multi-class form in which only the true class counts; not MONAI's ``use_softmax``, which is this divided
    by the number of classes, nor the one-against-rest sigmoid form (``sigmoid_focal``).

    Args:
        logits: ``(B, C, *S)``, S may be empty.
        target: ``(B, *S)`` class numbers; a negative number is unknown and gives 0.
        gamma: focusing power; 0 is weighted cross-entropy.
        class_weight: ``(C,)``, alpha of each class.

    Returns:
        ``(B, *S)`` in float32.
    """
    known = target >= 0
    labels = target.clamp_min(0).long()
    log_p = F.log_softmax(logits.float(), 1).gather(1, labels[:, None])[:, 0]
    loss = -((1 - log_p.exp()).clamp_min(_EASE_FLOOR) ** gamma) * log_p
    if class_weight is not None:
        loss = loss * class_weight.to(loss)[labels]
    return loss * known


def sigmoid_focal(logits: Tensor, target: Tensor, gamma: float = 2.0, alpha: float | None = None) -> Tensor:
    """Focal loss of every element, each a yes-or-no question: -alpha_t (1 - p_t)^gamma ln p_t, p = sigmoid.

    Args:
        logits: any shape.
        target: the same shape, 0 or 1.
        gamma: focusing power.
        alpha: weight of 1 in 0..1, 1 - alpha that of 0 (0.25 in RetinaNet); both 1 if None.

    Returns:
        The same shape in float32.
    """
    logits, target = logits.float(), target.float()
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p = logits.sigmoid()
    loss = bce * (p + target - 2 * p * target).clamp_min(_EASE_FLOOR) ** gamma
    if alpha is not None:
        loss = loss * (alpha * target + (1 - alpha) * (1 - target))
    return loss


def inverse_frequency(counts: Sequence[float]) -> list[float]:
    """Class weights N / (classes * n_c) from the number of samples of each class; all 1 where they are equal.

    Raises:
        ValueError: a class without samples.
    """
    if not counts or min(counts) < 1:
        raise ValueError(f"counts is {list(counts)}; expected at least one sample of each class.")
    return [sum(counts) / (len(counts) * count) for count in counts]


class FocalLoss(nn.Module):
    """Mean ``softmax_focal`` over the elements whose class is known.

    Args:
        gamma: focusing power.
        class_weight: alpha of each class, in channel order.
    """

    class_weight: Tensor | None

    def __init__(self, gamma: float = 2.0, class_weight: Sequence[float] | None = None) -> None:
        super().__init__()
        self.gamma = gamma
        weight = None if class_weight is None else torch.tensor(class_weight, dtype=torch.float32)
        self.register_buffer("class_weight", weight, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss (scalar) of ``logits`` ``(B, C, *S)`` against class numbers ``(B, *S)`` or ``(B, 1, *S)``."""
        if target.ndim == logits.ndim and target.shape[1] == 1:
            target = target[:, 0]
        loss = softmax_focal(logits, target, self.gamma, self.class_weight)
        return loss.sum() / (target >= 0).sum().clamp_min(1)
