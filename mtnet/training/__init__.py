"""Training: samples, the pieces that MONAI's trainer needs for several tasks, and weights."""

from mtnet.training.augmentation import augmentation
from mtnet.training.averaging import AveragedWeights
from mtnet.training.bag_training import TrainerLoss, one_bag, parameter_groups, prepare_bag
from mtnet.training.balance import BalancedOrder
from mtnet.training.curves import LearningCurve, TerminalProgress
from mtnet.training.epochs import EpochsOfSamples, kept_samples
from mtnet.training.fine_tuning import class_counts, learning_only, started_from
from mtnet.training.fused_adamw import FusedAdamW
from mtnet.training.handlers import LossTermLog, PublishWeights, Together, TrainingState
from mtnet.training.items import ItemsInOrder
from mtnet.training.labelled_nodules import NoduleOfLabel
from mtnet.training.metrics import OutputMetric, better, key_metric, other_metrics, output_metrics
from mtnet.training.phantom_bags import PhantomBags
from mtnet.training.precision import AutocastInferer
from mtnet.training.pretraining import HiddenParts, note_sources, redrawing_loss, redrawing_network
from mtnet.training.processes import gathered, is_first, leave_processes
from mtnet.training.samples import BoxesOnImaged, LoadSampled, collate_samples, require_samples, samples_of, shard
from mtnet.training.steps import ClippedGradients, StepSeeds
from mtnet.training.targets import SampleTargets, boxes_of_mask
from mtnet.training.volume_bags import ChestTargets, VolumeBags, chest_bags

__all__ = [
    "AutocastInferer",
    "AveragedWeights",
    "BalancedOrder",
    "BoxesOnImaged",
    "ChestTargets",
    "ClippedGradients",
    "EpochsOfSamples",
    "FusedAdamW",
    "HiddenParts",
    "ItemsInOrder",
    "LearningCurve",
    "LoadSampled",
    "LossTermLog",
    "NoduleOfLabel",
    "OutputMetric",
    "PhantomBags",
    "PublishWeights",
    "SampleTargets",
    "StepSeeds",
    "TerminalProgress",
    "Together",
    "TrainerLoss",
    "TrainingState",
    "VolumeBags",
    "augmentation",
    "better",
    "boxes_of_mask",
    "chest_bags",
    "class_counts",
    "collate_samples",
    "gathered",
    "is_first",
    "kept_samples",
    "key_metric",
    "learning_only",
    "leave_processes",
    "note_sources",
    "one_bag",
    "other_metrics",
    "output_metrics",
    "parameter_groups",
    "prepare_bag",
    "redrawing_loss",
    "redrawing_network",
    "require_samples",
    "samples_of",
    "shard",
    "started_from",
]
