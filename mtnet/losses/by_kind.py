"""A loss for every output of a network, by the kind of the output (``mtnet.structures.kinds``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from mtnet.losses.classification import ClassificationLoss
from mtnet.losses.detection import DenseDetectionLoss
from mtnet.losses.multitask import MultiTaskLoss, Weighting
from mtnet.losses.reconstruction import MaskedL1Loss
from mtnet.losses.regression import GaussianRegressionLoss, RegressionLoss
from mtnet.losses.segmentation import BinarySegmentationLoss, SegmentationLoss
from mtnet.losses.weighting import TaskForm
from mtnet.structures import OutputSpec
from mtnet.structures.kinds import of_kind

LossFactory = Callable[[OutputSpec, int], nn.Module]
"""Called with an output and the number of spatial dimensions (2 or 3); makes a term of ``MultiTaskLoss``."""


def _dense_loss(spec: OutputSpec, spatial_dims: int) -> nn.Module:
    if not spec.labels:
        return MaskedL1Loss()
    return BinarySegmentationLoss() if spec.activation == "sigmoid" else SegmentationLoss()


def _global_loss(spec: OutputSpec, spatial_dims: int) -> nn.Module:
    if spec.labels:
        return ClassificationLoss(spec)
    return GaussianRegressionLoss() if spec.log_variance else RegressionLoss()


LOSSES: dict[str, LossFactory] = {"dense": _dense_loss, "boxes": DenseDetectionLoss, "global": _global_loss}
"""The built-in kinds of output."""


def loss_of_outputs(
    outputs: Sequence[OutputSpec],
    spatial_dims: int,
    weights: Mapping[str, float] | None = None,
    *,
    weighting: Weighting = "fixed",
) -> MultiTaskLoss:
    """A loss for a network of any outputs, each with the plainest loss of its kind.

    Dense: generalised Dice and cross-entropy, BCE and Dice of sigmoid channels, L1 without labels. Boxes: dense
    detection with SimOTA. Global: cross-entropy, BCE of sigmoid classes, smooth L1 of a value, or its Gaussian
    likelihood where it has a log-variance. The published systems have losses of their own (``mtnet.systems``).

    Args:
        outputs: of the network, its ``.outputs``.
        spatial_dims: 2 or 3.
        weights, weighting: see ``MultiTaskLoss``.

    Raises:
        ValueError: an outside kind brings no loss.
    """
    terms = {spec.name: of_kind(spec.kind, "loss", LOSSES)(spec, spatial_dims) for spec in outputs}
    forms: dict[str, TaskForm] = {s.name: "regression" for s in outputs if s.kind in LOSSES and not s.labels}
    return MultiTaskLoss(terms, weights, weighting=weighting, forms=forms)
