"""Weights of tasks: learned from their uncertainty, or given in convex form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TaskForm = Literal["regression", "classification"]
Regulariser = Literal["log", "log1p"]


class UncertaintyWeighting(nn.Module):
    """Weights that are learned: each task has s = ln of its variance, 0 at first (Kendall et al., arXiv 1705.07115).

    ``log`` (the paper's): e^-s L / 2 + s / 2 for regression, e^-s L + s / 2 for classification; least at s = ln L and
    ln 2L, and below zero for small losses. ``log1p``: e^-s L / 2 + ln(1 + e^s) for both, never below zero (Liebel and
    Körner, arXiv 1805.06334).

    The s are parameters: give them to the optimiser in a group without weight decay, which would pull them to 0; wrap
    the ``MultiTaskLoss`` that holds this module in ``DistributedDataParallel`` of its own, and save its state.

    Args:
        forms: by task, what its loss measures; segmentation and detection count as classification.
        regulariser: ``log`` or ``log1p``.

    Raises:
        ValueError: an unknown form or regulariser, or no task.
    """

    def __init__(self, forms: Mapping[str, TaskForm], regulariser: Regulariser = "log") -> None:
        super().__init__()
        if not forms or not set(forms.values()) <= set(get_args(TaskForm)):
            raise ValueError(f"forms is {dict(forms)}; expected regression or classification for each task.")
        if regulariser not in get_args(Regulariser):
            raise ValueError(f"regulariser is {regulariser!r}; expected one of {', '.join(get_args(Regulariser))}.")
        self.tasks = tuple(forms)
        self.regulariser = regulariser
        self.halved = tuple(regulariser == "log1p" or form == "regression" for form in forms.values())
        self.log_variance = nn.Parameter(torch.zeros(len(forms)))

    def forward(self, task: str, loss: Tensor, known: bool = True) -> Tensor:
        """The weighted loss (scalar) of one task; 0 with a zero gradient where no target was ``known``.

        Without a target the loss is 0 for no merit of the network, and must not teach that the task is certain.
        """
        number = self.tasks.index(task)
        s = self.log_variance[number]
        if not known:
            return loss + 0 * s
        weighted = torch.exp(-s) * loss * (0.5 if self.halved[number] else 1.0)
        return weighted + (s / 2 if self.regulariser == "log" else F.softplus(s))


def convex_weights(names: Sequence[str], given: Mapping[str, float]) -> dict[str, float]:
    """Weights that sum to 1: all but one are given, the last task has the rest (lambda and 1 - lambda for two).

    Raises:
        ValueError: not exactly one weight is left open, or the rest is not in 0..1.
    """
    rest = [name for name in names if name not in given]
    left = 1 - sum(given.values())
    if len(rest) != 1 or not 0 <= left <= 1:
        raise ValueError(
            f"Convex weights are {dict(given)} for the terms {', '.join(names)}; expected all but one, each 0 or more, "
            "with a sum of at most 1."
        )
    return {**{name: float(weight) for name, weight in given.items()}, rest[0]: left}
