"""Semantics and detail infusion, the skips of U-Net v2 (Peng et al., arXiv 2311.17791)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from mtnet.nets.blocks import ConvNormAct, Norm, check_levels, resize_to
from mtnet.nets.necks.cbam import CBAM


class SDI(nn.Module):
    """Every level is made of all levels: attention and one width first, then a product of all of them at each size.

    Level by level: channel and spatial attention (:class:`CBAM`), a 1-wide convolution with norm and no ReLU to
    ``channels``. Then, for each level, all levels are brought to its size (finer ones by the mean, coarser ones
    linearly with aligned corners), each goes through a 3-wide convolution of its own, and they are multiplied. The
    biases of these convolutions begin at 1, where the authors leave PyTorch's: what is multiplied begins around 1, so
    that every level reaches the product before the others have learnt anything.

    Args:
        spatial_dims: 2 or 3.
        channels_in: of all levels that it is called with, finest first.
        strides_in: of the same levels; each a multiple of the one before.
        channels: of every level that it gives.
        norm: of the 1-wide convolutions; the authors' is ``"batch"``.
        levels: how many levels are given, finest first; by default all.

    Raises:
        ValueError: strides that do not divide one another, or more ``levels`` than there are.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels_in: Sequence[int],
        strides_in: Sequence[int],
        *,
        channels: int = 32,
        norm: Norm = "group",
        levels: int | None = None,
    ) -> None:
        super().__init__()
        check_levels("SDI", channels_in, strides_in)
        if any(coarse % fine for fine, coarse in pairwise(strides_in)):
            raise ValueError(
                f"SDI strides_in is {tuple(strides_in)}; expected each to be a multiple of the one before."
            )
        given = len(strides_in) if levels is None else levels
        if not 1 <= given <= len(strides_in):
            raise ValueError(f"SDI levels is {levels}; expected 1 to {len(strides_in)}, those that it reads.")
        self.reduce = nn.ModuleList(
            nn.Sequential(
                CBAM(spatial_dims, c), ConvNormAct(spatial_dims, c, channels, kernel_size=1, norm=norm, act=False)
            )
            for c in channels_in
        )
        self.infuse = nn.ModuleList(_Infusion(spatial_dims, strides_in, i, channels) for i in range(given))
        self.channels: tuple[int, ...] = (channels,) * given
        self.strides: tuple[int, ...] = tuple(strides_in)[:given]

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Infuse: ``[(B, C_l, *S/s_l), ...] -> [(B, channels, *S/s_l), ...]``, finest first."""
        reduced: list[Tensor] = []
        for i, reduce in enumerate(self.reduce):
            reduced.append(reduce(levels[i]))
        infused: list[Tensor] = []
        for infuse in self.infuse:
            infused.append(infuse(reduced))
        return infused


class _Infusion(nn.Module):
    """The product of all levels at the size of one of them."""

    def __init__(self, spatial_dims: int, strides: Sequence[int], target: int, channels: int) -> None:
        super().__init__()
        self.target = target
        # Levels divide one another, so the mean over whole blocks is the authors' adaptive pooling, and exports.
        mean = nn.AvgPool2d if spatial_dims == 2 else nn.AvgPool3d
        self.views = nn.ModuleList(
            nn.Sequential(
                mean(strides[target] // stride) if i < target else nn.Identity(), _around_one(spatial_dims, channels)
            )
            for i, stride in enumerate(strides)
        )

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Multiply: ``[(B, C, *S/s_l), ...] -> (B, C, *S/s_target)``."""
        like = levels[self.target]
        product = like
        for i, view in enumerate(self.views):
            x = levels[i]
            if i > self.target:
                x = resize_to(x, like, align_corners=True)
            x = view(x)
            product = x if i == 0 else product * x
        return product


def _around_one(spatial_dims: int, channels: int) -> nn.Module:
    # PyTorch's own weights, as the authors' code has it: with He's the product of all levels would be far too large.
    conv: nn.Conv2d | nn.Conv3d = Conv[Conv.CONV, spatial_dims](channels, channels, 3, padding=1)
    assert conv.bias is not None
    nn.init.ones_(conv.bias)
    return conv
