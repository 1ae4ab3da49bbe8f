"""A convolution of a level that is upsampled first, without making the upsampled tensor where it can be told to.

Repeating every voxel and convolving with a 3-wide kernel sums the same voxel again and again. It equals one transposed
convolution of stride 2 whose 4-wide kernel holds these sums: 8 taps a voxel instead of 27 in 3D, 4 instead of 9 in 2D
(the sub-pixel form of Shi et al., arXiv 1609.07009, for a nearest-neighbour kernel). At the border both see zeros.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtnet.nets.blocks import ConvNormAct, Norm


class UpsampledConvs(nn.Sequential):
    """3-wide :class:`ConvNormAct`, the first of which sees a level upsampled by 2 (nearest) and joined with finer ones.

    ``folded`` says whether that first one runs as a transposed convolution of the coarse level plus a convolution of
    the others: the same but for rounding, and on a CPU several times faster, in training as well. See
    :func:`fold_upsampling`.
    """

    def __init__(self, *convs: ConvNormAct) -> None:
        super().__init__(*convs)
        self.folded = False

    # TorchScript reads no comment behind an ignored type: a Sequential's own forward takes one tensor.
    def forward(self, coarse: Tensor, others: list[Tensor]) -> Tensor:  # type: ignore[override]
        """``(B, C, *S)`` and tensors ``(B, C_i, *2S)``, whose channels follow -> ``(B, channels, *2S)``."""
        if not torch.jit.is_scripting() and self.folded:  # type: ignore[attr-defined]
            first, *layers = self.children()
            conv, *rest = first.children()
            x = _folded(conv, coarse, others)
            for layer in (*rest, *layers):
                x = layer(x)
            return x
        x = F.interpolate(coarse, scale_factor=2.0, mode="nearest")
        if len(others) > 0:
            x = torch.cat([x] + others, dim=1)  # noqa: RUF005  # TorchScript has no unpacking in lists
        for layer in self:
            x = layer(x)
        return x


def upsampled_convs(spatial_dims: int, channels_in: int, channels: int, convs: int, norm: Norm) -> UpsampledConvs:
    """:class:`UpsampledConvs` with ``convs`` convolutions, the first from ``channels_in`` of all levels together."""
    widths = (channels_in, *(channels for _ in range(convs)))
    return UpsampledConvs(*(ConvNormAct(spatial_dims, widths[i], widths[i + 1], norm=norm) for i in range(convs)))


def fold_upsampling(network: nn.Module, folded: bool) -> None:
    """Say of every :class:`UpsampledConvs` of a network whether they run folded."""
    for module in network.modules():
        if isinstance(module, UpsampledConvs):
            module.folded = folded


def _folded(conv: nn.Module, coarse: Tensor, others: list[Tensor]) -> Tensor:
    weight: Any = conv.weight
    bias: Any = conv.bias
    channels = coarse.shape[1]
    transposed, convolve = (F.conv_transpose2d, F.conv2d) if coarse.ndim == 4 else (F.conv_transpose3d, F.conv3d)
    answer = transposed(coarse, _summed_kernel(weight[:, :channels]), bias, stride=2, padding=1)
    for other in others:
        own = weight[:, channels : channels + other.shape[1]]
        answer = answer + convolve(other, own, padding=1)
        channels += other.shape[1]
    return answer


def _summed_kernel(weight: Tensor) -> Tensor:
    """Of a 3-wide kernel ``(O, I, 3...)`` the 4-wide one of the transposed convolution, ``(I, O, 4...)``."""
    axes = list(range(2, weight.ndim))
    kernel = weight.flip(axes).transpose(0, 1)
    for axis in axes:
        behind = 2 * (weight.ndim - 1 - axis)
        before, after = [0] * (2 * weight.ndim - 4), [0] * (2 * weight.ndim - 4)
        before[behind], after[behind + 1] = 1, 1
        kernel = F.pad(kernel, before) + F.pad(kernel, after)
    return kernel
