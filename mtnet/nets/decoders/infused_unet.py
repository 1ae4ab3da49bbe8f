"""U-Net's decoder with U-Net v2's skips."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mtnet.nets.blocks import Norm
from mtnet.nets.decoders.unet import UNetDecoder
from mtnet.nets.necks.sdi import SDI

WIDTHS = (64, 48, 32, 16, 16)
"""Channels of the blocks, coarsest first; of a coarsest level at stride 32."""
FINEST_INFUSED = 4
"""The finest stride of the paper's levels, which are those of PVTv2."""


class InfusedUNetDecoder(nn.Module):
    """:class:`UNetDecoder` whose skips of stride 4 and more are what :class:`SDI` makes of all those levels.

    Finer levels are skips as they are, and the blocks begin with the coarsest level as it is. In place of
    :class:`UNetV2Decoder`'s sum, each block joins, convolves and normalises, down to stride 1. A combination of ours.

    Args:
        spatial_dims: 2 or 3.
        channels_in: of all levels that it is called with, finest first.
        strides_in: of the same levels; powers of 2.
        channels: of the blocks, coarsest first; by default as many of 64, 48, 32, 16, 16 as lead to stride 1.
        skip_channels: of the infused skips.
        norm: after each convolution.
        levels: how many of the last blocks' answers are given, for heads that read several scales.

    Raises:
        ValueError: more blocks than the coarsest stride allows, more ``levels`` than blocks, or no level of stride 4 or
            more before the coarsest.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels_in: Sequence[int],
        strides_in: Sequence[int],
        *,
        channels: Sequence[int] | None = None,
        skip_channels: int = 32,
        norm: Norm = "group",
        levels: int = 1,
    ) -> None:
        super().__init__()
        self.finer = sum(stride < FINEST_INFUSED for stride in strides_in)
        infused = len(strides_in) - 1 - self.finer
        if infused < 1:
            raise ValueError(
                f"InfusedUNetDecoder strides_in is {tuple(strides_in)}; expected a level of stride {FINEST_INFUSED} or "
                "more before the coarsest."
            )
        self.skips = SDI(
            spatial_dims,
            channels_in[self.finer :],
            strides_in[self.finer :],
            channels=skip_channels,
            norm=norm,
            levels=infused,
        )
        widths = (*channels_in[: self.finer], *self.skips.channels, channels_in[-1])
        self.blocks = UNetDecoder(
            spatial_dims,
            widths,
            strides_in,
            channels=channels or WIDTHS[: max(strides_in[-1].bit_length() - 1, 1)],
            norm=norm,
            levels=levels,
        )
        self.channels: tuple[int, ...] = self.blocks.channels
        self.strides: tuple[int, ...] = self.blocks.strides

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Decode: ``[(B, C_l, *S/s_l), ...] -> [(B, channels[-1], *S/stride), ...]``, finest first."""
        answers: list[Tensor] = self.blocks(levels[: self.finer] + self.skips(levels[self.finer :]) + levels[-1:])
        return answers
