"""Small networks for the tests of this room."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtnet.nets import (
    FPN,
    VGG13,
    Branch,
    ClassificationHead,
    DetectionHead,
    MultiTaskNet,
    PickLevels,
    ReconstructionDecoder,
    ReconstructionHead,
    SegmentationHead,
    UNetDecoder,
)
from mtnet.structures import Label, LesionChannel, OutputSpec

TASKS = ("segmentation", "detection", "classification", "reconstruction")
TISSUES = (Label(0, "background"), Label(1, "lung"), Label(2, "nodule"))
FINDINGS = (Label(0, "nodule"), Label(1, "emphysema"))
BOXES = OutputSpec(
    "boxes",
    "boxes",
    (Label(0, "nodule"),),
    (4, 8),
    "sigmoid",
    lesion_channels=(LesionChannel("texture", FINDINGS, "softmax"), LesionChannel("diameter", units="mm")),
)
CLASSES = OutputSpec("classes", "global", FINDINGS, activation="sigmoid")


def four_tasks(
    spatial_dims: int = 2,
    tasks: Sequence[str] = TASKS,
    outputs: Sequence[str] | None = None,
    layout: str = "dict",
    norm: str = "group",
    interaction: nn.Module | None = None,
    dropout: float = 0.0,
) -> MultiTaskNet:
    """The compact four-task network in the smallest size that has every part."""
    encoder = VGG13(spatial_dims, 1, (4, 6, 8, 10, 12), norm)
    levels = encoder.channels, encoder.strides
    neck = FPN(spatial_dims, *levels, channels=8, strides=(4, 8), norm=norm)
    unet = UNetDecoder(spatial_dims, *levels, channels=(8, 6, 4, 4), norm=norm)
    fpn_levels = PickLevels(neck.channels, neck.strides, (4, 8))
    deepest = PickLevels(*levels)
    recon = ReconstructionDecoder(spatial_dims, *levels, channels=(8, 6, 4, 4), norm=norm)
    branches = {
        "segmentation": Branch(
            unet, SegmentationHead(spatial_dims, unet.channels, unet.strides, labels=TISSUES, dropout=dropout)
        ),
        "detection": Branch(
            fpn_levels,
            DetectionHead(spatial_dims, neck.channels, neck.strides, BOXES, norm=norm, dropout=dropout),
            reads="neck",
        ),
        "classification": Branch(
            deepest, ClassificationHead(deepest.channels, CLASSES, window_weight=True, dropout=dropout)
        ),
        "reconstruction": Branch(recon, ReconstructionHead(spatial_dims, recon.channels, recon.strides)),
    }
    return MultiTaskNet(
        encoder,
        {task: branches[task] for task in tasks},
        neck=neck,
        interaction=interaction,
        outputs=outputs,
        layout=layout,  # type: ignore[arg-type]
    )


class Exchange(nn.Module):
    """An interaction between two tasks: each gets a weighted pooled vector of the other, weight 0 at first."""

    def __init__(self, tasks: tuple[str, str], channels: tuple[int, int]) -> None:
        super().__init__()
        self.tasks = tasks
        self.first = tasks[0]
        self.second = tasks[1]
        self.to_first = nn.Linear(channels[1], channels[0])
        self.to_second = nn.Linear(channels[0], channels[1])
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, levels: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
        first, second = levels[self.first], levels[self.second]
        for_first = self.scale * self.to_first(second[0].flatten(2).mean(2)).mean()
        for_second = self.scale * self.to_second(first[0].flatten(2).mean(2)).mean()
        return {self.first: [x + for_first for x in first], self.second: [x + for_second for x in second]}


def image(spatial_dims: int, edge: int = 32, batch: int = 2, channels: int = 1) -> Tensor:
    """A repeatable image, with axes of different lengths."""
    shape = [edge, 2 * edge, edge][:spatial_dims]
    return torch.randn(batch, channels, *shape, generator=torch.Generator().manual_seed(1))


def parameters(module: nn.Module) -> int:
    """Number of trained values."""
    return sum(p.numel() for p in module.parameters())
