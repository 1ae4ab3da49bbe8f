"""Losses of measured values. A target that is not a number is unknown: it costs nothing and teaches nothing."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RegressionForm = Literal["smooth_l1", "huber", "l1"]


class RegressionLoss(nn.Module):
    """Mean over the known values of smooth L1, Huber's or absolute loss of (predicted - target) / unit.

    Smooth L1 with ``beta`` is r^2 / (2 beta) below beta and |r| - beta / 2 above (Girshick, arXiv 1504.08083); Huber's
    loss is beta times that.

    Args:
        form: ``smooth_l1``, ``huber`` or ``l1``.
        beta: residual, in units, at which the square ends.
        unit: the residual is counted in this, so that values of any size (mm) weigh as other terms do.

    Raises:
        ValueError: an unknown form, or a beta or unit that is not above 0.
    """

    def __init__(self, form: RegressionForm = "smooth_l1", beta: float = 1.0, unit: float = 1.0) -> None:
        super().__init__()
        if form not in get_args(RegressionForm):
            raise ValueError(f"form is {form!r}; expected one of {', '.join(get_args(RegressionForm))}.")
        if beta <= 0 or unit <= 0:
            raise ValueError(f"beta is {beta} and unit {unit}; expected numbers above 0.")
        self.form = form
        self.beta = beta
        self.unit = unit

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Loss (scalar) of ``predicted`` ``(B,)`` or ``(B, 1)`` against ``target`` of either shape, NaN for unknown."""
        value, wanted, known = _known(predicted, target, channels=1)
        value, wanted = value[:, 0] / self.unit, wanted / self.unit
        if self.form == "smooth_l1":
            loss = F.smooth_l1_loss(value, wanted, reduction="none", beta=self.beta)
        elif self.form == "huber":
            loss = F.huber_loss(value, wanted, reduction="none", delta=self.beta)
        else:
            loss = (value - wanted).abs()
        return (loss * known).sum() / known.sum().clamp_min(1)


class GaussianRegressionLoss(nn.Module):
    """Mean over the known values of (exp(-s) r^2 + s) / 2, r the residual and s its predicted log-variance.

    The negative log-likelihood of a normal distribution without its constant (Kendall and Gal, arXiv 1703.04977,
    section 3.1), for the answers of ``RegressionHead`` with ``log_variance``. It may be negative.

    Args:
        unit: the residual is counted in this and the log-variance in its square.

    Raises:
        ValueError: a unit that is not above 0.
    """

    def __init__(self, unit: float = 1.0) -> None:
        super().__init__()
        if unit <= 0:
            raise ValueError(f"unit is {unit}; expected a number above 0.")
        self.unit = unit

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Loss (scalar) of ``predicted`` ``(B, 2)``, value and log-variance; ``target`` ``(B,)`` or ``(B, 1)``."""
        value, wanted, known = _known(predicted, target, channels=2)
        log_variance = value[:, 1] - 2 * math.log(self.unit)
        residual = (value[:, 0] - wanted) / self.unit
        loss = (torch.exp(-log_variance) * residual.square() + log_variance) / 2
        return (loss * known).sum() / known.sum().clamp_min(1)


def _known(predicted: Tensor, target: Tensor, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Float32 answers ``(B, channels)``, targets ``(B,)`` with 0 for unknown, and 1 where known."""
    batch = predicted.shape[0]
    if predicted.numel() != batch * channels or target.numel() != batch:
        raise ValueError(
            f"predicted is {tuple(predicted.shape)}, target {tuple(target.shape)}; expected ({batch}, {channels}) and "
            f"({batch},) or ({batch}, 1)."
        )
    wanted = target.reshape(batch).float()
    known = ~torch.isnan(wanted)
    return predicted.float().reshape(batch, channels), torch.where(known, wanted, 0.0), known.float()
