"""The few layers that every part is made of: normalisation by name, convolution with norm and ReLU, dropout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias

from monai.networks.layers.factories import Conv
from monai.networks.layers.utils import get_dropout_layer, get_norm_layer
from torch import Tensor, nn

from mtnet.nets.group_norm import GroupNorm

Norm: TypeAlias = str | Sequence[Any] | None
"""How MONAI names a norm: ``"group"``, ``"batch"``, ``("group", {"num_groups": 4})``...; ``None`` for none."""

MAX_GROUPS = 8
"""Groups of a group norm that names no number (Wu and He, arXiv 1803.08494, use 32 on networks four times as wide)."""


def make_norm(norm: Norm, spatial_dims: int, channels: int) -> nn.Module:
    """Make a normalisation layer for any number of channels.

    Args:
        norm: MONAI's specification or ``None``. For a group norm ``num_groups`` is an upper wish: the largest common
            divisor of it and ``channels`` is taken, so that odd widths work.
        spatial_dims: 2 or 3.
        channels: of the tensor to normalise.

    Returns:
        the layer; an identity for ``None``.
    """
    if norm is None:
        return nn.Identity()
    name = norm if isinstance(norm, str) else str(norm[0])
    options: dict[str, Any] = {} if isinstance(norm, str) else dict(*norm[1:])
    if name.lower() == "group":
        groups = math.gcd(int(options.pop("num_groups", MAX_GROUPS)), channels)
        return GroupNorm(groups, channels, **options)
    layer: nn.Module = get_norm_layer((name, options), spatial_dims=spatial_dims, channels=channels)
    return layer


def make_conv(
    spatial_dims: int,
    channels_in: int,
    channels: int,
    kernel_size: int,
    bias: bool = True,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> nn.Conv2d | nn.Conv3d:
    """Make a convolution that keeps the size (divides it by ``stride``), with He's initialisation (arXiv 1502.01852).

    Args:
        spatial_dims: 2 or 3.
        channels_in: channels of its input.
        channels: channels of its output.
        kernel_size: odd edge of the kernel in voxels.
        bias: whether it has one (0 at first).
        stride: voxels from one answer to the next.
        dilation: voxels from one of the kernel's taps to the next.
        groups: into which the channels are split; each is convolved alone.
    """
    conv: nn.Conv2d | nn.Conv3d = Conv[Conv.CONV, spatial_dims](
        channels_in,
        channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2 * dilation,
        dilation=dilation,
        groups=groups,
        bias=bias,
    )
    # PyTorch's fan-out does not know of groups: it would start a depthwise convolution far too small.
    nn.init.kaiming_normal_(conv.weight, mode="fan_out" if groups == 1 else "fan_in", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def make_dropout(dropout: float, spatial_dims: int) -> nn.Module:
    """Make a dropout of whole channels (of single values where ``spatial_dims`` is 1), each with that probability."""
    layer: nn.Module = get_dropout_layer(float(dropout), dropout_dim=spatial_dims)
    return layer


class ConvNormAct(nn.Sequential):
    """Convolution, norm, ReLU; ``(B, channels_in, *S) -> (B, channels, *S/stride)``.

    Args:
        spatial_dims: 2 or 3.
        channels_in: channels of its input.
        channels: channels of its output.
        kernel_size: odd edge of the kernel in voxels.
        norm: see :func:`make_norm`.
        act: whether a ReLU ends it.
        bias: whether the convolution has one; by default only where no norm follows that would cancel it.
        stride, dilation: of the convolution.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels_in: int,
        channels: int,
        *,
        kernel_size: int = 3,
        norm: Norm = "group",
        act: bool = True,
        bias: bool | None = None,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        has_bias = norm is None if bias is None else bias
        conv = make_conv(spatial_dims, channels_in, channels, kernel_size, has_bias, stride=stride, dilation=dilation)
        self.add_module("conv", conv)
        self.add_module("norm", make_norm(norm, spatial_dims, channels))
        if act:
            self.add_module("act", nn.ReLU(inplace=True))


def conv_stack(spatial_dims: int, channels_in: int, channels: int, convs: int, norm: Norm) -> nn.Sequential:
    """Chain ``convs`` 3-wide :class:`ConvNormAct`, the first from ``channels_in`` to ``channels``."""
    widths = (channels_in, *(channels for _ in range(convs)))
    return nn.Sequential(*(ConvNormAct(spatial_dims, widths[i], widths[i + 1], norm=norm) for i in range(convs)))


def upsample_to(x: Tensor, like: Tensor) -> Tensor:
    """Repeat the values of a coarser level until it has the size of ``like``."""
    return nn.functional.interpolate(x, size=like.shape[2:], mode="nearest")


def resize_to(x: Tensor, like: Tensor, align_corners: bool) -> Tensor:
    """Interpolate a level linearly along each axis to the size of ``like``, in 2D and 3D."""
    mode = "bilinear" if x.dim() == 4 else "trilinear"
    return nn.functional.interpolate(x, size=like.shape[2:], mode=mode, align_corners=align_corners)


def check_levels(part: str, channels_in: Sequence[int], strides_in: Sequence[int], stride: int | None = None) -> None:
    """Raise a ``ValueError`` unless levels come finest first, each with its stride, one of them of ``stride``."""
    given = tuple(strides_in)
    if not given or len(channels_in) != len(given) or list(given) != sorted(given):
        raise ValueError(
            f"{part} got levels of channels {tuple(channels_in)} and strides {given}; "
            "expected one stride for each number of channels, finest first."
        )
    if stride is not None and stride not in given:
        raise ValueError(f"{part} needs a level of stride {stride}, but gets {given}.")


def check_doubling(part: str, strides_in: Sequence[int]) -> None:
    """Raise a ``ValueError`` unless each stride is twice the one before."""
    if any(coarse != 2 * fine for fine, coarse in pairwise(strides_in)):
        raise ValueError(
            f"{part} reads levels of strides {tuple(strides_in)}; expected each to be twice the one before."
        )
