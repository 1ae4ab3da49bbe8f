"""Loss terms, and their weighting into one number."""

from mtnet.losses.bag import BagClassificationLoss
from mtnet.losses.boxes import BOX_LOSS_KINDS, BoxLossKind, box_loss
from mtnet.losses.by_kind import LOSSES, loss_of_outputs
from mtnet.losses.by_name import (
    RECONSTRUCTION_LOSSES,
    REGRESSION_LOSSES,
    SEGMENTATION_LOSSES,
    make_reconstruction_loss,
    make_regression_loss,
    make_segmentation_loss,
)
from mtnet.losses.classification import ClassificationLoss
from mtnet.losses.deep_supervision import DeepSupervisionLoss
from mtnet.losses.detection import DenseDetectionLoss
from mtnet.losses.dice import DiceLoss, GeneralizedDiceLoss
from mtnet.losses.focal import FocalLoss, inverse_frequency, sigmoid_focal, softmax_focal
from mtnet.losses.multitask import WEIGHTINGS, MultiTaskLoss
from mtnet.losses.quality_focal import quality_focal
from mtnet.losses.reconstruction import MaskedL1Loss
from mtnet.losses.regression import GaussianRegressionLoss, RegressionLoss
from mtnet.losses.segmentation import BinarySegmentationLoss, SegmentationLoss
from mtnet.losses.ssim import SSIMLoss
from mtnet.losses.structure import StructureLoss
from mtnet.losses.weighting import UncertaintyWeighting, convex_weights

__all__ = [
    "BOX_LOSS_KINDS",
    "LOSSES",
    "RECONSTRUCTION_LOSSES",
    "REGRESSION_LOSSES",
    "SEGMENTATION_LOSSES",
    "WEIGHTINGS",
    "BagClassificationLoss",
    "BinarySegmentationLoss",
    "BoxLossKind",
    "ClassificationLoss",
    "DeepSupervisionLoss",
    "DenseDetectionLoss",
    "DiceLoss",
    "FocalLoss",
    "GaussianRegressionLoss",
    "GeneralizedDiceLoss",
    "MaskedL1Loss",
    "MultiTaskLoss",
    "RegressionLoss",
    "SSIMLoss",
    "SegmentationLoss",
    "StructureLoss",
    "UncertaintyWeighting",
    "box_loss",
    "convex_weights",
    "inverse_frequency",
    "loss_of_outputs",
    "make_reconstruction_loss",
    "make_regression_loss",
    "make_segmentation_loss",
    "quality_focal",
    "sigmoid_focal",
    "softmax_focal",
]
