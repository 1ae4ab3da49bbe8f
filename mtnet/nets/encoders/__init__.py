"""Encoders: an image to feature levels, finest first."""

from mtnet.nets.encoders.by_name import ENCODERS, make_encoder
from mtnet.nets.encoders.cspdarknet import CSPDarknet53
from mtnet.nets.encoders.efficientnet import EfficientNetEncoder
from mtnet.nets.encoders.resnet import ResNetEncoder
from mtnet.nets.encoders.timm_encoder import TimmEncoder
from mtnet.nets.encoders.vgg import VGG13

__all__ = ["ENCODERS", "VGG13", "CSPDarknet53", "EfficientNetEncoder", "ResNetEncoder", "TimmEncoder", "make_encoder"]
