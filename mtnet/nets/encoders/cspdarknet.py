"""CSPDarknet53 (Bochkovskiy et al., YOLOv4, arXiv 2004.10934; CSP: arXiv 1911.11929) as an encoder for 2D and 3D."""

from __future__ import annotations

from typing import Literal

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from mtnet.nets.blocks import Norm, make_norm
from mtnet.nets.encoders.rebuild import dilate_stages

BLOCKS = (1, 2, 8, 8, 4)
"""Residual blocks of the five stages (Darknet53's, arXiv 1804.02767)."""

Activation = Literal["leaky_relu", "mish"]


class CSPDarknet53(nn.Module):
    """A stem at stride 1 and five stages, each half passing by its residual blocks: levels at strides 1 to 32.

    Detectors read the last three (C3 to C5). Only convolutions stride. With batch norm and ``leaky_relu`` it is timm's
    ``cspdarknet53`` in 2D, tensor by tensor in the same order; YOLOv4 activates with Mish.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        norm: see :func:`mtnet.nets.blocks.make_norm`; the paper's is ``"batch"``.
        width: channels of the stem, 32 in the paper; the stages have 2, 4, 8, 16 and 32 times as many.
        activation: ``leaky_relu`` (slope 0.01) or ``mish``.
        output_stride: see :func:`mtnet.nets.encoders.rebuild.dilate_stages`.

    Raises:
        ValueError: an odd width, an unknown activation or an impossible ``output_stride``.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int = 1,
        norm: Norm = "group",
        width: int = 32,
        activation: Activation = "leaky_relu",
        output_stride: int | None = None,
    ) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(f"CSPDarknet53 width is {width}; expected an even number, 32 in the paper.")
        if activation not in ("leaky_relu", "mish"):
            raise ValueError(f"CSPDarknet53 activation is {activation!r}; expected 'leaky_relu' or 'mish'.")
        self.channels: tuple[int, ...] = tuple(width * 2**i for i in range(6))
        self.stem = _ConvNormAct(spatial_dims, in_channels, width, 3, norm, activation)
        self.stages = nn.ModuleList(
            _Stage(spatial_dims, self.channels[i], self.channels[i + 1], blocks, norm, activation, first=i == 0)
            for i, blocks in enumerate(BLOCKS)
        )
        self.strides = dilate_stages([self.stem, *self.stages], (1, 2, 4, 8, 16, 32), output_stride)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Give stem and stages: ``(B, C, *S) -> [(B, 32, *S), (B, 64, *S/2), ..., (B, 1024, *S/32)]``."""
        x = self.stem(x)
        levels = [x]
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels


class _Stage(nn.Module):
    """Halve the size, widen, send one half of the channels through the blocks, join.

    In the first stage both halves are as wide as the stage itself; in the others each has half of its channels.
    """

    def __init__(
        self, dims: int, channels_in: int, channels: int, blocks: int, norm: Norm, activation: Activation, first: bool
    ) -> None:
        super().__init__()
        half = channels if first else channels // 2
        inner = channels // 2
        self.down = _ConvNormAct(dims, channels_in, channels, 3, norm, activation, stride=2)
        self.widen = _ConvNormAct(dims, channels, 2 * half, 1, norm, activation)
        self.blocks = nn.Sequential(*(_Block(dims, half, inner, norm, activation) for _ in range(blocks)))
        self.after = _ConvNormAct(dims, half, half, 1, norm, activation)
        self.join = _ConvNormAct(dims, 2 * half, channels, 1, norm, activation)

    def forward(self, x: Tensor) -> Tensor:
        passing, worked = self.widen(self.down(x)).chunk(2, dim=1)
        joined: Tensor = self.join(torch.cat((passing, self.after(self.blocks(worked))), dim=1))
        return joined


class _Block(nn.Module):
    def __init__(self, dims: int, channels: int, inner: int, norm: Norm, activation: Activation) -> None:
        super().__init__()
        self.reduce = _ConvNormAct(dims, channels, inner, 1, norm, activation)
        self.expand = _ConvNormAct(dims, inner, channels, 3, norm, activation)

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.expand(self.reduce(x))
        return x + changed


class _ConvNormAct(nn.Sequential):
    def __init__(
        self,
        dims: int,
        channels_in: int,
        channels: int,
        kernel_size: int,
        norm: Norm,
        activation: Activation,
        stride: int = 1,
    ) -> None:
        conv = Conv[Conv.CONV, dims](
            channels_in, channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=norm is None
        )
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        act = nn.Mish(inplace=True) if activation == "mish" else nn.LeakyReLU(0.01, inplace=True)
        super().__init__(conv, make_norm(norm, dims, channels), act)
