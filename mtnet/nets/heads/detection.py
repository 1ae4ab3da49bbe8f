"""Dense, anchor-free detection head, decoupled or coupled (YOLOX, Ge et al., arXiv 2107.08430, section 2.1)."""

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from mtnet.nets.blocks import Norm, conv_stack, make_conv, make_dropout
from mtnet.structures import OutputSpec

PRIOR = 0.01
"""Probability that class and quality say of every cell at first, so that the empty cells don't drown the loss."""

# No "from __future__ import annotations" here: TorchScript would no longer see that an attribute is Final.


class DetectionHead(nn.Module):
    """For each level one tensor with, for each cell, one candidate.

    Channels: class logits, ``2 * spatial_dims`` offsets, one quality logit, then the lesion channels of the output.
    Classes and lesion channels come from one tower of convolutions, offsets and quality from another (decoupled), or
    everything from one (coupled).

    Args:
        spatial_dims: 2 or 3.
        channels_in: of the levels that the decoder gives, finest first.
        strides_in: of the same levels.
        output: of kind ``boxes``, with these strides.
        width: channels inside the towers; by default those of each level.
        convs: 3-wide convolutions a tower.
        shared: use the same weights at every level (needs levels of one width).
        norm: after each convolution of the towers.
        dropout: probability with which a channel is dropped before the last layer.
        coupled: one tower for all answers, as YOLO had it before YOLOX; what the decoupled one is compared with.

    Raises:
        ValueError: ``output`` is not of kind ``boxes``, its strides are not ``strides_in``, or levels of different
            widths are to share their weights.
    """

    shared: Final[bool]

    def __init__(
        self,
        spatial_dims: int,
        channels_in: Sequence[int],
        strides_in: Sequence[int],
        output: OutputSpec,
        *,
        width: int | None = None,
        convs: int = 2,
        shared: bool = False,
        norm: Norm = "group",
        dropout: float = 0.0,
        coupled: bool = False,
    ) -> None:
        super().__init__()
        if output.kind != "boxes" or tuple(output.strides) != tuple(strides_in):
            raise ValueError(
                f"Output {output.name!r} is {output.kind} with strides {output.strides}; "
                f"expected boxes with the decoder's strides {tuple(strides_in)}."
            )
        if shared and len(set(channels_in)) > 1:
            raise ValueError(f"DetectionHead cannot share weights between levels of {tuple(channels_in)} channels.")
        self.shared = shared
        self.tensor_names = list(output.tensor_names)
        self.levels = nn.ModuleList(
            _LevelHead(
                spatial_dims,
                channels,
                output,
                width=width or channels,
                convs=convs,
                norm=norm,
                dropout=dropout,
                coupled=coupled,
            )
            for channels in (channels_in[:1] if shared else channels_in)
        )
        self.outputs: tuple[OutputSpec, ...] = (output,)

    def forward(self, levels: list[Tensor]) -> dict[str, Tensor]:
        """Answer: ``[(B, C_l, *S/s_l), ...] -> {name_s<stride>: (B, output.box_channels, *S/s_l)}``."""
        answers: dict[str, Tensor] = {}
        if self.shared:
            for i, level in enumerate(levels):
                answers[self.tensor_names[i]] = self.levels[0](level)
        else:
            for i, head in enumerate(self.levels):
                answers[self.tensor_names[i]] = head(levels[i])
        return answers


class _LevelHead(nn.Module):
    """The towers and the last layers of one level."""

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        output: OutputSpec,
        *,
        width: int,
        convs: int,
        norm: Norm,
        dropout: float,
        coupled: bool,
    ) -> None:
        super().__init__()
        lesion_channels = sum(channel.channels for channel in output.lesion_channels)
        # A coupled head has one tower, under the first name.
        self.class_tower = conv_stack(spatial_dims, channels, width, convs, norm)
        self.box_tower = None if coupled else conv_stack(spatial_dims, channels, width, convs, norm)
        self.dropout = make_dropout(dropout, spatial_dims)
        tower = width if convs else channels
        self.classes = _last_layer(spatial_dims, tower, len(output.labels), -math.log((1 - PRIOR) / PRIOR))
        self.offsets = _last_layer(spatial_dims, tower, 2 * spatial_dims, 0.0)
        self.quality = _last_layer(spatial_dims, tower, 1, -math.log((1 - PRIOR) / PRIOR))
        self.lesion = _last_layer(spatial_dims, tower, lesion_channels, 0.0) if lesion_channels else None

    def forward(self, level: Tensor) -> Tensor:
        of_class = self.dropout(self.class_tower(level))
        of_box = of_class if self.box_tower is None else self.dropout(self.box_tower(level))
        parts = [self.classes(of_class), self.offsets(of_box), self.quality(of_box)]
        if self.lesion is not None:
            parts.append(self.lesion(of_class))
        return torch.cat(parts, dim=1)


def _last_layer(spatial_dims: int, channels_in: int, channels: int, bias: float) -> nn.Conv2d | nn.Conv3d:
    conv = make_conv(spatial_dims, channels_in, channels, kernel_size=1)
    # Small, so that at first each cell says its bias: a box of one stride, at its centre, with the prior's score.
    nn.init.normal_(conv.weight, std=0.01)
    if conv.bias is not None:
        nn.init.constant_(conv.bias, bias)
    return conv
