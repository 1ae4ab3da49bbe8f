"""Encoders: an image to feature levels, finest first."""

from mtnet.nets.encoders.resnet import ResNetEncoder
from mtnet.nets.encoders.vgg import VGG13

__all__ = ["VGG13", "ResNetEncoder"]
