"""Decoders of the one-stage system: a task's own features a level, and the way from them to a dense map."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mtnet.nets.blocks import ConvNormAct, Norm, check_levels, conv_stack, upsample_to
from mtnet.nets.upsampled_conv import upsampled_convs


class LevelTowers(nn.Module):
    """Convolutions of a task's own on each level: ``levels -> levels`` of the same strides.

    What an interaction between tasks exchanges: YOLO-Med (arXiv 2403.00245) gives each task its own features at every
    scale of the shared neck, but not their layers.

    Args:
        spatial_dims: 2 or 3.
        channels_in: of all levels that it is called with, finest first.
        strides_in: of the same levels.
        channels: of every level that it gives.
        norm: after each convolution.
        convs: 3-wide convolutions a level.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels_in: Sequence[int],
        strides_in: Sequence[int],
        *,
        channels: int = 256,
        norm: Norm = "group",
        convs: int = 1,
    ) -> None:
        super().__init__()
        check_levels("LevelTowers", channels_in, strides_in)
        if convs < 1:
            raise ValueError(f"LevelTowers convs is {convs}; expected 1 or more.")
        self.towers = nn.ModuleList(conv_stack(spatial_dims, c, channels, convs, norm) for c in channels_in)
        self.channels: tuple[int, ...] = (channels,) * len(strides_in)
        self.strides: tuple[int, ...] = tuple(strides_in)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Convolve: ``[(B, C_l, *S/s_l), ...] -> [(B, channels, *S/s_l), ...]``, finest first."""
        answers: list[Tensor] = []
        for i, tower in enumerate(self.towers):
            answers.append(tower(levels[i]))
        return answers


class YOLOSegmentationDecoder(nn.Module):
    """Segmentation beside detection on one neck: all its levels added at the finest, then up to the image by twos.

    The layers of YOLO-Med's segmentation decoder are not published; this is our choice, after YOLOP (arXiv 2108.11250),
    which climbs from the neck's finest level (nearest, one 3-wide convolution a doubling). Here each level goes through
    a 3-wide convolution and is repeated to the finest first, so that large objects are seen from the coarse levels.

    Args:
        spatial_dims: 2 or 3.
        channels_in: of all levels that it is called with, finest first.
        strides_in: of the same levels.
        channels: at the finest level and after each doubling; by default 128, 64, 32, ... until stride 1.
        norm: after each convolution.

    Raises:
        ValueError: more doublings than the finest stride allows.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels_in: Sequence[int],
        strides_in: Sequence[int],
        *,
        channels: Sequence[int] | None = None,
        norm: Norm = "group",
    ) -> None:
        super().__init__()
        check_levels("YOLOSegmentationDecoder", channels_in, strides_in)
        finest = strides_in[0]
        widths = [max(128 >> i, 8) for i in range(finest.bit_length())] if channels is None else list(channels)
        if not widths or finest % 2 ** (len(widths) - 1):
            raise ValueError(
                f"YOLOSegmentationDecoder channels is {tuple(widths)}: {len(widths) - 1} doublings cannot start at "
                f"stride {finest}."
            )
        self.laterals = nn.ModuleList(ConvNormAct(spatial_dims, c, widths[0], norm=norm) for c in channels_in)
        self.climb = nn.ModuleList(
            upsampled_convs(spatial_dims, widths[i], widths[i + 1], 1, norm) for i in range(len(widths) - 1)
        )
        self.channels: tuple[int, ...] = (widths[-1],)
        self.strides: tuple[int, ...] = (finest // 2 ** (len(widths) - 1),)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Decode: ``[(B, C_l, *S/s_l), ...] -> [(B, channels[-1], *S/stride)]``."""
        x = levels[0]
        for i, lateral in enumerate(self.laterals):
            own = lateral(levels[i])
            x = own if i == 0 else x + upsample_to(own, x)
        for conv in self.climb:
            x = conv(x, [])
        return [x]
