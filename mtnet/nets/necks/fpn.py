"""Feature pyramid network (Lin et al., arXiv 1612.03144)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mtnet.nets.blocks import ConvNormAct, Norm, upsample_to


class FPN(nn.Module):
    """Every level is brought to one width, coarser ones are added to finer ones, a 3-wide convolution smooths the sums.

    Args:
        spatial_dims: 2 or 3.
        channels_in: of all levels that it is called with, finest first.
        strides_in: of the same levels.
        channels: of every level that it gives.
        strides: of the levels that it gives, finest first. Every level at or above the finest of them takes part in
            the sums, given or not.
        norm: after each convolution.

    Raises:
        ValueError: ``strides`` names a level that is not there.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels_in: Sequence[int],
        strides_in: Sequence[int],
        *,
        channels: int = 256,
        strides: Sequence[int] = (8, 16, 32),
        norm: Norm = "group",
    ) -> None:
        super().__init__()
        if not strides or not set(strides) <= set(strides_in) or list(strides) != sorted(set(strides)):
            raise ValueError(
                f"FPN strides is {tuple(strides)}; expected some of the encoder's {tuple(strides_in)}, finest first."
            )
        self.first = list(strides_in).index(strides[0])
        self.laterals = nn.ModuleList(
            ConvNormAct(spatial_dims, c, channels, kernel_size=1, norm=norm, act=False)
            for c in channels_in[self.first :]
        )
        self.smooth = nn.ModuleList(ConvNormAct(spatial_dims, channels, channels, norm=norm) for _ in strides)
        self.given = [strides_in[self.first :].index(stride) for stride in strides]
        self.channels: tuple[int, ...] = (channels,) * len(strides)
        self.strides: tuple[int, ...] = tuple(strides)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Fuse the levels: ``[(B, C_l, *S/s_l), ...] -> [(B, channels, *S/s), ...]``, finest first."""
        sums: list[Tensor] = []
        for i, lateral in enumerate(self.laterals):
            sums.append(lateral(levels[self.first + i]))
        for i in range(len(sums) - 2, -1, -1):
            sums[i] = sums[i] + upsample_to(sums[i + 1], sums[i])
        fused: list[Tensor] = []
        for i, smooth in enumerate(self.smooth):
            fused.append(smooth(sums[self.given[i]]))
        return fused
