"""MONAI's EfficientNet (Tan and Le, arXiv 1905.11946) as an encoder for 2D and 3D."""

from __future__ import annotations

from monai.networks.nets.efficientnet import EfficientNet
from torch import Tensor, nn

from mtnet.nets.blocks import Norm
from mtnet.nets.encoders.rebuild import dilate_stages, replace_batch_norm

B0_BLOCKS = (
    "r1_k3_s11_e1_i32_o16_se0.25",
    "r2_k3_s22_e6_i16_o24_se0.25",
    "r2_k5_s22_e6_i24_o40_se0.25",
    "r3_k3_s22_e6_i40_o80_se0.25",
    "r3_k5_s11_e6_i80_o112_se0.25",
    "r4_k5_s22_e6_i112_o192_se0.25",
    "r1_k3_s11_e6_i192_o320_se0.25",
)
"""Table 1 of the paper in MONAI's notation: repeats, kernel, stride, expansion, channels in and out, squeeze."""

SCALES: dict[str, tuple[float, float]] = {
    "b0": (1.0, 1.0),
    "b1": (1.0, 1.1),
    "b2": (1.1, 1.2),
    "b3": (1.2, 1.4),
    "b4": (1.4, 1.8),
    "b5": (1.6, 2.2),
    "b6": (1.8, 2.6),
    "b7": (2.0, 3.1),
}
"""Factors of width and depth."""


class EfficientNetEncoder(nn.Module):
    """The trunk of an EfficientNet: levels at strides 2 to 32, without the 1-wide convolution before the classifier.

    MONAI pads like TensorFlow, by an amount fixed for one image size; here every convolution pads evenly on both sides
    (and in 2D with batch norm it is timm's ``efficientnet_b*``, tensor by tensor in the same order).

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        scale: ``b0`` to ``b7``.
        norm: see :func:`mtnet.nets.blocks.make_norm`; the paper's is ``"batch"``.
        drop_path: probability of skipping the last block for a sample in training; earlier blocks have less.
        output_stride: see :func:`mtnet.nets.encoders.rebuild.dilate_stages`.

    Raises:
        ValueError: another scale, or an impossible ``output_stride``.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int = 1,
        scale: str = "b0",
        norm: Norm = "group",
        drop_path: float = 0.0,
        output_stride: int | None = None,
    ) -> None:
        super().__init__()
        if scale not in SCALES:
            raise ValueError(f"EfficientNetEncoder scale is {scale!r}; expected one of {', '.join(SCALES)}.")
        width, depth = SCALES[scale]
        trunk = EfficientNet(
            list(B0_BLOCKS),
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            num_classes=1,
            width_coefficient=width,
            depth_coefficient=depth,
            norm="batch",
            drop_connect_rate=drop_path,
        )
        if norm != "batch":
            replace_batch_norm(trunk, norm, spatial_dims)
        blocks = [block for stack in trunk._blocks for block in stack]
        for module in (trunk, *blocks):
            _pad_evenly(module)
        stages: list[list[nn.Module]] = [[trunk._conv_stem, trunk._bn0, nn.SiLU(inplace=True)]]
        channels: list[int] = []
        for block in blocks:
            if block.stride > 1:
                stages.append([])
                channels.append(block.in_channels)
            block._swish = nn.SiLU()
            stages[-1].append(block)
        self.stages = nn.ModuleList(nn.Sequential(*stage) for stage in stages)
        self.channels: tuple[int, ...] = (*channels, blocks[-1].out_channels)
        self.strides = dilate_stages(list(self.stages), (2, 4, 8, 16, 32), output_stride)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Give what stands before each halving, and the last: ``(B, C, *S) -> [(B, 16, *S/2), (B, 24, *S/4), ...]``."""
        levels: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels


def _pad_evenly(module: nn.Module) -> None:
    for name, conv in list(module.named_children()):
        if isinstance(conv, nn.Conv2d | nn.Conv3d):
            conv.padding = tuple(width // 2 for width in conv.kernel_size)
            setattr(module, f"{name}_padding", nn.Identity())
