"""Classification of windows and of the bag that they form."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BagClassificationLoss(nn.Module):
    """Mean binary cross-entropy of every window, plus that of the bag: what the engine's pooling will make of them.

    The bag's logit of a class is the mean over windows weighted by the softmax of the learned window weight
    (attention pooling, Ilse et al., arXiv 1802.04712, without the gate); a bag has a class if one of its
    windows has it.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss (scalar) of the windows of one image.

        Args:
            logits: ``(P, C + 1)`` with a window weight, or ``(P, C)``, then every window weighs the same.
            target: ``(P, C)`` in 0..1, NaN for unknown.

        Raises:
            ValueError: the channels do not fit.
        """
        classes = target.shape[1]
        if logits.shape[1] not in (classes, classes + 1):
            raise ValueError(
                f"logits have {logits.shape[1]} channels; expected {classes}, or {classes + 1} with a window weight."
            )
        values = logits[:, :classes].float()
        weight = logits[:, classes].float() if logits.shape[1] > classes else torch.zeros_like(values[:, 0])
        bag = (torch.softmax(weight, 0)[:, None] * values).sum(0)
        wanted = target.float()
        known = ~wanted.isnan()
        present = wanted.nan_to_num().amax(0)
        # A window that has it is enough to know of the bag.
        told = known.all(0) | (present > 0)
        return _entropy(values, wanted, known) + _entropy(bag, present, told)


def _entropy(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Mean BCE over what is known; 0 with a zero gradient where nothing is."""
    if not bool(known.any()):
        return logits.sum() * 0
    return F.binary_cross_entropy_with_logits(logits[known], target[known])
