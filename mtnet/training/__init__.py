"""Training: samples, the pieces that MONAI's trainer needs for several tasks, and weights."""

from mtnet.training.bag_training import AutocastInferer, TrainerLoss, one_bag, prepare_bag, started_from
from mtnet.training.handlers import LossTermLog, PublishWeights, TrainingState
from mtnet.training.image_training import ImageTargets, boxes_of_mask
from mtnet.training.items import ItemsInOrder
from mtnet.training.phantom_bags import PhantomBags

__all__ = [
    "AutocastInferer",
    "ImageTargets",
    "ItemsInOrder",
    "LossTermLog",
    "PhantomBags",
    "PublishWeights",
    "TrainerLoss",
    "TrainingState",
    "boxes_of_mask",
    "one_bag",
    "prepare_bag",
    "started_from",
]
