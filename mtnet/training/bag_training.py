"""What MONAI's ``SupervisedTrainer`` needs to train several tasks on bags of patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mtnet.losses import MultiTaskLoss
from mtnet.systems.chest_ct import HU_WINDOW


def one_bag(items: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Collate function: the bag is the batch already; boxes of different number cannot be stacked."""
    if len(items) != 1:
        raise ValueError(f"A batch has {len(items)} bags; expected 1 (set the loader's batch_size to 1).")
    return items[0]


def prepare_bag(
    batch: Mapping[str, Any], device: str | torch.device | None = None, non_blocking: bool = False, **_: Any
) -> tuple[Tensor, dict[str, Any]]:
    """Image ``(P, 1, *S)`` and targets by output name, on ``device``; the image in HU is what is to be redrawn."""

    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device=device, non_blocking=non_blocking)

    image = move(batch["image"])
    label = batch["label"]
    low, high = HU_WINDOW
    return image, {
        "pred": move(label["mask"]),
        "lesions": [boxes and {name: move(value) for name, value in boxes.items()} for boxes in label["boxes"]],
        "classification": move(label["classes"]),
        "reconstruction": image * (high - low) + low,
    }


class TrainerLoss(nn.Module):
    """The total of a ``MultiTaskLoss`` as the one number that a trainer wants; keeps the last terms for the log.

    Args:
        loss: of all tasks.
        distributed: several processes train (``torchrun``): learned weights are averaged over them as the network's
            gradients are, and every answer of the network takes part with a zero gradient, so that no process waits for
            one that a task of weight 0, or a batch without a target, would not give.
    """

    def __init__(self, loss: MultiTaskLoss, distributed: bool = False) -> None:
        super().__init__()
        self.loss = loss
        self.terms: dict[str, float] = {}
        self.distributed = distributed
        self._called: list[nn.Module] = [loss]
        if distributed and any(parameter.requires_grad for parameter in loss.parameters()):
            # Kept in a list, so that the state dict has the names that a single process gives.
            self._called = [DistributedDataParallel(loss)]

    def forward(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Any]) -> Tensor:
        """The weighted total, a scalar."""
        total, terms = self._called[0](outputs, targets)
        self.terms = {name: value.item() for name, value in terms.items()}
        if self.distributed:
            total = total + torch.stack([answer.float().sum() * 0 for answer in outputs.values()]).sum()
        return cast(Tensor, total)


def parameter_groups(network: nn.Module, loss: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters for an optimiser: the network's that learn with weight decay, a loss's learned weights without, since
    decay would pull these to 0."""
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [{"params": learning, "weight_decay": weight_decay}]
    learned = list(loss.parameters())
    return [*groups, {"params": learned, "weight_decay": 0.0}] if learned else groups
