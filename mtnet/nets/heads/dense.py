"""Heads that answer for every voxel: segmentation and reconstruction."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mtnet.nets.blocks import make_conv, make_dropout
from mtnet.structures import Label, OutputSpec
from mtnet.structures.outputs import Activation


class _DenseHead(nn.Module):
    """Dropout and one convolution on the level whose stride the output has."""

    def __init__(
        self,
        spatial_dims: int,
        channels_in: Sequence[int],
        strides_in: Sequence[int],
        *,
        output: OutputSpec,
        kernel_size: int,
        dropout: float,
    ) -> None:
        super().__init__()
        if output.kind != "dense" or output.strides[0] not in strides_in:
            raise ValueError(
                f"Output {output.name!r} is {output.kind} with strides {output.strides}; "
                f"expected a dense one with one of the decoder's strides {tuple(strides_in)}."
            )
        self.level = list(strides_in).index(output.strides[0])
        self.name = output.name
        self.dropout = make_dropout(dropout, spatial_dims)
        self.conv = make_conv(spatial_dims, channels_in[self.level], max(len(output.labels), 1), kernel_size)
        self.outputs: tuple[OutputSpec, ...] = (output,)

    def forward(self, levels: list[Tensor]) -> dict[str, Tensor]:
        """Answer: ``[(B, C, *S/stride), ...] -> {name: (B, channels, *S/stride)}``, logits or values."""
        return {self.name: self.conv(self.dropout(levels[self.level]))}


class SegmentationHead(_DenseHead):
    """One logit a label and voxel.

    Args:
        spatial_dims: 2 or 3.
        channels_in: of the levels that the decoder gives.
        strides_in: of the same levels.
        labels: one a channel; with softmax the first is the background.
        name: of the output; the primary one is ``pred``.
        activation: ``softmax`` for labels that exclude each other, ``sigmoid`` for ones that may overlap.
        kernel_size: odd edge of the convolution in voxels.
        dropout: probability with which a channel is dropped before it.
        output: the whole specification, in place of ``labels``, ``name`` and ``activation``.

    Raises:
        ValueError: neither labels nor a dense ``output`` with them, or its stride is not among ``strides_in``.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels_in: Sequence[int],
        strides_in: Sequence[int],
        *,
        labels: Sequence[Label] = (),
        name: str = "pred",
        activation: Activation = "softmax",
        kernel_size: int = 3,
        dropout: float = 0.0,
        output: OutputSpec | None = None,
    ) -> None:
        if output is None:
            output = OutputSpec(name, "dense", tuple(labels), (strides_in[0],), activation)
        if not output.labels:
            raise ValueError(f"SegmentationHead output {output.name!r} has no labels; expected one a channel.")
        super().__init__(spatial_dims, channels_in, strides_in, output=output, kernel_size=kernel_size, dropout=dropout)


class ReconstructionHead(_DenseHead):
    """One value a voxel: the image as the network got it.

    Args:
        spatial_dims: 2 or 3.
        channels_in: of the levels that the decoder gives.
        strides_in: of the same levels.
        name: of the output.
        units: of its values; ``normalised`` as preprocessing made them.
        background: value outside the region that was looked at.
        kernel_size: odd edge of the convolution in voxels.
        dropout: probability with which a channel is dropped before it.
        output: the whole specification, in place of ``name``, ``units`` and ``background``.
        scale, offset: the answer is ``offset + scale * convolution`` in float32: what brings values that preprocessing
            mapped to 0..1 back to the units of the output.

    Raises:
        ValueError: ``output`` is not dense, or its stride is not among ``strides_in``.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels_in: Sequence[int],
        strides_in: Sequence[int],
        *,
        name: str = "reconstruction",
        units: str = "normalised",
        background: float = 0.0,
        kernel_size: int = 3,
        dropout: float = 0.0,
        output: OutputSpec | None = None,
        scale: float = 1.0,
        offset: float = 0.0,
    ) -> None:
        if output is None:
            output = OutputSpec(name, "dense", strides=(strides_in[0],), background=background, units=units)
        super().__init__(spatial_dims, channels_in, strides_in, output=output, kernel_size=kernel_size, dropout=dropout)
        self.scale = scale
        self.offset = offset

    def forward(self, levels: list[Tensor]) -> dict[str, Tensor]:
        """Answer: ``[(B, C, *S/stride), ...] -> {name: (B, channels, *S/stride)}`` in the output's units."""
        drawn = self.conv(self.dropout(levels[self.level])).float()
        return {self.name: drawn * self.scale + self.offset}
