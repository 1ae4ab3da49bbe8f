"""Overlap and cross-entropy of a label map, as two named terms."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from mtnet.losses.dice import DiceLoss, GeneralizedDiceLoss, one_hot_truth


class SegmentationLoss(nn.Module):
    """Terms ``dice`` (generalised Dice over the batch) and ``cross_entropy`` (mean over known voxels).

    The overlap alone says little on windows without a lesion; cross-entropy teaches there (our choice).
    """

    def __init__(self) -> None:
        super().__init__()
        self.dice = GeneralizedDiceLoss(over_batch=True)

    def forward(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The two terms of ``logits`` ``(B, C, *S)`` against class numbers ``(B, *S)`` or ``(B, 1, *S)``.

        A negative number is unknown.

        Where no voxel is known both are 0, with a zero gradient.
        """
        if target.ndim == logits.ndim:
            target = target[:, 0]
        known = target.clamp_min(-1).long()
        dice = self.dice(logits, known)
        # The mean over no voxel is not a number.
        nothing = not bool((known >= 0).any())
        entropy = logits.float().sum() * 0 if nothing else F.cross_entropy(logits.float(), known, ignore_index=-1)
        return {"dice": dice, "cross_entropy": entropy}


class BinarySegmentationLoss(nn.Module):
    """Terms ``dice`` and ``cross_entropy`` (BCE, mean over known voxels) of sigmoid channels, a class each."""

    def __init__(self) -> None:
        super().__init__()
        self.dice = DiceLoss(activation="sigmoid")

    def forward(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The two terms of ``logits`` ``(B, C, *S)``; for ``target`` see ``one_hot_truth``."""
        logits = logits.float()
        truth, known = one_hot_truth(logits, target)
        bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * known
        return {"dice": self.dice(logits, target), "cross_entropy": bce.sum() / known.expand_as(bce).sum().clamp_min(1)}
