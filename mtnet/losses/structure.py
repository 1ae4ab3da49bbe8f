"""Structure loss: cross-entropy and IoU that weigh the pixels near a border more."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtnet.losses.dice import one_hot_truth


class StructureLoss(nn.Module):
    """Edge-weighted BCE plus edge-weighted IoU of sigmoid channels (F3Net, arXiv 1911.11445; PraNet, arXiv 2006.11392).

    A pixel weighs w = 1 + 5 |mean of the mask around it - mask|, outside the image counted as 0. For each image and
    channel wBCE = sum(w bce) / sum(w) and wIoU = 1 - (sum(w p m) + 1) / (sum(w (p + m)) - sum(w p m) + 1); the loss is
    the mean of their sum.

    Args:
        legacy_reduction: the widely copied code, U-Net v2's among it, takes the plain mean of BCE over the whole batch
            in place of wBCE, because torch reads its ``reduce='none'`` as true. Set it to train as published.
        window: odd edge in pixels of the surroundings, 31 in the papers.

    Raises:
        ValueError: ``window`` is even or below 1.
    """

    def __init__(self, legacy_reduction: bool = False, window: int = 31) -> None:
        super().__init__()
        if window < 1 or window % 2 == 0:
            raise ValueError(f"StructureLoss window is {window}; expected an odd number of pixels.")
        self.legacy_reduction = legacy_reduction
        self.window = window

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss (scalar) of ``logits`` ``(B, C, *S)``; for ``target`` see ``one_hot_truth``."""
        logits = logits.float()
        truth, known = one_hot_truth(logits, target)
        weight = (1 + 5 * (self._surroundings(truth) - truth).abs()) * known
        axes = list(range(2, logits.dim()))
        bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        if self.legacy_reduction:
            entropy = (bce * known).sum() / known.expand_as(bce).sum().clamp_min(1)
        else:
            entropy = (weight * bce).sum(axes) / weight.sum(axes).clamp_min(torch.finfo(weight.dtype).tiny)
        probability = logits.sigmoid()
        inter = (weight * probability * truth).sum(axes)
        union = (weight * (probability + truth)).sum(axes) - inter
        return (entropy + 1 - (inter + 1) / (union + 1)).mean()

    def _surroundings(self, mask: Tensor) -> Tensor:
        """Mean of the window around each pixel, one axis after another; outside the image it is 0."""
        half = self.window // 2
        for axis in range(2, mask.dim()):
            rows = F.pad(mask.movedim(axis, -1), (half, half))
            mask = _sums_of_neighbours(rows, self.window).movedim(-1, axis) / self.window
        return mask


def _sums_of_neighbours(rows: Tensor, count: int) -> Tensor:
    """Sums of ``count`` neighbours in the last axis, from each place that has so many.

    Sums of 1, 2, 4, ... neighbours make up those of any count with few additions of whole rows; torch's average pooling
    of one axis takes more than twice as long on a CPU.
    """
    places = rows.shape[-1] - count + 1
    some, of, done = rows, 1, 0
    total = torch.zeros_like(rows[..., :places])
    while done < count:
        if count & of:
            total = total + some[..., done : done + places]
            done += of
        if done < count:
            some, of = some[..., :-of] + some[..., of:], 2 * of
    return total
