"""Segmentation decoder on a feature pyramid (Kirillov et al., arXiv 1901.02446) in smp's layout."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mtnet.nets.blocks import ConvNormAct, Norm, check_doubling, check_levels, make_conv, make_dropout, upsample_to


class FPNDecoder(nn.Module):
    """Every level is brought to one width and added to the next finer one; all sums go up to the finest and add.

    On its way up a sum is convolved (3-wide, norm, ReLU) before each doubling, linear with aligned corners; the finest
    is convolved once. Parameters and answers are those of smp's ``FPN`` with ``norm=("group", {"num_groups": 32})``,
    whose own dropout is 0.2.

    Args:
        spatial_dims: 2 or 3.
        channels_in: of all levels that it is called with, finest first.
        strides_in: of the same levels.
        channels: of the answer.
        pyramid_channels: of the pyramid's levels.
        stride: of the answer and of the finest level that takes part.
        norm: after each 3-wide convolution; the pyramid's own have none.
        dropout: probability with which a channel of the answer is dropped.

    Raises:
        ValueError: no level of ``stride``, or strides from there on that do not double.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels_in: Sequence[int],
        strides_in: Sequence[int],
        *,
        channels: int = 128,
        pyramid_channels: int = 256,
        stride: int = 4,
        norm: Norm = "group",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_levels("FPNDecoder", channels_in, strides_in, stride)
        self.first = list(strides_in).index(stride)
        read = list(strides_in)[self.first :]
        check_doubling("FPNDecoder", read)
        self.laterals = nn.ModuleList(
            make_conv(spatial_dims, c, pyramid_channels, 1) for c in channels_in[self.first :]
        )
        self.climbs = nn.ModuleList(
            _climb(spatial_dims, pyramid_channels, channels, doublings, norm) for doublings in range(len(read))
        )
        self.dropout = make_dropout(dropout, spatial_dims)
        self.channels: tuple[int, ...] = (channels,)
        self.strides: tuple[int, ...] = (stride,)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Decode: ``[(B, C_l, *S/s_l), ...] -> [(B, channels, *S/stride)]``."""
        sums: list[Tensor] = []
        for i, lateral in enumerate(self.laterals):
            sums.append(lateral(levels[self.first + i]))
        for i in range(len(sums) - 2, -1, -1):
            sums[i] = sums[i] + upsample_to(sums[i + 1], sums[i])
        total = sums[0]
        for i, climb in enumerate(self.climbs):
            total = climb(sums[i]) if i == 0 else total + climb(sums[i])
        return [self.dropout(total)]


def _climb(spatial_dims: int, channels_in: int, channels: int, doublings: int, norm: Norm) -> nn.Sequential:
    steps: list[nn.Module] = []
    for i in range(max(doublings, 1)):
        steps.append(ConvNormAct(spatial_dims, channels if i else channels_in, channels, norm=norm))
        if doublings:
            mode = "bilinear" if spatial_dims == 2 else "trilinear"
            steps.append(nn.Upsample(scale_factor=2.0, mode=mode, align_corners=True))
    return nn.Sequential(*steps)
