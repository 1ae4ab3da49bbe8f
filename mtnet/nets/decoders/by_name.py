"""Segmentation decoders by the name that a user may type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from mtnet.nets.decoders.deeplab import DeepLabV3PlusDecoder
from mtnet.nets.decoders.fpn import FPNDecoder
from mtnet.nets.decoders.infused_unet import InfusedUNetDecoder
from mtnet.nets.decoders.unet import UNetDecoder
from mtnet.nets.decoders.unet_v2 import UNetV2Decoder
from mtnet.nets.decoders.unetplusplus import UNetPlusPlusDecoder
from mtnet.nets.decoders.yolo import YOLOSegmentationDecoder

DECODERS: dict[str, Callable[..., nn.Module]] = {
    "unet": UNetDecoder,
    "unetplusplus": UNetPlusPlusDecoder,
    "fpn": FPNDecoder,
    "deeplabv3plus": DeepLabV3PlusDecoder,
    "unet_v2": UNetV2Decoder,
    "infused_unet": InfusedUNetDecoder,
    "yolo": YOLOSegmentationDecoder,
}
"""Name to constructor."""


def make_decoder(
    name: str, spatial_dims: int, channels_in: Sequence[int], strides_in: Sequence[int], **options: Any
) -> nn.Module:
    """The segmentation decoder of that name; the strides of its answers are its ``.strides``, not always 1.

    Args:
        name: one of ``DECODERS``.
        spatial_dims: 2 or 3.
        channels_in: of all levels that it is called with, finest first.
        strides_in: of the same levels.
        options: further arguments of the constructor; every decoder takes ``norm``.

    Raises:
        ValueError: no decoder has that name, or it cannot read those levels.
    """
    if name not in DECODERS:
        raise ValueError(f"decoder is {name!r}; expected one of {', '.join(DECODERS)}.")
    return DECODERS[name](spatial_dims, channels_in, strides_in, **options)
