"""Chest CT in four tasks: one U-Net encoder for classification, segmentation, reconstruction and detection.

Hryniewska-Guzik, Kędzierska, Biecek: "Multi-task learning for classification, segmentation, reconstruction, and
detection on chest CT scans" (arXiv 2308.01137).

The paper's: one shared encoder, VGG-13 or ResNet-50; four branches; the total loss Σ wᵢLᵢ with wᵢ in {0, 1};
generalised Dice among the segmentation losses. Our choices, where the paper is silent or we differ: 3D as well as 2D;
the HU window; a reconstruction decoder without skips (with them the task is solved by copying); a dense anchor-free
detection head on an FPN in place of a two-stage one; per-lesion texture; group norm; the ``compact`` widths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from mtnet.structures import Code, Label, LesionChannel, OutputSpec

if TYPE_CHECKING:
    from monai.transforms import Compose

    from mtnet.inference import MultiTaskInferer
    from mtnet.inference.inferer import DenseForm
    from mtnet.inference.precision import Precision
    from mtnet.losses import MultiTaskLoss
    from mtnet.nets import VGG13, MultiTaskNet, ResNetEncoder

Variant = Literal["compact", "published"]
Task = Literal["segmentation", "detection", "classification", "reconstruction"]
TASKS: tuple[Task, ...] = ("segmentation", "detection", "classification", "reconstruction")

HU_WINDOW = (-1000.0, 400.0)
"""Clipped in preprocessing and mapped to 0..1 (our choice)."""

SPACING_MM = (1.5, 1.5, 1.5)
WINDOW = (64, 64, 64)
"""Voxels; 96 mm at 1.5 mm, small enough that about half of a chest's windows miss the lung."""

_LUNG = Code("39607008", "SCT", "Lung")
NODULE = Label(1, "nodule", (255, 170, 0), Code("27925004", "SCT", "Nodule"), _LUNG)
BACKGROUND = Label(0, "background", (0, 0, 0))

TEXTURES = (
    Label(0, "solid", (255, 170, 0)),
    Label(1, "part_solid", (255, 220, 120)),
    Label(2, "ground_glass", (170, 220, 255)),
    Label(3, "calcified", (255, 255, 255)),
)
IMAGE_CLASSES = (Label(0, "nodule"), Label(1, "subsolid_nodule"))

SEGMENTATION = OutputSpec("pred", "dense", (BACKGROUND, NODULE), (1,), "softmax")
DETECTION = OutputSpec(
    "lesions",
    "boxes",
    (NODULE,),
    (4, 8),
    "sigmoid",
    threshold=0.42,
    lesion_channels=(LesionChannel("texture", TEXTURES, "softmax"),),
)
CLASSIFICATION = OutputSpec("classification", "global", IMAGE_CLASSES, activation="sigmoid")
RECONSTRUCTION = OutputSpec("reconstruction", "dense", (), (1,), background=HU_WINDOW[0], units="HU")


def network(
    variant: Variant = "compact",
    encoder: str = "vgg13",
    spatial_dims: int = 3,
    in_channels: int = 1,
    tasks: Sequence[Task] = TASKS,
    dropout: float = 0.0,
    outputs: Sequence[str] | None = None,
    layout: Literal["dict", "tuple", "tensor"] = "dict",
    threshold: float = DETECTION.threshold,
) -> MultiTaskNet:
    """The network: one encoder, an FPN for the boxes, one branch a task.

    Args:
        variant: ``compact`` (what the bundle's weights fit) or ``published`` (the paper's widths, batch norm).
        encoder: ``vgg13``, ``resnet50``, ``resnet34``, ``resnet18`` or ``resnet10``.
        spatial_dims: 3, or 2 as in the paper.
        in_channels: of the image.
        tasks: branches to build.
        dropout: before every head.
        outputs: names of outputs to keep; the others are not computed, the state dict stays the same.
        layout: see ``MultiTaskNet``.
        threshold: score from which on a box is told.

    Raises:
        ValueError: an unknown variant, encoder or task, or a threshold that is no score.
    """
    from mtnet.nets import (
        FPN,
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

    widths = _WIDTHS.get(variant)
    if widths is None:
        raise ValueError(f"variant is {variant!r}; expected one of {', '.join(_WIDTHS)}.")
    unknown = [task for task in tasks if task not in TASKS]
    if unknown or not tasks:
        raise ValueError(f"tasks is {list(tasks)}; expected some of {', '.join(TASKS)}.")
    norm, channels = widths.norm, widths.decoder
    trunk = _encoder(encoder, spatial_dims, in_channels, widths)
    neck = FPN(spatial_dims, trunk.channels, trunk.strides, channels=widths.fpn, strides=DETECTION.strides, norm=norm)
    levels = trunk.channels, trunk.strides
    blocks = trunk.strides[-1].bit_length() - 1

    branches: dict[str, Branch] = {}
    if "segmentation" in tasks:
        unet = UNetDecoder(spatial_dims, *levels, channels=channels[-blocks:], norm=norm, convs=widths.convs)
        head = SegmentationHead(spatial_dims, unet.channels, unet.strides, output=SEGMENTATION, dropout=dropout)
        branches["segmentation"] = Branch(unet, head)
    if "detection" in tasks:
        pyramid = PickLevels(neck.channels, neck.strides, DETECTION.strides)
        spec = replace(DETECTION, threshold=threshold)
        boxes = DetectionHead(spatial_dims, pyramid.channels, pyramid.strides, spec, norm=norm, dropout=dropout)
        branches["detection"] = Branch(pyramid, boxes, reads="neck")
    if "classification" in tasks:
        deepest = PickLevels(*levels)
        classes = ClassificationHead(
            deepest.channels, CLASSIFICATION, window_weight=variant == "compact", dropout=dropout
        )
        branches["classification"] = Branch(deepest, classes)
    if "reconstruction" in tasks:
        redraw = ReconstructionDecoder(spatial_dims, *levels, channels=widths.redraw[-blocks:], norm=norm)
        low, high = HU_WINDOW
        image = ReconstructionHead(
            spatial_dims,
            redraw.channels,
            redraw.strides,
            output=RECONSTRUCTION,
            dropout=dropout,
            scale=high - low,
            offset=low,
        )
        branches["reconstruction"] = Branch(redraw, image)
    return MultiTaskNet(trunk, branches, neck=neck if "detection" in tasks else None, outputs=outputs, layout=layout)


def preprocessing(spacing_mm: Sequence[float] = SPACING_MM, load: bool = True) -> Compose:
    """Study to network input: load, axes to left-posterior-superior, resample, clip HU and map them to 0..1.

    A ``label`` beside the ``image``, on whatever grid, comes onto the image's.

    Args:
        spacing_mm: of the network's grid.
        load: whether ``image`` is a path; a host that has loaded it already says no.
    """
    from monai.transforms import (
        AsDiscreted,
        Compose,
        EnsureChannelFirstd,
        EnsureTyped,
        Orientationd,
        ResampleToMatchd,
        ScaleIntensityRanged,
    )

    from mtnet.transforms import SpacingAloned

    loader = []
    if load:
        from mtnet.io.loader import LoadImageStudyd

        loader = [LoadImageStudyd(keys="image")]
    low, high = HU_WINDOW
    label: dict[str, Any] = {"keys": "label", "allow_missing_keys": True}
    return Compose(
        [
            *loader,
            EnsureChannelFirstd(keys="image", channel_dim="no_channel", strict_check=False),
            EnsureTyped(keys="image", dtype="float32"),
            Orientationd(keys="image", axcodes="LPS", labels=None),
            SpacingAloned(keys="image", pixdim=tuple(spacing_mm), mode="bilinear", padding_mode="border"),
            ScaleIntensityRanged(keys="image", a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True),
            EnsureChannelFirstd(**label, channel_dim="no_channel", strict_check=False),
            ResampleToMatchd(**label, key_dst="image", mode="bilinear", padding_mode="zeros"),
            AsDiscreted(**label, threshold=0.5),
        ]
    )


def inferer(
    overlap: float = 0.25,
    batch: int = 2,
    region: str = "lung_field",
    window: Sequence[int] = WINDOW,
    precision: Precision = "float32",
    layout: Literal["batch", "list"] = "batch",
    dense: DenseForm = "logits",
) -> MultiTaskInferer:
    """The window engine over the lung field, with this system's window.

    Args:
        overlap: share of a window in common with the next.
        batch: windows in one pass; on a CPU torch convolves small maps fast from two on.
        region: ``lung_field``, ``body`` or ``whole``.
        window: voxels; at most 96 mm keeps windows without lung from being run.
        precision: ``float32``, ``bfloat16`` or ``float16``.
        layout, dense: see ``MultiTaskInferer``.
    """
    from mtnet.inference import MultiTaskInferer
    from mtnet.inference.region import Region

    return MultiTaskInferer(
        window,
        overlap,
        batch,
        precision=precision,
        layout=layout,
        dense=dense,
        region=Region(region, HU_WINDOW),
    )


def loss(weights: Mapping[str, float] | None = None, spatial_dims: int = 3) -> MultiTaskLoss:
    """Σ wᵢLᵢ over the outputs ``pred``, ``lesions``, ``classification`` and ``reconstruction`` (the paper's total).

    Segmentation: generalised Dice plus cross-entropy (the latter our choice: it teaches windows without a lesion).
    Detection: quality focal terms and GIoU. Classification: BCE of windows and of their bag. Reconstruction: L1.
    """
    from mtnet.losses import BagClassificationLoss, DenseDetectionLoss, MaskedL1Loss, MultiTaskLoss, SegmentationLoss

    return MultiTaskLoss(
        {
            SEGMENTATION.name: SegmentationLoss(),
            DETECTION.name: DenseDetectionLoss(DETECTION, spatial_dims, class_target="one", offset_l1=True),
            CLASSIFICATION.name: BagClassificationLoss(),
            RECONSTRUCTION.name: MaskedL1Loss(unit=HU_WINDOW[1] - HU_WINDOW[0]),
        },
        weights,
    )


@dataclass(frozen=True, slots=True)
class _Widths:
    vgg: tuple[int, ...]
    resnet: int
    decoder: tuple[int, ...]
    redraw: tuple[int, ...]
    fpn: int
    norm: str
    convs: int


_WIDTHS = {
    "compact": _Widths((8, 32, 64, 96, 128), 16, (64, 64, 48, 24, 8), (64, 64, 32, 16, 8), 48, "group", 1),
    # With the usual 256 in the pyramid the boxes alone would cost more than the whole segmentation.
    "published": _Widths((64, 128, 256, 512, 512), 64, (256, 128, 64, 32, 16), (256, 128, 64, 32, 16), 128, "batch", 2),
}


def _encoder(name: str, spatial_dims: int, in_channels: int, widths: _Widths) -> VGG13 | ResNetEncoder:
    from mtnet.nets import VGG13, ResNetEncoder

    if name == "vgg13":
        return VGG13(spatial_dims, in_channels, channels=widths.vgg, norm=widths.norm)
    depths = {"resnet10": 10, "resnet18": 18, "resnet34": 34, "resnet50": 50}
    if name not in depths:
        raise ValueError(f"encoder is {name!r}; expected one of {', '.join(['vgg13', *depths])}.")
    return ResNetEncoder(spatial_dims, in_channels, depth=depths[name], norm=widths.norm, width=widths.resnet)
