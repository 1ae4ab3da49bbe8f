"""Cross-entropy plus Dice of the foreground, as nnU-Net combines them."""

from __future__ import annotations

from torch import Tensor, nn

from mtnet.losses.dice import DiceLoss
from mtnet.losses.focal import FocalLoss


class CrossEntropyDiceLoss(nn.Module):
    """Terms ``cross_entropy`` and ``dice`` of a softmax output; Dice over the batch, without the background
    (nnU-Net, Isensee et al., doi 10.1038/s41592-020-01008-z).

    Args:
        dice_weight: factor of the second term.
    """

    def __init__(self, dice_weight: float = 1.0) -> None:
        super().__init__()
        self.dice_weight = dice_weight
        self.dice = DiceLoss(include_background=False, over_batch=True)
        # Without focusing the focal loss is the cross-entropy over what is known.
        self.cross_entropy = FocalLoss(gamma=0.0)

    def forward(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The two terms of ``logits`` ``(B, C, *S)`` against class numbers ``(B, *S)`` or ``(B, 1, *S)``; a negative
        one is unknown."""
        entropy = self.cross_entropy(logits, target)
        return {"cross_entropy": entropy, "dice": self.dice_weight * self.dice(logits, target)}
