"""Two named points in a picture, and what lies about them: an encoder, two branches, drawn pictures to train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from mtnet.inference import MultiTaskInferer
from mtnet.nets import VGG13, Branch, MultiTaskNet, PickLevels, SegmentationHead, UNetDecoder
from mtnet.structures import Label, OutputSpec
from mtnet.transforms import ResultJsond, SplitOutputsd, picture_chain

SPOT = OutputSpec("pred", "dense", (Label(1, "spot"),), (1,), "sigmoid")
MARKS = OutputSpec("marks", "keypoints", (Label(0, "red"), Label(1, "green")), (4,), "sigmoid", threshold=0.3)


class KeypointHead(nn.Module):
    """One convolution on the level of the output's stride."""

    def __init__(self, spatial_dims: int, channels: int, output: OutputSpec) -> None:
        super().__init__()
        conv = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.name = output.name
        self.conv = conv(channels, len(output.labels) + spatial_dims, 1)
        self.outputs: tuple[OutputSpec, ...] = (output,)

    def forward(self, levels: list[Tensor]) -> dict[str, Tensor]:
        return {self.name: self.conv(levels[-1])}


def network(outputs: Sequence[str] | None = None, layout: str = "dict") -> MultiTaskNet:
    trunk = VGG13(2, 3, (4, 6, 8, 10, 12), "group")
    unet = UNetDecoder(2, trunk.channels, trunk.strides, channels=(10, 8, 6, 4))
    fine = PickLevels(trunk.channels, trunk.strides, MARKS.strides)
    branches = {
        "segmentation": Branch(unet, SegmentationHead(2, unet.channels, unet.strides, output=SPOT)),
        "marks": Branch(fine, KeypointHead(2, fine.channels[-1], MARKS)),
    }
    return MultiTaskNet(trunk, branches, outputs=outputs, layout=layout)


def preprocessing(load: bool = True) -> Any:
    return picture_chain((96, 128), channels=3, load=load)


def inferer(window: Sequence[int] | None = (64, 64)) -> MultiTaskInferer:
    return MultiTaskInferer(window, 0.25)


def postprocessing() -> Any:
    from monai.transforms import Activationsd, AsDiscreted, Compose

    return Compose(
        [
            SplitOutputsd(keys="pred"),
            Activationsd(keys="pred", sigmoid=True),
            AsDiscreted(keys="pred", threshold=0.5),
            ResultJsond(keys="pred_marks", allow_missing_keys=True),
        ]
    )


class DrawnSpots(Dataset[Mapping[str, Any]]):
    """Pictures ``(3, 64, 64)`` with a red and a green spot, repeatable."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        generator = torch.Generator().manual_seed(number)
        points = torch.rand(2, 2, generator=generator) * 48 + 8
        rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
        image = torch.rand(3, 64, 64, generator=generator) * 0.2
        near = [(rows - i).square() + (columns - j).square() <= 16 for i, j in points.tolist()]
        for colour, spot in enumerate(near):
            image[colour][spot] = 2.0
        mask = (near[0] | near[1]).float()[None]
        return {"image": image, "label": mask, "points": points}


def prepare(
    batch: Mapping[str, Any], device: Any = None, non_blocking: bool = False, **_: Any
) -> tuple[Tensor, dict[str, Any]]:
    marks = [{"point_index": points, "label": torch.tensor([0, 1])} for points in batch["points"]]
    return batch["image"].to(device), {"pred": batch["label"].to(device), "marks": marks}


class DistanceToPoints:
    """Handler of MONAI's evaluator: the mean distance from each truth to the best point of its label."""

    def attach(self, engine: Any) -> None:
        from ignite.engine import Events

        engine.add_event_handler(Events.EPOCH_STARTED, self.begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.tell)

    def begin(self, engine: Any) -> None:
        self.away: list[float] = []

    def collect(self, engine: Any) -> None:
        for item, sample in zip(engine.state.output, engine.state.batch, strict=True):
            for label, truth in enumerate(sample["points"]):
                rows = item["pred"]["marks"]
                rows = rows[(rows[:, 2] == label) & (rows[:, 3] > 0)]
                self.away.append(float((rows[0, :2] - truth).norm()) if len(rows) else 64.0)

    def tell(self, engine: Any) -> None:
        engine.state.metrics["mean_distance_px"] = sum(self.away) / len(self.away)
