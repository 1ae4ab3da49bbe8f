"""Convolutional block attention (Woo et al., arXiv 1807.06521): which channels matter, then which places."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtnet.nets.blocks import make_conv


class ChannelAttention(nn.Module):
    """Weigh each channel by its mean and its maximum over all places, ``(B, C, *S) -> (B, C, *S)``.

    Args:
        spatial_dims: 2 or 3.
        channels: of its input.
        reduction: by which the hidden layer is narrower; it keeps at least four channels: one may die in the ReLU.
    """

    def __init__(self, spatial_dims: int, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.mean: nn.Module = (nn.AdaptiveAvgPool2d if spatial_dims == 2 else nn.AdaptiveAvgPool3d)(1)
        self.maximum: nn.Module = (nn.AdaptiveMaxPool2d if spatial_dims == 2 else nn.AdaptiveMaxPool3d)(1)
        self.weigh = nn.Sequential(
            make_conv(spatial_dims, channels, hidden, 1, bias=False),
            nn.ReLU(inplace=True),
            make_conv(spatial_dims, hidden, channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the channels: ``(B, C, *S) -> (B, C, *S)``."""
        return torch.sigmoid(self.weigh(self.mean(x)) + self.weigh(self.maximum(x))) * x


class SpatialAttention(nn.Module):
    """Weigh each place by the mean and the maximum of its channels, ``(B, C, *S) -> (B, C, *S)``.

    Args:
        spatial_dims: 2 or 3.
        kernel_size: odd edge in voxels of the one convolution.
    """

    def __init__(self, spatial_dims: int, kernel_size: int = 7) -> None:
        super().__init__()
        self.conv = make_conv(spatial_dims, 2, 1, kernel_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the places: ``(B, C, *S) -> (B, C, *S)``."""
        seen = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        return torch.sigmoid(self.conv(seen)) * x


class CBAM(nn.Sequential):
    """:class:`ChannelAttention`, then :class:`SpatialAttention`; ``(B, C, *S) -> (B, C, *S)``.

    Args:
        spatial_dims: 2 or 3.
        channels: of its input.
        reduction: see :class:`ChannelAttention`.
        kernel_size: see :class:`SpatialAttention`.
    """

    def __init__(self, spatial_dims: int, channels: int, *, reduction: int = 16, kernel_size: int = 7) -> None:
        super().__init__()
        self.add_module("channels", ChannelAttention(spatial_dims, channels, reduction))
        self.add_module("places", SpatialAttention(spatial_dims, kernel_size))
