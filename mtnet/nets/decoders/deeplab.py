"""DeepLabV3+ decoder (Chen et al., arXiv 1802.02611) in smp's layout."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtnet.nets.blocks import ConvNormAct, Norm, check_levels, make_conv, resize_to


class SeparableConv(nn.Sequential):
    """Depthwise 3-wide convolution, pointwise convolution, norm, ReLU; keeps the size.

    Args:
        spatial_dims: 2 or 3.
        channels_in: channels of its input.
        channels: channels of its output.
        norm: after the pointwise convolution.
        dilation: of the depthwise one.
    """

    def __init__(
        self, spatial_dims: int, channels_in: int, channels: int, *, norm: Norm = "group", dilation: int = 1
    ) -> None:
        super().__init__()
        depthwise = make_conv(
            spatial_dims, channels_in, channels_in, 3, bias=False, dilation=dilation, groups=channels_in
        )
        self.add_module("depthwise", depthwise)
        self.add_module("pointwise", ConvNormAct(spatial_dims, channels_in, channels, kernel_size=1, norm=norm))


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: one level seen at several distances at once, ``(B, C, *S) -> (B, channels, *S)``.

    A 1-wide convolution, a separable one for each rate and the mean of the whole level stand side by side and are
    projected to one width.

    Args:
        spatial_dims: 2 or 3.
        channels_in: of the level.
        channels: of each view and of the answer.
        rates: dilations. A rate as long as the level sees only zeros around the middle tap.
        norm: after each convolution. After that of the mean only if it is batch norm: the others would normalise one
            voxel by itself, which leaves little of it or nothing. Batch norm cannot train there on a batch of one.
        dropout: probability with which a value of the answer is dropped.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels_in: int,
        channels: int,
        *,
        rates: Sequence[int] = (12, 24, 36),
        norm: Norm = "group",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        name = norm if isinstance(norm, str) or norm is None else norm[0]
        self.point = ConvNormAct(spatial_dims, channels_in, channels, kernel_size=1, norm=norm)
        self.rates = nn.ModuleList(
            SeparableConv(spatial_dims, channels_in, channels, norm=norm, dilation=rate) for rate in rates
        )
        self.pool: nn.Module = (nn.AdaptiveAvgPool2d if spatial_dims == 2 else nn.AdaptiveAvgPool3d)(1)
        self.whole = ConvNormAct(
            spatial_dims, channels_in, channels, kernel_size=1, norm=norm if name == "batch" else None
        )
        self.project = ConvNormAct(spatial_dims, (2 + len(rates)) * channels, channels, kernel_size=1, norm=norm)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Look at several distances: ``(B, C, *S) -> (B, channels, *S)``."""
        views: list[Tensor] = [self.point(x)]
        for rate in self.rates:
            views.append(rate(x))
        views.append(self.whole(self.pool(x)).expand_as(views[0]))
        answer: Tensor = self.dropout(self.project(torch.cat(views, dim=1)))
        return answer


class DeepLabV3PlusDecoder(nn.Module):
    """ASPP on the coarsest level, brought up linearly to a fine one, joined with 48 channels of it and convolved.

    Meant for an encoder whose last stage is dilated and keeps stride 16. Parameters and answers are those of smp's
    ``DeepLabV3Plus`` with ``norm="batch"``.

    Args:
        spatial_dims: 2 or 3.
        channels_in: of all levels that it is called with, finest first.
        strides_in: of the same levels.
        channels: of the answer and within.
        detail_channels: to which the fine level is reduced.
        stride: of the fine level and of the answer.
        rates: dilations of the ASPP.
        norm: after each convolution.
        dropout: after the ASPP.

    Raises:
        ValueError: no level of ``stride``, or no coarser one.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels_in: Sequence[int],
        strides_in: Sequence[int],
        *,
        channels: int = 256,
        detail_channels: int = 48,
        stride: int = 4,
        rates: Sequence[int] = (12, 24, 36),
        norm: Norm = "group",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_levels("DeepLabV3PlusDecoder", channels_in, strides_in, stride)
        if strides_in[-1] == stride:
            raise ValueError(f"DeepLabV3PlusDecoder needs a level coarser than {stride}, but gets {tuple(strides_in)}.")
        self.fine = list(strides_in).index(stride)
        self.aspp = ASPP(spatial_dims, channels_in[-1], channels, rates=rates, norm=norm, dropout=dropout)
        self.refine = SeparableConv(spatial_dims, channels, channels, norm=norm)
        self.detail = ConvNormAct(spatial_dims, channels_in[self.fine], detail_channels, kernel_size=1, norm=norm)
        self.fuse = SeparableConv(spatial_dims, channels + detail_channels, channels, norm=norm)
        self.channels: tuple[int, ...] = (channels,)
        self.strides: tuple[int, ...] = (stride,)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Decode: ``[(B, C_l, *S/s_l), ...] -> [(B, channels, *S/stride)]``."""
        detail = self.detail(levels[self.fine])
        context = resize_to(self.refine(self.aspp(levels[-1])), detail, align_corners=True)
        return [self.fuse(torch.cat([context, detail], dim=1))]
