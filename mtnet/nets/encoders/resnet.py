"""MONAI's ResNet (He et al., arXiv 1512.03385) as an encoder for 2D and 3D."""

from __future__ import annotations

from monai.networks.nets.resnet import ResNet
from torch import Tensor, nn

from mtnet.nets.blocks import Norm
from mtnet.nets.encoders.rebuild import dilate_stages, replace_batch_norm

LAYERS: dict[int, tuple[str, tuple[int, int, int, int]]] = {
    10: ("basic", (1, 1, 1, 1)),
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
}
"""Depth to kind of block and blocks a stage; 10 is MONAI's, the others are table 1 of the paper."""


class ResNetEncoder(nn.Module):
    """The trunk of a ResNet: five levels at strides 2, 4, 8, 16 and 32, no pooling to a vector, no last layer.

    MONAI's defaults keep the first convolution at stride 1, give the shortcut convolutions a bias and take shortcuts
    without parameters for depths 18 and 34; here it is set up as the paper and torchvision have it.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        depth: 10, 18, 34 or 50.
        norm: see :func:`mtnet.nets.blocks.make_norm`; the paper's is ``"batch"``.
        width: channels of the first convolution, 64 in the paper; all others grow with it.
        output_stride: see :func:`mtnet.nets.encoders.rebuild.dilate_stages`.

    Raises:
        ValueError: another depth, or an impossible ``output_stride``.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int = 1,
        depth: int = 50,
        norm: Norm = "group",
        width: int = 64,
        output_stride: int | None = None,
    ) -> None:
        super().__init__()
        if depth not in LAYERS:
            raise ValueError(f"ResNetEncoder depth is {depth}; expected one of {', '.join(map(str, LAYERS))}.")
        block, layers = LAYERS[depth]
        trunk = ResNet(
            block=block,
            layers=list(layers),
            block_inplanes=[width, 2 * width, 4 * width, 8 * width],
            spatial_dims=spatial_dims,
            n_input_channels=in_channels,
            conv1_t_stride=2,
            shortcut_type="B",
            feed_forward=False,
            bias_downsample=False,
        )
        # MONAI 1.6.1 takes norm= for the first layer alone: its stages are always built with batch norm.
        if norm != "batch":
            replace_batch_norm(trunk, norm, spatial_dims)
        self.stem = nn.Sequential(trunk.conv1, trunk.bn1, trunk.act)
        self.stages = nn.ModuleList(
            (nn.Sequential(trunk.maxpool, trunk.layer1), trunk.layer2, trunk.layer3, trunk.layer4)
        )
        expansion = 4 if block == "bottleneck" else 1
        self.channels: tuple[int, ...] = (width, *(width * expansion * 2**i for i in range(4)))
        self.strides = dilate_stages([self.stem, *self.stages], (2, 4, 8, 16, 32), output_stride)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Give the first convolution and the four stages: ``(B, C, *S) -> [(B, 64, *S/2), (B, 256, *S/4), ...]``."""
        x = self.stem(x)
        levels = [x]
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels
