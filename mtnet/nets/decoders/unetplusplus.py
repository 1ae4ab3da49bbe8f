"""U-Net++ decoder (Zhou et al., arXiv 1807.10165) in the layout of segmentation_models_pytorch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mtnet.nets.blocks import Norm, check_doubling, check_levels
from mtnet.nets.decoders.unet import check_blocks, default_widths
from mtnet.nets.upsampled_conv import upsampled_convs


class UNetPlusPlusDecoder(nn.Module):
    """A U-Net whose every skip is itself a small U-Net: node X(level, column) sees all nodes before it on its level.

    The paper numbers levels from the finest and columns from the encoder's; a node reads the node below it in the
    column before (upsampled by 2, nearest) and all earlier nodes on its level. As in smp, nodes inside the triangle are
    as wide as the encoder's level, those of the last column as wide as ``channels`` says. Parameters and answers are
    those of smp's ``UnetPlusPlus`` with ``norm="batch"``.

    Args:
        spatial_dims: 2 or 3.
        channels_in: of all levels that it is called with, finest first.
        strides_in: of the same levels; each twice the one before.
        channels: of the last column, coarsest first; by default of 256, 128, 64, 32, 16 as many as lead to stride 1.
            Blocks beyond the encoder's finest level have no skip.
        norm: after each convolution.
        convs: 3-wide convolutions a node.
        levels: how many of the last column's answers are given, for heads that read several scales.

    Raises:
        ValueError: strides that do not double, fewer blocks than the encoder has finer levels, more blocks than the
            coarsest stride allows, or more ``levels`` than blocks.
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
        levels: int = 1,
    ) -> None:
        super().__init__()
        check_levels("UNetPlusPlusDecoder", channels_in, strides_in)
        coarsest, depth = strides_in[-1], len(strides_in) - 1
        check_doubling("UNetPlusPlusDecoder", strides_in)
        widths = default_widths(coarsest) if channels is None else tuple(channels)
        check_blocks("UNetPlusPlusDecoder", widths, coarsest, levels)
        if len(widths) < depth:
            raise ValueError(
                f"UNetPlusPlusDecoder channels is {widths}: its last column has a block for each of the {depth} levels "
                "above the coarsest."
            )

        # All that a node can read stands in one list: the levels, coarsest first, then the nodes in the order of their
        # making. Row 0 is the coarsest level; a node has a row and the row at which its diagonal starts.
        sizes = list(reversed(channels_in))
        made: dict[tuple[int, int], int] = {}
        ends: list[int] = []
        reads: list[list[int]] = []
        self.blocks = nn.ModuleList()
        for column in range(depth):
            for row in range(column + 1, depth + 1):
                start = row - 1 - column
                below = start if column == 0 else made[row - 1, start]
                reads.append([below, *(made[row, other] for other in range(start + 1, row)), row])
                made[row, start] = len(sizes)
                if start == 0:
                    ends.append(len(sizes))
                sizes.append(widths[row - 1] if start == 0 else sizes[row])
        for width in widths[depth:]:
            ends.append(len(sizes))
            reads.append([len(sizes) - 1])
            sizes.append(width)
        for node, read in enumerate(reads, start=depth + 1):
            self.blocks.append(upsampled_convs(spatial_dims, sum(sizes[i] for i in read), sizes[node], convs, norm))

        self.reads = reads
        self.given = ends[::-1][:levels]
        self.channels: tuple[int, ...] = widths[::-1][:levels]
        self.strides: tuple[int, ...] = tuple(coarsest // 2 ** (len(widths) - i) for i in range(levels))

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Decode: ``[(B, C_l, *S/s_l), ...] -> [(B, channels[-1], *S/stride), ...]``, finest first."""
        made = levels[::-1]
        for i, block in enumerate(self.blocks):
            others: list[Tensor] = []
            for j in self.reads[i][1:]:
                others.append(made[j])
            made.append(block(made[self.reads[i][0]], others))
        return [made[i] for i in self.given]
