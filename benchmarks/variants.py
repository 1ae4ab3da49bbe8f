"""What only ablations train: U-Net v2 with plain skips, and the chest's masks under another loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mtnet.losses import MultiTaskLoss
from mtnet.losses.ce_dice import CrossEntropyDiceLoss
from mtnet.nets import MultiTaskNet
from mtnet.nets.blocks import ConvNormAct
from mtnet.systems import chest_ct, unet_v2

Merge = Literal["sum", "concatenation"]


class PlainSkips(nn.Module):
    """U-Net v2's decoder without SDI: a level is joined by its own skip alone.

    Each level goes through a 1-wide convolution to 32 channels; from coarse to fine a transposed convolution by 2 is
    added to the skip, or joined to it and brought back to 32 channels by a 1-wide convolution.

    Args:
        channels_in: of all levels, finest first.
        strides_in: of the same levels; each twice the one before.
        merge: how a skip joins.
        channels: of every level.
    """

    def __init__(self, channels_in: Sequence[int], strides_in: Sequence[int], merge: Merge, channels: int = 32) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(
            ConvNormAct(2, c, channels, kernel_size=1, norm="group", act=False) for c in channels_in
        )
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1, bias=False) for _ in pairwise(strides_in)
        )
        joins = strides_in[1:] if merge == "concatenation" else ()
        self.joins = nn.ModuleList(nn.Conv2d(2 * channels, channels, 1) for _ in joins)
        self.channels = (channels,) * len(strides_in)
        self.strides = tuple(strides_in)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """``[(B, C_l, H/s_l, W/s_l), ...] -> [(B, channels, H/s_l, W/s_l), ...]``, finest first."""
        *finer, x = [reduce(level) for reduce, level in zip(self.reduce, levels, strict=True)]
        answers = [x]
        for place, (up, skip) in enumerate(zip(self.ups, reversed(finer), strict=True)):
            grown = up(x)
            x = self.joins[place](torch.cat([grown, skip], 1)) if self.joins else grown + skip
            answers.append(x)
        return answers[::-1]


def unet_v2_with(skips: Literal["sdi"] | Merge, **options: Any) -> MultiTaskNet:
    """U-Net v2 with skips of a kind; ``options`` are those of ``mtnet.systems.unet_v2.network``, in 2D."""
    network = unet_v2.network(decoder="unet_v2", **options)
    if skips != "sdi":
        neck: Any = network.neck
        network.branches["segmentation"].decoder = PlainSkips(neck.channels, neck.strides, skips)
    return network


def chest_loss_with_plain_dice(weights: Mapping[str, float] | None = None) -> MultiTaskLoss:
    """The chest's loss with cross-entropy and the plain Dice of the foreground in the place of generalised Dice."""
    loss = chest_ct.loss(weights)
    loss.terms[chest_ct.SEGMENTATION.name] = CrossEntropyDiceLoss()
    return loss
