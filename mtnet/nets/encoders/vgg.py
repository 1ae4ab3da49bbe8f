"""VGG-13 (Simonyan and Zisserman, arXiv 1409.1556, configuration B) as an encoder for 2D and 3D."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.layers.factories import Pool
from torch import Tensor, nn

from mtnet.nets.blocks import ConvNormAct, Norm


class VGG13(nn.Module):
    """Five stages of two 3-wide convolutions; a max-pool of 2 stands between stages.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        channels: of the five stages. The paper's are 64 to 512; ``(16, 32, 64, 128, 128)`` makes a compact 3D network.
        norm: after each convolution (see :func:`mtnet.nets.blocks.make_norm`); ``None`` is the paper's own network.
        pooled_tap: also give the last stage after a fifth max-pool, at stride 32.

    Convolutions have a bias also before a norm, as in torchvision's ``vgg13_bn``, whose number of parameters it has.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int = 1,
        channels: Sequence[int] = (64, 128, 256, 512, 512),
        norm: Norm = "group",
        pooled_tap: bool = False,
    ) -> None:
        super().__init__()
        if len(channels) != 5:
            raise ValueError(f"VGG13 channels is {tuple(channels)}; expected one number for each of its five stages.")
        widths = (in_channels, *channels)
        self.stages = nn.ModuleList(
            nn.Sequential(
                ConvNormAct(spatial_dims, widths[i], widths[i + 1], norm=norm, bias=True),
                ConvNormAct(spatial_dims, widths[i + 1], widths[i + 1], norm=norm, bias=True),
            )
            for i in range(5)
        )
        self.pool: nn.Module = Pool[Pool.MAX, spatial_dims](2)
        self.pooled_tap = pooled_tap
        self.channels: tuple[int, ...] = (*channels, channels[-1]) if pooled_tap else tuple(channels)
        self.strides: tuple[int, ...] = (1, 2, 4, 8, 16, 32) if pooled_tap else (1, 2, 4, 8, 16)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Give the features before each max-pool: ``(B, C, *S) -> [(B, 64, *S), (B, 128, *S/2), ...]``."""
        levels: list[Tensor] = []
        for i, stage in enumerate(self.stages):
            x = stage(x if i == 0 else self.pool(x))
            levels.append(x)
        if self.pooled_tap:
            levels.append(self.pool(x))
        return levels
