"""Loss terms, and their weighting into one number."""

from mtnet.losses.bag import BagClassificationLoss
from mtnet.losses.boxes import BOX_LOSS_KINDS, BoxLossKind, box_loss
from mtnet.losses.detection import DenseDetectionLoss
from mtnet.losses.dice import DiceLoss, GeneralizedDiceLoss
from mtnet.losses.focal import FocalLoss, sigmoid_focal, softmax_focal
from mtnet.losses.multitask import MultiTaskLoss
from mtnet.losses.quality_focal import quality_focal
from mtnet.losses.reconstruction import MaskedL1Loss
from mtnet.losses.segmentation import SegmentationLoss

__all__ = [
    "BOX_LOSS_KINDS",
    "BagClassificationLoss",
    "BoxLossKind",
    "DenseDetectionLoss",
    "DiceLoss",
    "FocalLoss",
    "GeneralizedDiceLoss",
    "MaskedL1Loss",
    "MultiTaskLoss",
    "SegmentationLoss",
    "box_loss",
    "quality_focal",
    "sigmoid_focal",
    "softmax_focal",
]
