"""Cross-entropy of image-level classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtnet.structures import OutputSpec


class ClassificationLoss(nn.Module):
    """Mean cross-entropy over what is known of a global output with labels; a learned window weight is left alone.

    Args:
        spec: the output; ``softmax`` for classes that exclude each other, else each is a question of its own (BCE).

    Raises:
        ValueError: it is no global output with labels.
    """

    def __init__(self, spec: OutputSpec) -> None:
        super().__init__()
        if spec.kind != "global" or not spec.labels:
            raise ValueError(f"ClassificationLoss needs a global output with labels; {spec.name!r} is {spec.kind!r}.")
        self.classes = len(spec.labels)
        self.exclusive = spec.activation == "softmax"

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss (scalar) of ``logits`` ``(B, C)`` or ``(B, C + 1)``.

        ``target`` is class numbers ``(B,)`` or ``(B, 1)``, negative for unknown, or of classes that do not exclude each
        other ``(B, C)`` in 0..1, NaN for unknown. Where nothing is known it is 0, with a zero gradient.
        """
        values = logits[:, : self.classes].float()
        if self.exclusive:
            numbers = target.reshape(len(values)).long()
            known = (numbers >= 0).float()
            loss = F.cross_entropy(values, numbers.clamp_min(0), reduction="none")
        else:
            known = (~torch.isnan(target)).float()
            loss = F.binary_cross_entropy_with_logits(values, target.float().nan_to_num(0.0), reduction="none")
        return (loss * known).sum() / known.sum().clamp_min(1)
