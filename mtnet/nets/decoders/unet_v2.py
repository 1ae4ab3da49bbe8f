"""Decoder of U-Net v2 (Peng et al., arXiv 2311.17791): infused skips, added up from coarse to fine."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from mtnet.nets.blocks import Norm, check_doubling
from mtnet.nets.necks.sdi import SDI


class UNetV2Decoder(nn.Module):
    """:class:`SDI`, then from coarse to fine: transposed convolution by 2, plus the skip; nothing else.

    The answer of every level is given, for a head with deep supervision: then each is trained, which the authors'
    standalone file leaves out for the two coarsest. Their never used fifth transposed convolution is not here. With
    ``norm="batch"`` the parameters and answers are otherwise theirs (on PVTv2-B2 and with four heads for one class,
    25,128,652 in all).

    Args:
        spatial_dims: 2 or 3.
        channels_in: of all levels that it is called with, finest first.
        strides_in: of the same levels; each twice the one before.
        channels: of the skips and of every answer.
        norm: in the SDI's 1-wide convolutions.
        levels: how many answers are given, finest first; by default all. Fewer leave no parameter without use.

    Raises:
        ValueError: strides that do not double, or more ``levels`` than there are.
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
        check_doubling("UNetV2Decoder", strides_in)
        self.levels = len(strides_in) if levels is None else levels
        if not 1 <= self.levels <= len(strides_in):
            raise ValueError(f"UNetV2Decoder levels is {levels}; expected 1 to {len(strides_in)}, those that it reads.")
        self.skips = SDI(spatial_dims, channels_in, strides_in, channels=channels, norm=norm)
        self.ups = nn.ModuleList(
            Conv[Conv.CONVTRANS, spatial_dims](channels, channels, 4, stride=2, padding=1, bias=False)
            for _ in strides_in[1:]
        )
        self.channels: tuple[int, ...] = (channels,) * self.levels
        self.strides: tuple[int, ...] = tuple(strides_in)[: self.levels]

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Decode: ``[(B, C_l, *S/s_l), ...] -> [(B, channels, *S/s_l), ...]``, finest first."""
        skips = self.skips(levels)
        x = skips[-1]
        answers = [x]
        for i, up in enumerate(self.ups):
            x = up(x) + skips[len(skips) - 2 - i]
            answers.append(x)
        return answers[::-1][: self.levels]
