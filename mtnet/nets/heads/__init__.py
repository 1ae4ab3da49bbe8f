"""Heads: levels to named tensors, each described by its ``OutputSpec``."""

from mtnet.nets.heads.classification import ClassificationHead
from mtnet.nets.heads.dense import ReconstructionHead, SegmentationHead
from mtnet.nets.heads.detection import DetectionHead

__all__ = ["ClassificationHead", "DetectionHead", "ReconstructionHead", "SegmentationHead"]
