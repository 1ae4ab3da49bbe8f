"""Every part of the room in its smallest size, with something to read, for the contract that all of them keep to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mtnet.nets import (
    FPN,
    VGG13,
    ClassificationHead,
    CSPDarknet53,
    DecodingHead,
    DetectionHead,
    EfficientNetEncoder,
    PickLevels,
    ReconstructionDecoder,
    ReconstructionHead,
    RegressionHead,
    ResNetEncoder,
    SegmentationHead,
    TimmEncoder,
    UNetDecoder,
)
from mtnet.nets.blocks import Norm
from mtnet.nets.decoders import (
    DeepLabV3PlusDecoder,
    FPNDecoder,
    InfusedUNetDecoder,
    LevelTowers,
    ResidualVector,
    UNetPlusPlusDecoder,
    UNetV2Decoder,
    YOLOSegmentationDecoder,
)
from mtnet.nets.interactions import CrossScaleInteraction, ResidualTaskLinks
from mtnet.nets.necks import PAN, SDI, SPP, NeckChain, SharedVector
from mtnet.structures import Label, OutputSpec
from tests.nets.builders import BOXES, CLASSES, TISSUES

CHANNELS = (3, 5, 7, 6)
STRIDES = (4, 8, 16, 32)
SIZES = {2: (96, 160), 3: (32, 96, 64)}
"""Multiples of the coarsest stride that are no powers of two, another along each axis."""

DIAMETER = OutputSpec("diameter", "global", units="mm", log_variance=True)
RATING = OutputSpec("rating", "global")
POLYP = OutputSpec("pred", "dense", (Label(1, "polyp"),), (1,), "sigmoid")


@dataclass(frozen=True)
class Case:
    """A part.

    Args:
        make: called with the spatial dimensions and a norm.
        reads: ``image``, ``levels``, ``dilated`` levels (the last two of one stride), ``vector``, ``tasks`` (levels of
            two tasks) or ``vectors`` (of two tasks).
        dims: in which it works.
        normed: whether it has norms that can be chosen.
    """

    make: Callable[[int, Norm], nn.Module]
    reads: str = "levels"
    dims: tuple[int, ...] = (2, 3)
    normed: bool = True

    def given(self, dims: int, batch: int = 2) -> Any:
        """Repeatable noise for it to read."""
        draw = torch.Generator().manual_seed(3)
        size = SIZES[dims]
        if self.reads == "image":
            return torch.randn(batch, 1, *size, generator=draw)
        if self.reads == "vector":
            return [torch.randn(batch, CHANNELS[-1], generator=draw)]
        if self.reads == "vectors":
            return {task: [torch.randn(batch, c, generator=draw)] for task, c in (("class", 6), ("size", 10))}
        strides = (4, 8, 16, 16) if self.reads == "dilated" else STRIDES
        levels = [
            torch.randn(batch, c, *(n // s for n in size), generator=draw)
            for c, s in zip(CHANNELS, strides, strict=True)
        ]
        return {"boxes": levels[1:], "mask": [level + 1 for level in levels[1:]]} if self.reads == "tasks" else levels


def _cross(dims: int, scales: str) -> nn.Module:
    channels = dict.fromkeys(("boxes", "mask"), CHANNELS[1:])
    strides = dict.fromkeys(("boxes", "mask"), STRIDES[1:])
    return CrossScaleInteraction(
        dims,
        channels,
        strides,
        scales=scales,  # type: ignore[arg-type]
        grid=3,
        width=8,
        heads=2,
        feedforward=16,
    )


def _decoding(dims: int, norm: Norm) -> nn.Module:
    climb = YOLOSegmentationDecoder(dims, CHANNELS, STRIDES, channels=(8, 6, 4), norm=norm)
    return DecodingHead(climb, SegmentationHead(dims, climb.channels, climb.strides, output=POLYP))


def _boxes(dims: int, norm: Norm, **options: Any) -> nn.Module:
    return DetectionHead(dims, CHANNELS[:2], STRIDES[:2], BOXES, norm=norm, width=6, convs=1, **options)


def _chain(dims: int, norm: Norm) -> nn.Module:
    pooling = SPP(dims, CHANNELS, STRIDES, norm=norm)
    return NeckChain(pooling, FPN(dims, pooling.channels, pooling.strides, channels=6, norm=norm))


ENCODERS = {
    "vgg13": Case(lambda dims, norm: VGG13(dims, 1, (3, 5, 7, 9, 11), norm), "image"),
    "vgg13 with a pooled tap": Case(
        lambda dims, norm: VGG13(dims, 1, (3, 5, 7, 9, 11), norm, pooled_tap=True), "image"
    ),
    "cspdarknet53": Case(lambda dims, norm: CSPDarknet53(dims, 1, norm, width=4), "image"),
    "efficientnet_b0": Case(lambda dims, norm: EfficientNetEncoder(dims, 1, "b0", norm), "image"),
    "resnet10": Case(lambda dims, norm: ResNetEncoder(dims, 1, 10, norm, width=3), "image"),
    "resnet18": Case(lambda dims, norm: ResNetEncoder(dims, 1, 18, norm, width=3), "image"),
    "resnet50": Case(lambda dims, norm: ResNetEncoder(dims, 1, 50, norm, width=3), "image"),
    "resnet18 of timm": Case(lambda dims, norm: TimmEncoder("resnet18", 1), "image", (2,), False),
    "pvt_v2_b0 of timm": Case(lambda dims, norm: TimmEncoder("pvt_v2_b0", 1), "image", (2,), False),
}
NECKS = {
    "fpn": Case(lambda dims, norm: FPN(dims, CHANNELS, STRIDES, channels=6, norm=norm)),
    "fpn that gives some levels": Case(
        lambda dims, norm: FPN(dims, CHANNELS, STRIDES, channels=6, strides=(4, 16), norm=norm)
    ),
    "pan": Case(lambda dims, norm: PAN(dims, CHANNELS, STRIDES, channels=6, strides=(4, 8, 16), norm=norm)),
    "pan that leaves out a level": Case(
        lambda dims, norm: PAN(dims, CHANNELS, STRIDES, channels=6, strides=(4, 16), norm=norm)
    ),
    "sdi": Case(lambda dims, norm: SDI(dims, CHANNELS, STRIDES, channels=6, norm=norm)),
    "spp": Case(lambda dims, norm: SPP(dims, CHANNELS, STRIDES, channels=9, norm=norm)),
    "spp and fpn": Case(_chain),
    "shared vector": Case(lambda dims, norm: SharedVector(CHANNELS, channels=5), normed=False),
    "picked levels": Case(lambda dims, norm: PickLevels(CHANNELS, STRIDES, (4, 16)), normed=False),
}
DECODERS = {
    "unet": Case(lambda dims, norm: UNetDecoder(dims, CHANNELS, STRIDES, channels=(8, 6, 5, 4, 3), norm=norm)),
    "unet that stops early": Case(lambda dims, norm: UNetDecoder(dims, CHANNELS, STRIDES, channels=(8, 6), norm=norm)),
    "unet with several levels": Case(
        lambda dims, norm: UNetDecoder(
            dims, CHANNELS, STRIDES, channels=(8, 6, 5, 4), norm=norm, levels=3, centre=True, finest_skip=False
        )
    ),
    "unet++": Case(lambda dims, norm: UNetPlusPlusDecoder(dims, CHANNELS, STRIDES, channels=(8, 6, 5, 4), norm=norm)),
    "unet++ with several levels": Case(
        lambda dims, norm: UNetPlusPlusDecoder(
            dims, CHANNELS, STRIDES, channels=(8, 6, 5), norm=norm, levels=3, convs=1
        )
    ),
    "fpn decoder": Case(
        lambda dims, norm: FPNDecoder(dims, CHANNELS, STRIDES, channels=6, pyramid_channels=9, norm=norm, dropout=0.2)
    ),
    "deeplabv3+": Case(
        lambda dims, norm: DeepLabV3PlusDecoder(
            dims, CHANNELS, STRIDES, channels=8, detail_channels=4, rates=(1, 2), norm=norm
        )
    ),
    "deeplabv3+ on a dilated encoder": Case(
        lambda dims, norm: DeepLabV3PlusDecoder(
            dims, CHANNELS, (4, 8, 16, 16), channels=8, detail_channels=4, rates=(1, 2), norm=norm
        ),
        "dilated",
    ),
    "unet v2": Case(lambda dims, norm: UNetV2Decoder(dims, CHANNELS, STRIDES, channels=6, norm=norm)),
    "unet v2 that answers once": Case(
        lambda dims, norm: UNetV2Decoder(dims, CHANNELS, STRIDES, channels=6, norm=norm, levels=1)
    ),
    "infused unet": Case(
        lambda dims, norm: InfusedUNetDecoder(
            dims, CHANNELS, STRIDES, channels=(8, 6, 5, 4), skip_channels=6, norm=norm, levels=2
        )
    ),
    "yolo segmentation": Case(
        lambda dims, norm: YOLOSegmentationDecoder(dims, CHANNELS, STRIDES, channels=(8, 6, 4), norm=norm)
    ),
    "level towers": Case(lambda dims, norm: LevelTowers(dims, CHANNELS, STRIDES, channels=6, norm=norm, convs=2)),
    "reconstruction": Case(
        lambda dims, norm: ReconstructionDecoder(dims, CHANNELS, STRIDES, channels=(9, 7, 5, 4, 3), norm=norm)
    ),
    "residual vector": Case(lambda dims, norm: ResidualVector(CHANNELS[-1:]), "vector", normed=False),
}
HEADS = {
    "segmentation head": Case(
        lambda dims, norm: SegmentationHead(
            dims, CHANNELS, STRIDES, labels=TISSUES, upsample=4, auxiliary_strides=(8, 16)
        ),
        normed=False,
    ),
    "segmentation head at stride 4": Case(
        lambda dims, norm: SegmentationHead(
            dims, CHANNELS, STRIDES, output=OutputSpec("pred", "dense", TISSUES, (4,), "softmax"), kernel_size=1
        ),
        normed=False,
    ),
    "decoding head": Case(_decoding),
    "reconstruction head": Case(lambda dims, norm: ReconstructionHead(dims, CHANNELS, STRIDES), normed=False),
    "classification head": Case(
        lambda dims, norm: ClassificationHead(CHANNELS, CLASSES, window_weight=True), normed=False
    ),
    "regression head": Case(lambda dims, norm: RegressionHead(CHANNELS, [DIAMETER, RATING]), normed=False),
    "detection head": Case(_boxes),
    "coupled detection head": Case(lambda dims, norm: _boxes(dims, norm, coupled=True)),
}
INTERACTIONS = {
    "cross-scale interaction": Case(lambda dims, norm: _cross(dims, "cross"), "tasks", normed=False),
    "same-scale interaction": Case(lambda dims, norm: _cross(dims, "same"), "tasks", normed=False),
    "residual links": Case(
        lambda dims, norm: ResidualTaskLinks({"class": (6,), "size": (10,)}), "vectors", normed=False
    ),
}
PARTS = {**ENCODERS, **NECKS, **DECODERS, **HEADS, **INTERACTIONS}
LEVELS = {**ENCODERS, **NECKS, **DECODERS}
"""Parts that say of what channels and strides the levels are that they give."""


def read(case: Case, part: nn.Module, dims: int, batch: int = 2) -> Any:
    """What the part reads of ``case.given``: a detection head reads the levels that it was made for alone."""
    given = case.given(dims, batch)
    return given[: len(part.levels)] if isinstance(part, DetectionHead) else given


def made(case: Case, dims: int, norm: Norm = "group") -> nn.Module:
    """The part, whose scales, links and last norms that are 0 at first are moved away from it."""
    torch.manual_seed(0)
    part = case.make(dims, norm)
    with torch.no_grad():
        for parameter in part.parameters():
            if not bool(parameter.any()):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return part


def tensors(given: Any) -> list[Tensor]:
    """The tensors of an image, of levels, of answers by name or of levels by task, in their order."""
    if isinstance(given, Tensor):
        return [given]
    parts = given.values() if isinstance(given, dict) else given
    return [tensor for part in parts for tensor in tensors(part)]


class Loose(nn.Module):
    """A part with its tensors as separate arguments and a tuple as answer, as ONNX wants them."""

    def __init__(self, part: nn.Module, like: Any) -> None:
        super().__init__()
        self.part = part
        self.like = like

    def forward(self, *loose: Tensor) -> tuple[Tensor, ...]:
        rest = list(loose)
        return tuple(tensors(self.part(self._joined(self.like, rest))))

    def _joined(self, like: Any, rest: list[Tensor]) -> Any:
        if isinstance(like, Tensor):
            return rest.pop(0)
        if isinstance(like, dict):
            return {key: self._joined(part, rest) for key, part in like.items()}
        return [self._joined(part, rest) for part in like]
