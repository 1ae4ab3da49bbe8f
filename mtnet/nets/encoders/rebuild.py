"""Two changes to a trunk that somebody else's constructor has built: another norm, and a finer last level."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from mtnet.nets.blocks import Norm, make_norm


def replace_batch_norm(module: nn.Module, norm: Norm, spatial_dims: int) -> None:
    """Put a layer of :func:`mtnet.nets.blocks.make_norm` in the place of every batch norm in ``module``, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d | nn.BatchNorm3d):
            setattr(module, name, make_norm(norm, spatial_dims, child.num_features))
        else:
            replace_batch_norm(child, norm, spatial_dims)


def dilate_stages(stages: Sequence[nn.Module], strides: Sequence[int], output_stride: int | None) -> tuple[int, ...]:
    """Turn strides beyond ``output_stride`` into dilations, in place (DeepLab, arXiv 1706.05587); no weight changes.

    A convolution that loses its stride keeps the dilation of the stage before; those after it in the stage are dilated
    by all that was lost so far, so that each reads the same voxels of the image as it did (timm does the same).

    Args:
        stages: one a level, finest first. Those that lose their stride must have it in a convolution.
        strides: of the levels.
        output_stride: the coarsest stride to keep, or ``None`` for all.

    Returns:
        the strides that the levels have now.

    Raises:
        ValueError: ``output_stride`` is neither 8 nor 16 nor the trunk's own.
    """
    if output_stride is None:
        return tuple(strides)
    if output_stride not in strides or output_stride < 8:
        raise ValueError(f"output_stride is {output_stride}; expected one of {[s for s in strides if s >= 8]}.")
    before = 1
    for stage, stride in zip(stages, strides, strict=True):
        after = max(stride // output_stride, 1)
        if after > 1:
            for module in stage.modules():
                if isinstance(module, nn.Conv2d | nn.Conv3d):
                    _dilate(module, before if max(module.stride) > 1 else after)
        before = after
    return tuple(min(stride, output_stride) for stride in strides)


def _dilate(conv: nn.Conv2d | nn.Conv3d, dilation: int) -> None:
    width = conv.kernel_size[0]
    conv.stride = (1,) * len(conv.stride)
    # A 1-wide kernel reads one voxel, dilated or not.
    if width > 1:
        conv.dilation = (dilation,) * len(conv.stride)
        conv.padding = (width // 2 * dilation,) * len(conv.stride)
