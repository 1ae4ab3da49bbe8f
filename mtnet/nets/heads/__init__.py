"""Heads: levels to named tensors, each described by its ``OutputSpec``."""

from mtnet.nets.heads.classification import ClassificationHead
from mtnet.nets.heads.decoding import DecodingHead
from mtnet.nets.heads.dense import ReconstructionHead, SegmentationHead
from mtnet.nets.heads.detection import DetectionHead
from mtnet.nets.heads.regression import RegressionHead

__all__ = [
    "ClassificationHead",
    "DecodingHead",
    "DetectionHead",
    "ReconstructionHead",
    "RegressionHead",
    "SegmentationHead",
]
