"""Encoders by the name that a user may type."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from mtnet.nets.blocks import Norm
from mtnet.nets.encoders.cspdarknet import CSPDarknet53
from mtnet.nets.encoders.efficientnet import SCALES, EfficientNetEncoder
from mtnet.nets.encoders.resnet import LAYERS, ResNetEncoder
from mtnet.nets.encoders.timm_encoder import TimmEncoder, has_network
from mtnet.nets.encoders.vgg import VGG13
from mtnet.nets.state_dict_io import load_state

ENCODERS: dict[str, Callable[..., nn.Module] | None] = {
    **{f"resnet{depth}": partial(ResNetEncoder, depth=depth) for depth in LAYERS},
    **{f"efficientnet_{scale}": partial(EfficientNetEncoder, scale=scale) for scale in SCALES},
    "vgg13": partial(VGG13, pooled_tap=True),
    "vgg13_bn": partial(VGG13, pooled_tap=True),
    "cspdarknet53": CSPDarknet53,
    "resnext50_32x4d": None,
    "wide_resnet50_2": None,
    **{f"pvt_v2_b{i}": None for i in range(6)},
}
"""Name to our constructor for 2D and 3D; ``None`` where there is timm's 2D network alone. Names are timm's."""


def make_encoder(
    name: str,
    spatial_dims: int,
    in_channels: int = 1,
    *,
    norm: Norm = "own",
    pretrained: bool | None = False,
    weights: str | Path | None = None,
    output_stride: int | None = None,
    **options: Any,
) -> nn.Module:
    """The encoder of that name: timm's in 2D, ours in 3D and wherever a norm is asked for.

    Args:
        name: one of ``ENCODERS``, or in 2D any network of timm.
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        norm: ``own`` for the published one (batch norm; none in ``vgg13``; layer norm in ``pvt_v2_*``); another makes
            our network with that, see :func:`mtnet.nets.blocks.make_norm`.
        pretrained: fetch timm's weights, 2D alone; with None take them where there are some and this machine has them.
        weights: a file of weights in place of that, see :class:`TimmEncoder` and :func:`mtnet.nets.load_state`.
        output_stride: 8 or 16 for coarse levels that are dilated instead of strided (for DeepLab).
        options: further arguments of the constructor.

    Returns:
        a module that gives levels, finest first, and tells their ``.channels`` and ``.strides``.

    Raises:
        ValueError: no such encoder for these dimensions or with another norm, no weights to fetch for it, a file that
            does not fit, or an ``output_stride`` that it cannot have.
        RuntimeError, FileNotFoundError: see :class:`TimmEncoder`.
    """
    if spatial_dims not in (2, 3):
        raise ValueError(f"spatial_dims is {spatial_dims}; expected 2 or 3.")
    ours = ENCODERS.get(name)
    if ours is not None and (spatial_dims == 3 or norm != "own" or not has_network(name)):
        return _make_ours(ours, name, spatial_dims, in_channels, norm, pretrained, weights, output_stride, options)
    if spatial_dims == 3 or norm != "own":
        names = ", ".join(known for known, constructor in ENCODERS.items() if constructor is not None)
        raise ValueError(
            f"encoder is {name!r} with spatial_dims={spatial_dims}, norm={norm!r}; expected one of {names}."
        )
    if not has_network(name):
        raise ValueError(
            f"encoder is {name!r}; expected one of {', '.join(ENCODERS)}, or another of timm.list_models()."
        )
    return TimmEncoder(
        name, in_channels, pretrained=pretrained, weights=weights, output_stride=output_stride, **options
    )


def _make_ours(
    constructor: Callable[..., nn.Module],
    name: str,
    spatial_dims: int,
    in_channels: int,
    norm: Norm,
    pretrained: bool | None,
    weights: str | Path | None,
    output_stride: int | None,
    options: dict[str, Any],
) -> nn.Module:
    if pretrained:
        raise ValueError(
            f"There are no weights to fetch for {name!r} with spatial_dims={spatial_dims}, norm={norm!r}: only timm's "
            "2D networks with their own norm have some. Set pretrained to false, or give a file as weights."
        )
    if output_stride is not None:
        if name.startswith("vgg"):
            raise ValueError(f"{name!r} halves by pooling, which cannot be dilated: leave output_stride out.")
        options = {**options, "output_stride": output_stride}
    if norm == "own":
        norm = None if name == "vgg13" else "batch"
    encoder = constructor(spatial_dims, in_channels, norm=norm, **options)
    if weights is not None:
        load_state(encoder, Path(weights))
    return encoder
