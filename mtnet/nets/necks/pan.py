"""Path aggregation network (Liu et al., arXiv 1803.01534): a feature pyramid and a way back down it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mtnet.nets.blocks import ConvNormAct, Norm
from mtnet.nets.necks.fpn import FPN


class PAN(nn.Module):
    """:class:`FPN`, then from fine to coarse: a strided convolution of the finer answer is added, and smoothed.

    Args:
        spatial_dims: 2 or 3.
        channels_in: of all levels that it is called with, finest first.
        strides_in: of the same levels.
        channels: of every level that it gives.
        strides: of the levels that it gives, finest first.
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
        self.fpn = FPN(spatial_dims, channels_in, strides_in, channels=channels, strides=strides, norm=norm)
        self.downs = nn.ModuleList(
            ConvNormAct(spatial_dims, channels, channels, norm=norm, stride=strides[i + 1] // strides[i])
            for i in range(len(strides) - 1)
        )
        self.smooth = nn.ModuleList(ConvNormAct(spatial_dims, channels, channels, norm=norm) for _ in strides[1:])
        self.channels: tuple[int, ...] = self.fpn.channels
        self.strides: tuple[int, ...] = self.fpn.strides

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Fuse the levels: ``[(B, C_l, *S/s_l), ...] -> [(B, channels, *S/s), ...]``, finest first."""
        pyramid = self.fpn(levels)
        x = pyramid[0]
        fused = [x]
        for finer, (down, smooth) in enumerate(zip(self.downs, self.smooth)):  # noqa: B905  # TorchScript: no strict=
            x = smooth(down(x) + pyramid[finer + 1])
            fused.append(x)
        return fused
