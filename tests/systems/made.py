"""A made batch and its targets for each system, small enough for a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mtnet.systems import breast_ultrasound, res_mtnet, unet_v2, yolo_med

SYSTEMS = {
    "unet_v2": unet_v2,
    "breast_ultrasound": breast_ultrasound,
    "yolo_med": yolo_med,
    "res_mtnet": res_mtnet,
}
NETWORKS: dict[str, Callable[..., nn.Module]] = {name: system.network for name, system in SYSTEMS.items()}
SIZES = {"unet_v2": (64, 96), "breast_ultrasound": (64, 96), "yolo_med": (64, 96), "res_mtnet": (64, 64)}


def parameters(module: nn.Module) -> int:
    """Number of trained values."""
    return sum(p.numel() for p in module.parameters())


def image(system: str, batch: int = 2) -> Tensor:
    """Repeatable noise with a bright square in the first image, as the system's network takes it."""
    made = torch.rand(batch, 3, *SIZES[system], generator=torch.Generator().manual_seed(0))
    made[0, :, 16:48, 24:56] += 1
    return made


def truth(system: str) -> dict[str, Any]:
    """Targets of ``image(system)``, by output."""
    mask = torch.zeros(2, 1, *SIZES[system])
    mask[0, :, 16:48, 24:56] = 1
    # One object for each of the detection head's levels, so that all of them learn.
    sizes = torch.tensor(
        [[-0.5, 15.5, 63.5, 79.5], [15.5, 23.5, 47.5, 55.5], [31.5, 63.5, 47.5, 79.5], [-0.5, -0.5, 7.5, 7.5]]
    )
    box = {"box_index": sizes, "label": torch.zeros(4, dtype=torch.long)}
    none = {"box_index": torch.zeros(0, 4), "label": torch.zeros(0, dtype=torch.long)}
    return {
        "unet_v2": {"pred": mask},
        "breast_ultrasound": {"pred": mask, "classification": torch.tensor([1, 2])},
        "yolo_med": {"pred": mask, "lesions": [box, none]},
        "res_mtnet": {
            "pred": torch.tensor([1, 0]),
            "diameter": torch.tensor([15.0, 6.0]),
            "reader_rating": torch.tensor([5.0, 1.0]),
        },
    }[system]


def perturbed(network: nn.Module) -> nn.Module:
    """The network with scales and links that start at 0 moved away from it, so that all behind them learns."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not bool(parameter.any()):
                parameter.add_(0.05)
    return network
