"""Heads that answer for every voxel: segmentation and reconstruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn
from torch.nn import functional as F

from mtnet.nets.blocks import make_conv, make_dropout
from mtnet.structures import Label, OutputSpec
from mtnet.structures.outputs import Activation


class _DenseHead(nn.Module):
    """Dropout, one convolution on the level that the output is read from, and interpolation to the output's stride."""

    def __init__(
        self,
        spatial_dims: int,
        channels_in: Sequence[int],
        strides_in: Sequence[int],
        *,
        output: OutputSpec,
        kernel_size: int,
        dropout: float,
        upsample: int = 1,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        if output.kind != "dense" or upsample < 1 or output.strides[0] * upsample not in strides_in:
            raise ValueError(
                f"Output {output.name!r} is {output.kind} with strides {output.strides} and upsample {upsample}; "
                f"expected a dense one whose stride times upsample is one of the decoder's strides {tuple(strides_in)}."
            )
        self.level = list(strides_in).index(output.strides[0] * upsample)
        self.name = output.name
        self.dropout = make_dropout(dropout, spatial_dims)
        self.conv = _answering_conv(spatial_dims, channels_in[self.level], output.value_channels, kernel_size)
        self.upsample = upsample
        self.align_corners = align_corners
        self.mode = "bilinear" if spatial_dims == 2 else "trilinear"
        self.outputs: tuple[OutputSpec, ...] = (output,)

    def forward(self, levels: list[Tensor]) -> dict[str, Tensor]:
        """Answer: ``[(B, C, *S/stride), ...] -> {name: (B, channels, *S/stride)}``, logits or values."""
        return {self.name: self.grown(self.conv(self.dropout(levels[self.level])))}

    def grown(self, answer: Tensor) -> Tensor:
        """Interpolate ``(B, channels, *S)`` linearly to ``upsample`` times its size."""
        if self.upsample == 1:
            return answer
        size = [n * self.upsample for n in answer.shape[2:]]
        return F.interpolate(answer, size=size, mode=self.mode, align_corners=self.align_corners)


class SegmentationHead(_DenseHead):
    """One logit a label and voxel, and the same from coarser levels while it trains (deep supervision).

    Auxiliary answers are given in training mode alone, under ``<name>_aux_s<stride>``; ``.auxiliary`` describes them.
    They are no outputs: whatever reads ``.outputs`` (engine, exporters, hosts) never meets them.

    Args:
        spatial_dims: 2 or 3.
        channels_in: of the levels that the decoder gives.
        strides_in: of the same levels.
        labels: one a channel; with softmax the first is the background.
        name: of the output; the primary one is ``pred``.
        activation: ``softmax`` for labels that exclude each other, ``sigmoid`` for ones that may overlap.
        kernel_size: odd edge of the convolutions in voxels.
        dropout: probability with which a channel is dropped before them.
        upsample: the logits are interpolated linearly to so many times the level's size.
        align_corners: put the corners' centres, not their outer faces, upon each other (as smp's heads do).
        auxiliary_strides: of the further levels that answer in training, each upsampled likewise.
        output: the whole specification, in place of ``labels``, ``name`` and ``activation``.

    Raises:
        ValueError: neither labels nor a dense ``output`` with them, its stride times ``upsample`` is not among
            ``strides_in``, or an auxiliary stride is not, or is the output's own.
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
        upsample: int = 1,
        align_corners: bool = False,
        auxiliary_strides: Sequence[int] = (),
        output: OutputSpec | None = None,
    ) -> None:
        if output is None:
            output = OutputSpec(name, "dense", tuple(labels), (strides_in[0] // upsample,), activation)
        if not output.labels:
            raise ValueError(f"SegmentationHead output {output.name!r} has no labels; expected one a channel.")
        super().__init__(
            spatial_dims,
            channels_in,
            strides_in,
            output=output,
            kernel_size=kernel_size,
            dropout=dropout,
            upsample=upsample,
            align_corners=align_corners,
        )
        possible = [s for i, s in enumerate(strides_in) if i != self.level and s % upsample == 0]
        if not set(auxiliary_strides) <= set(possible) or len(set(auxiliary_strides)) != len(auxiliary_strides):
            raise ValueError(
                f"SegmentationHead auxiliary_strides is {tuple(auxiliary_strides)}; expected some of {tuple(possible)}."
            )
        self.auxiliary_levels = [list(strides_in).index(stride) for stride in auxiliary_strides]
        self.auxiliary_convs = nn.ModuleList(
            _answering_conv(spatial_dims, channels_in[level], len(output.labels), kernel_size)
            for level in self.auxiliary_levels
        )
        strides = [stride // upsample for stride in auxiliary_strides]
        self.auxiliary_names = [f"{output.name}_aux_s{stride}" for stride in strides]
        self.auxiliary: tuple[OutputSpec, ...] = tuple(
            replace(output, name=name, strides=(stride,))
            for name, stride in zip(self.auxiliary_names, strides, strict=True)
        )

    def forward(self, levels: list[Tensor]) -> dict[str, Tensor]:
        """Answer: ``[(B, C, *S/s), ...] -> {name: (B, labels, *S/stride)}``, in training with the auxiliary ones."""
        answers = {self.name: self.grown(self.conv(self.dropout(levels[self.level])))}
        if self.training:
            for i, conv in enumerate(self.auxiliary_convs):
                level = levels[self.auxiliary_levels[i]]
                answers[self.auxiliary_names[i]] = self.grown(conv(self.dropout(level)))
        return answers


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


def _answering_conv(spatial_dims: int, channels_in: int, channels: int, kernel_size: int) -> nn.Module:
    """Glorot's initialisation (as smp's heads have it): He's by the fan-out takes the few channels of an answer for a
    reason for large weights, and from logits of 5 and more a network learns slowly."""
    conv = make_conv(spatial_dims, channels_in, channels, kernel_size)
    nn.init.xavier_uniform_(conv.weight)
    return conv
