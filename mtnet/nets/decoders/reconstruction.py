"""Decoder of the reconstruction task: the image back from the bottleneck alone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mtnet.nets.blocks import Norm
from mtnet.nets.upsampled_conv import upsampled_convs


class ReconstructionDecoder(nn.Module):
    """From the coarsest level alone, upsample by 2 (nearest) and convolve, again and again.

    There are no skips: with them the task is solved by copying the image past the bottleneck, and the shared encoder
    learns nothing from it.

    Args:
        spatial_dims: 2 or 3.
        channels_in: of all levels that it is called with, finest first; only the last one counts.
        strides_in: of the same levels.
        channels: of the blocks, coarsest first; as many as it takes to get from the coarsest stride to 1.
        norm: after each convolution.
        convs: 3-wide convolutions a block.

    Raises:
        ValueError: the number of blocks does not lead to stride 1.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels_in: Sequence[int],
        strides_in: Sequence[int],
        *,
        channels: Sequence[int] = (128, 64, 32, 16),
        norm: Norm = "group",
        convs: int = 1,
    ) -> None:
        super().__init__()
        if 2 ** len(channels) != strides_in[-1]:
            raise ValueError(
                f"ReconstructionDecoder channels is {tuple(channels)}: {len(channels)} blocks of factor 2 do not lead "
                f"from stride {strides_in[-1]} to 1."
            )
        widths = (channels_in[-1], *channels)
        self.blocks = nn.ModuleList(
            upsampled_convs(spatial_dims, widths[i], widths[i + 1], convs, norm) for i in range(len(channels))
        )
        self.channels: tuple[int, ...] = (channels[-1],)
        self.strides: tuple[int, ...] = (1,)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Decode: ``[..., (B, C, *S/stride)] -> [(B, channels[-1], *S)]``."""
        x = levels[-1]
        for block in self.blocks:
            x = block(x, [])
        return [x]
