"""Encoders, necks, decoders, heads, and the network that joins them."""

from mtnet.nets.decoders import PickLevels, ReconstructionDecoder, UNetDecoder
from mtnet.nets.encoders import (
    ENCODERS,
    VGG13,
    CSPDarknet53,
    EfficientNetEncoder,
    ResNetEncoder,
    TimmEncoder,
    make_encoder,
)
from mtnet.nets.heads import (
    ClassificationHead,
    DecodingHead,
    DetectionHead,
    ReconstructionHead,
    RegressionHead,
    SegmentationHead,
)
from mtnet.nets.interactions import INTERACTIONS, CrossScaleInteraction, ResidualTaskLinks, make_interaction
from mtnet.nets.necks import FPN
from mtnet.nets.network import Branch, MultiTaskNet
from mtnet.nets.state_dict_io import load_state, read_state, save_state

__all__ = [
    "ENCODERS",
    "FPN",
    "INTERACTIONS",
    "VGG13",
    "Branch",
    "CSPDarknet53",
    "ClassificationHead",
    "CrossScaleInteraction",
    "DecodingHead",
    "DetectionHead",
    "EfficientNetEncoder",
    "MultiTaskNet",
    "PickLevels",
    "ReconstructionDecoder",
    "ReconstructionHead",
    "RegressionHead",
    "ResNetEncoder",
    "ResidualTaskLinks",
    "SegmentationHead",
    "TimmEncoder",
    "UNetDecoder",
    "load_state",
    "make_encoder",
    "make_interaction",
    "read_state",
    "save_state",
]
