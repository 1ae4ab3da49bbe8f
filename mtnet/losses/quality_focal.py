"""Quality focal loss: focal loss towards a soft target such as an IoU (Li 2020, arXiv 2006.04388)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def quality_focal(logits: Tensor, target: Tensor, beta: float = 2.0) -> Tensor:
    """|y - sigmoid(x)|^beta * BCE(sigmoid(x), y) of every element.

    Args:
        logits: any shape.
        target: the same shape, y in 0..1.
        beta: focusing power, 2 in the paper.

    Returns:
        The same shape in float32.
    """
    logits, target = logits.float(), target.float()
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (target - logits.sigmoid()).abs() ** beta * bce
