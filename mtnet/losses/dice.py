"""Dice and generalised Dice losses for segmentation in 2D and 3D."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

ClassWeighting = Literal["square", "simple", "equal"]
DiceActivation = Literal["softmax", "sigmoid", "none"]


class _SoftDice(nn.Module):
    """Shared by both losses: probabilities, one-hot truth and their sums by class."""

    def __init__(
        self,
        *,
        activation: DiceActivation = "softmax",
        include_background: bool = True,
        over_batch: bool = False,
        smooth: float = 1e-5,
    ) -> None:
        super().__init__()
        if activation not in get_args(DiceActivation):
            raise ValueError(f"activation is {activation!r}; expected one of {', '.join(get_args(DiceActivation))}.")
        if smooth < 0:
            raise ValueError(f"smooth is {smooth}; expected 0 or more.")
        self.activation = activation
        self.include_background = include_background
        self.over_batch = over_batch
        self.smooth = smooth

    def _sums(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sum of r * p, of p and of r, each ``(B, C)``, or ``(1, C)`` over the batch."""
        logits = logits.float()
        truth, known = one_hot_truth(logits, target)
        probability = logits
        if self.activation == "softmax":
            probability = logits.softmax(1)
        elif self.activation == "sigmoid":
            probability = logits.sigmoid()
        probability = probability * known
        if not self.include_background:
            truth, probability = truth[:, 1:], probability[:, 1:]
        axes = ([0] if self.over_batch else []) + list(range(2, logits.ndim))
        sums = [part.sum(axes) for part in (truth * probability, probability, truth)]
        if self.over_batch:
            sums = [part[None] for part in sums]
        return sums[0], sums[1], sums[2]


class DiceLoss(_SoftDice):
    """1 - Dice, the mean over classes and images (Milletari 2016, arXiv 1606.04797, with plain sums below the line).

    Dice = (2 sum(r p) + smooth) / (sum(r) + sum(p) + smooth). A class that is neither in the truth nor predicted thus
    counts as right.

    Args:
        activation: turns the network's answer into probabilities.
        include_background: count channel 0.
        over_batch: sum over the batch before dividing, steadier where most patches hold no lesion.
        smooth: in voxels, above and below the line.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss (scalar) of ``logits`` ``(B, C, *S)``; for ``target`` see ``one_hot_truth``."""
        inter, predicted, truth = self._sums(logits, target)
        dice = (2 * inter + self.smooth) / (predicted + truth + self.smooth).clamp_min(1e-12)
        return (1 - dice).mean()


class GeneralizedDiceLoss(_SoftDice):
    """Generalised Dice loss (Sudre 2017, arXiv 1707.03237, section 2).

    1 - (2 sum_l w_l sum(r p) + smooth) / (sum_l w_l sum(r + p) + smooth), the mean over images, with w_l = 1 / sum(r)^2
    (``square``, the paper's), 1 / sum(r) (``simple``) or 1 (``equal``). A class that the truth lacks has no finite
    weight and gets the largest finite one, as in MONAI. Where only background is present all weights are then tiny, and
    a false lesion costs next to nothing: add cross-entropy, or sum over the batch.

    Args:
        weighting: how w_l follows from the size of a class.
        activation: turns the network's answer into probabilities.
        include_background: count channel 0.
        over_batch: sum over the batch before dividing, steadier where most patches hold no lesion.
        smooth: above and below the line.
    """

    def __init__(
        self,
        weighting: ClassWeighting = "square",
        *,
        activation: DiceActivation = "softmax",
        include_background: bool = True,
        over_batch: bool = False,
        smooth: float = 1e-5,
    ) -> None:
        super().__init__(
            activation=activation, include_background=include_background, over_batch=over_batch, smooth=smooth
        )
        if weighting not in get_args(ClassWeighting):
            raise ValueError(f"weighting is {weighting!r}; expected one of {', '.join(get_args(ClassWeighting))}.")
        self.weighting = weighting

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss (scalar) of ``logits`` ``(B, C, *S)``; for ``target`` see ``one_hot_truth``."""
        inter, predicted, truth = self._sums(logits, target)
        weight = self._class_weight(truth)
        above = 2 * (weight * inter).sum(1) + self.smooth
        below = (weight * (truth + predicted)).sum(1) + self.smooth
        return (1 - above / below.clamp_min(1e-12)).mean()

    def _class_weight(self, truth: Tensor) -> Tensor:
        if self.weighting == "equal":
            return torch.ones_like(truth)
        weight = truth.reciprocal() if self.weighting == "simple" else truth.square().reciprocal()
        absent = torch.isinf(weight)
        finite = torch.where(absent, 0.0, weight)
        return torch.where(absent, finite.amax(1, keepdim=True), finite)


def one_hot_truth(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Truth ``(B, C, *S)`` and known voxels ``(B, 1, *S)`` (1 or 0), both in the type of ``logits``.

    ``target`` is a label map ``(B, *S)`` or ``(B, 1, *S)`` of channel numbers, where a negative number is a voxel of
    unknown class, or one float channel a class ``(B, C, *S)``, as for overlapping classes or a single foreground.

    Raises:
        ValueError: ``target`` has another shape, or a label beyond the channels.
    """
    shape = logits.shape
    if target.shape == shape and (target.is_floating_point() or shape[1] == 1):
        return target.to(logits.dtype), torch.ones_like(logits[:, :1])
    if target.shape == (shape[0], 1, *shape[2:]):
        target = target[:, 0]
    if target.shape != (shape[0], *shape[2:]):
        raise ValueError(
            f"target has shape {tuple(target.shape)} for logits {tuple(shape)}; expected a label map (B, *S) or "
            "(B, 1, *S), or one channel a class (B, C, *S)."
        )
    labels = target.long()
    if labels.numel() and int(labels.max()) >= shape[1]:
        raise ValueError(
            f"target holds label {int(labels.max())}; logits have {shape[1]} channels, 0 to {shape[1] - 1}."
        )
    known = (labels >= 0)[:, None].to(logits.dtype)
    truth = torch.zeros_like(logits).scatter_(1, labels.clamp_min(0)[:, None], known)
    return truth, known
