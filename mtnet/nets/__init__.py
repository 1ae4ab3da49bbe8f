"""Encoders, necks, decoders, heads, and the network that joins them."""

from mtnet.nets.decoders import PickLevels, ReconstructionDecoder, UNetDecoder
from mtnet.nets.encoders import VGG13, ResNetEncoder
from mtnet.nets.heads import ClassificationHead, DetectionHead, ReconstructionHead, SegmentationHead
from mtnet.nets.necks import FPN
from mtnet.nets.network import Branch, MultiTaskNet
from mtnet.nets.state_dict_io import load_state, read_state, save_state

__all__ = [
    "FPN",
    "VGG13",
    "Branch",
    "ClassificationHead",
    "DetectionHead",
    "MultiTaskNet",
    "PickLevels",
    "ReconstructionDecoder",
    "ReconstructionHead",
    "ResNetEncoder",
    "SegmentationHead",
    "UNetDecoder",
    "load_state",
    "read_state",
    "save_state",
]
