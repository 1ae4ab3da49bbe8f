"""Decoders: levels of an encoder or a neck to the level or levels that one head reads."""

from mtnet.nets.decoders.by_name import DECODERS, make_decoder
from mtnet.nets.decoders.deeplab import ASPP, DeepLabV3PlusDecoder
from mtnet.nets.decoders.fpn import FPNDecoder
from mtnet.nets.decoders.infused_unet import InfusedUNetDecoder
from mtnet.nets.decoders.levels import PickLevels
from mtnet.nets.decoders.reconstruction import ReconstructionDecoder
from mtnet.nets.decoders.residual_vector import ResidualVector
from mtnet.nets.decoders.unet import UNetDecoder
from mtnet.nets.decoders.unet_v2 import UNetV2Decoder
from mtnet.nets.decoders.unetplusplus import UNetPlusPlusDecoder
from mtnet.nets.decoders.yolo import LevelTowers, YOLOSegmentationDecoder

__all__ = [
    "ASPP",
    "DECODERS",
    "DeepLabV3PlusDecoder",
    "FPNDecoder",
    "InfusedUNetDecoder",
    "LevelTowers",
    "PickLevels",
    "ReconstructionDecoder",
    "ResidualVector",
    "UNetDecoder",
    "UNetPlusPlusDecoder",
    "UNetV2Decoder",
    "YOLOSegmentationDecoder",
    "make_decoder",
]
