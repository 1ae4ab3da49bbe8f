"""Spatial pyramid pooling on the coarsest level (He et al., arXiv 1406.4729; as YOLOv4, arXiv 2004.10934, has it)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Pool
from torch import Tensor, nn

from mtnet.nets.blocks import ConvNormAct, Norm, check_levels


class SPP(nn.Module):
    """Join the coarsest level with its maxima over neighbourhoods of 5, 9 and 13; hand on the others as they are.

    A 1-wide convolution to half the width, three max-pools that keep the size, a 1-wide convolution back. Pools of 5
    one after another are pools of 5, 9 and 13, at a fraction of the work.

    Args:
        spatial_dims: 2 or 3.
        channels_in: of all levels that it is called with, finest first.
        strides_in: of the same levels.
        channels: of the coarsest level that it gives; by default as many as it has.
        pool: odd edge of the smallest neighbourhood in voxels of the level.
        norm: after each convolution.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels_in: Sequence[int],
        strides_in: Sequence[int],
        *,
        channels: int | None = None,
        pool: int = 5,
        norm: Norm = "group",
    ) -> None:
        super().__init__()
        check_levels("SPP", channels_in, strides_in)
        width = channels_in[-1] if channels is None else channels
        hidden = max(channels_in[-1] // 2, 1)
        self.squeeze = ConvNormAct(spatial_dims, channels_in[-1], hidden, kernel_size=1, norm=norm)
        self.pool: nn.Module = Pool[Pool.MAX, spatial_dims](pool, stride=1, padding=pool // 2)
        self.join = ConvNormAct(spatial_dims, 4 * hidden, width, kernel_size=1, norm=norm)
        self.channels: tuple[int, ...] = (*channels_in[:-1], width)
        self.strides: tuple[int, ...] = tuple(strides_in)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Pool: ``[..., (B, C, *S/s)] -> [..., (B, channels, *S/s)]``."""
        near = self.squeeze(levels[-1])
        middle = self.pool(near)
        far = self.pool(middle)
        given = levels[:-1]
        given.append(self.join(torch.cat([near, middle, far, self.pool(far)], dim=1)))
        return given
