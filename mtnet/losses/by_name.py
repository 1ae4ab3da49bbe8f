"""Losses by the name that a user may type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from mtnet.losses.dice import DiceLoss, GeneralizedDiceLoss
from mtnet.losses.reconstruction import MaskedL1Loss
from mtnet.losses.regression import GaussianRegressionLoss, RegressionLoss
from mtnet.losses.segmentation import BinarySegmentationLoss, SegmentationLoss
from mtnet.losses.ssim import SSIMLoss
from mtnet.losses.structure import StructureLoss


def _smooth_l1(**options: Any) -> nn.Module:
    return RegressionLoss("smooth_l1", **options)


def _huber(**options: Any) -> nn.Module:
    return RegressionLoss("huber", **options)


def _l1(**options: Any) -> nn.Module:
    return RegressionLoss("l1", **options)


SEGMENTATION_LOSSES: dict[str, Callable[..., nn.Module]] = {
    "dice": DiceLoss,
    "generalized_dice": GeneralizedDiceLoss,
    "generalized_dice_ce": SegmentationLoss,
    "dice_bce": BinarySegmentationLoss,
    "structure": StructureLoss,
}
REGRESSION_LOSSES: dict[str, Callable[..., nn.Module]] = {
    "smooth_l1": _smooth_l1,
    "huber": _huber,
    "l1": _l1,
    "gaussian": GaussianRegressionLoss,
}
RECONSTRUCTION_LOSSES: dict[str, Callable[..., nn.Module]] = {"l1": MaskedL1Loss, "ssim": SSIMLoss}


def make_segmentation_loss(name: str, **options: Any) -> nn.Module:
    """The segmentation loss of that name; ``ValueError`` with all names if there is none."""
    return _made("segmentation loss", SEGMENTATION_LOSSES, name, options)


def make_regression_loss(name: str, **options: Any) -> nn.Module:
    """The regression loss of that name; ``ValueError`` with all names if there is none."""
    return _made("regression loss", REGRESSION_LOSSES, name, options)


def make_reconstruction_loss(name: str, **options: Any) -> nn.Module:
    """The reconstruction loss of that name; ``ValueError`` with all names if there is none."""
    return _made("reconstruction loss", RECONSTRUCTION_LOSSES, name, options)


def _made(what: str, table: dict[str, Callable[..., nn.Module]], name: str, options: dict[str, Any]) -> nn.Module:
    if name not in table:
        raise ValueError(f"{what} is {name!r}; expected one of {', '.join(table)}.")
    return table[name](**options)
