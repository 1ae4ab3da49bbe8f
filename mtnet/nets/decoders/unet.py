"""U-Net decoder (Ronneberger et al., arXiv 1505.04597) in the layout of segmentation_models_pytorch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mtnet.nets.blocks import Norm, conv_stack
from mtnet.nets.upsampled_conv import upsampled_convs

WIDTHS = (256, 128, 64, 32, 16)
"""Channels of smp's blocks, coarsest first."""


def default_widths(coarsest: int) -> tuple[int, ...]:
    """As many of :data:`WIDTHS` as blocks of factor 2 lead from the stride ``coarsest`` to 1, all at most."""
    return WIDTHS[: max(coarsest.bit_length() - 1, 1)]


def check_blocks(part: str, channels: Sequence[int], coarsest: int, levels: int) -> None:
    """Raise a ``ValueError`` unless the blocks can start at stride ``coarsest`` and are at least ``levels`` many."""
    if not channels or coarsest % 2 ** len(channels):
        raise ValueError(
            f"{part} channels is {tuple(channels)}: {len(channels)} blocks cannot start at stride {coarsest}."
        )
    if not 1 <= levels <= len(channels):
        raise ValueError(f"{part} levels is {levels}; expected 1 to {len(channels)}, the number of blocks.")


class UNetDecoder(nn.Module):
    """From the coarsest level: upsample by 2 (nearest), join the encoder's level of that stride, convolve; repeat.

    One block for each of ``channels``. Where the encoder has no level of a block's stride (a ResNet has none at stride
    1) the block has no skip. Without biases before norms, the numbers of parameters are those of smp's ``Unet``:
    for a ResNet as is; for VGG with ``pooled_tap=True`` there and ``centre=True, finest_skip=False`` here.

    Args:
        spatial_dims: 2 or 3.
        channels_in: of all levels that it is called with, finest first.
        strides_in: of the same levels; powers of 2.
        channels: of the blocks, coarsest first; by default of 256, 128, 64, 32, 16 as many as lead to stride 1. Their
            number sets the stride of the answer: that of the coarsest level divided by 2 so many times.
        norm: after each convolution.
        convs: 3-wide convolutions a block.
        centre: two more convolutions on the coarsest level before the first block.
        finest_skip: whether a block at the finest stride of the encoder sees that level.
        levels: how many of the last blocks' answers are given, for heads that read several scales.

    Raises:
        ValueError: more blocks than the coarsest stride allows, or more ``levels`` than blocks.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels_in: Sequence[int],
        strides_in: Sequence[int],
        *,
        channels: Sequence[int] | None = None,
        norm: Norm = "group",
        convs: int = 2,
        centre: bool = False,
        finest_skip: bool = True,
        levels: int = 1,
    ) -> None:
        super().__init__()
        coarsest = strides_in[-1]
        channels = default_widths(coarsest) if channels is None else tuple(channels)
        check_blocks("UNetDecoder", channels, coarsest, levels)
        strides = [coarsest // 2 ** (i + 1) for i in range(len(channels))]
        skippable = [s for s in strides_in[:-1] if finest_skip or s != strides_in[0]]
        self.skips = [list(strides_in).index(s) if s in skippable else -1 for s in strides]
        self.centre = conv_stack(spatial_dims, channels_in[-1], channels_in[-1], 2 if centre else 0, norm)
        widths = (channels_in[-1], *channels)
        self.blocks = nn.ModuleList(
            upsampled_convs(
                spatial_dims, widths[i] + (channels_in[skip] if skip >= 0 else 0), widths[i + 1], convs, norm
            )
            for i, skip in enumerate(self.skips)
        )
        self.levels = levels
        self.channels: tuple[int, ...] = tuple(reversed(channels))[:levels]
        self.strides: tuple[int, ...] = tuple(reversed(strides))[:levels]

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Decode: ``[(B, C_l, *S/s_l), ...] -> [(B, channels[-1], *S/stride), ...]``, finest first."""
        x = self.centre(levels[-1])
        answers: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            x = block(x, [levels[self.skips[i]]] if self.skips[i] >= 0 else [])
            answers.append(x)
        return answers[::-1][: self.levels]
