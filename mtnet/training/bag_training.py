"""What MONAI's ``SupervisedTrainer`` needs to train several tasks on bags of patches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from mtnet.losses import MultiTaskLoss
from mtnet.nets import load_state
from mtnet.systems.chest_ct import HU_WINDOW


def one_bag(items: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Collate function: the bag is the batch already; boxes of different number cannot be stacked."""
    if len(items) != 1:
        raise ValueError(f"A batch has {len(items)} bags; expected 1 (set the loader's batch_size to 1).")
    return items[0]


def started_from(network: nn.Module, weights: str | None) -> nn.Module:
    """The network, with the weights of a file that ``mtnet.nets.save_state`` wrote where one is named."""
    if weights:
        load_state(network, Path(weights))
    return network


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
        "lesions": [{name: move(value) for name, value in boxes.items()} for boxes in label["boxes"]],
        "classification": move(label["classes"]),
        "reconstruction": image * (high - low) + low,
    }


class AutocastInferer(Inferer):  # type: ignore[misc]  # MONAI is not typed
    """Call the network under autocast, on the CPU as well (MONAI's ``amp`` is CUDA's alone).

    Args:
        precision: ``float32`` switches it off; ``bfloat16`` is faster where the processor has instructions for it.
    """

    def __init__(self, precision: str = "bfloat16") -> None:
        super().__init__()
        self.dtype: torch.dtype = getattr(torch, precision)

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The network's answer for ``inputs``."""
        enabled = self.dtype != torch.float32
        with torch.autocast(inputs.device.type, dtype=self.dtype if enabled else torch.bfloat16, enabled=enabled):
            return network(inputs, *args, **kwargs)


class TrainerLoss(nn.Module):
    """The total of a ``MultiTaskLoss`` as the one number that a trainer wants; keeps the last terms for the log."""

    def __init__(self, loss: MultiTaskLoss) -> None:
        super().__init__()
        self.loss = loss
        self.terms: dict[str, float] = {}

    def forward(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Any]) -> Tensor:
        """The weighted total, a scalar."""
        total, terms = self.loss(outputs, targets)
        self.terms = {name: value.item() for name, value in terms.items()}
        return cast(Tensor, total)
