"""YOLO-Med: polyps found and outlined at the rate of a video, by two decoders that exchange what they see.

Huang, Sirejiding, Lu, Ding, Liu, Zhou, Lu: "YOLO-Med: multi-task interaction network for biomedical images" (arXiv
2403.00245, ICASSP 2024). No code of the authors is public.

The paper's: one encoder, CSPDarknet53, and a neck that fuses its scales, spatial pyramid pooling and a feature pyramid;
a decoupled detection head that answers class, box and IoU a cell; a segmentation decoder on the same neck; between the
decoders a cross-scale task interaction, in which a transformer layer fuses the scales of both. Its ablations are the
coupled head (``head="coupled"``) and the missing interaction (``interaction="none"``).

Our choices, where the paper is silent: the neck is 256 wide at strides 8, 16 and 32; the detection decoder's features
are the neck's, the segmentation decoder's go through a convolution a level first, then up to the image after YOLOP;
both are pooled to a grid of 10 x 10 cells a level for the transformer layer, whose answer is added with a scale that
starts at 0 (see ``CrossScaleInteraction``); ``interaction="same_scale"`` lets levels of one stride alone exchange.
SimOTA assignment, CIoU and BCE weighted as in YOLOX; BCE and Dice of the mask; weights 1 : 1, or learned. The longer
side is 640, the rest padded to 32. ``published`` has 26,617,184 parameters in the encoder, 2,624,512 in the pooling,
2,231,296 in the pyramid, 7,088,658 in the head for one class. ``compact`` is for training from nothing on few images:
the small CSPDarknet of YOLOv5 (timm's ``cs3darknet_s``; in 3D CSPDarknet53 at half its width with group norm), neck and
heads 96 wide with group norm, attention heads 32 wide as in ``published``, at 320.
Another decoder of the outline (``decoder="infused_unet"``) reads the encoder itself and can begin as U-Net v2's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from mtnet.structures import Code, Label, OutputSpec
from mtnet.structures.labels import labels_of
from mtnet.systems.pictures import whole_image

if TYPE_CHECKING:
    from monai.transforms import Compose

    from mtnet.losses import MultiTaskLoss
    from mtnet.nets import MultiTaskNet

Variant = Literal["compact", "published"]
Task = Literal["segmentation", "detection"]
OutlineLoss = Literal["dice_bce", "structure"]
TASKS: tuple[Task, ...] = ("segmentation", "detection")
STRIDES = (8, 16, 32)

SIZE = {"compact": 320, "published": 640}
"""Longer side of the image in pixels."""

POLYP = Label(1, "polyp", (255, 170, 0), Code("41329004", "SCT", "Polyp"), Code("71854001", "SCT", "Colon"))

SEGMENTATION = OutputSpec("pred", "dense", (POLYP,), (1,), "sigmoid")
AUXILIARY = ("pred_aux_s2", "pred_aux_s4", "pred_aux_s8")
"""Answers of a U-Net's blocks to the same truth, finest first, in training alone; ``yolo`` has none."""
DETECTION = OutputSpec("lesions", "boxes", (POLYP,), STRIDES, "sigmoid", threshold=0.35)


def network(
    variant: Variant = "compact",
    encoder: str | None = None,
    interaction: str = "cross_scale",
    head: Literal["decoupled", "coupled"] = "decoupled",
    neck: Literal["fpn", "pan"] = "fpn",
    decoder: str = "yolo",
    spatial_dims: int = 2,
    in_channels: int = 3,
    tasks: Sequence[Task] = TASKS,
    labels: Sequence[str | Label] | None = None,
    dropout: float = 0.0,
    pretrained: bool | None = False,
    outputs: Sequence[str] | None = None,
    layout: Literal["dict", "tuple", "tensor"] = "dict",
) -> MultiTaskNet:
    """The network: encoder, pooling and pyramid, two decoders, the interaction between them, two heads.

    Args:
        variant: ``compact`` (what the bundle's weights fit) or ``published`` (the paper's widths, batch norm).
        encoder: ``cspdarknet53``, another of ``mtnet.nets.ENCODERS``, or of timm in 2D, with levels at strides 8, 16
            and 32; by default the variant's own.
        interaction: ``cross_scale``, ``same_scale`` or ``none``; a single task has none.
        head: ``decoupled`` (class apart from box and IoU) or ``coupled``.
        neck: ``fpn``, or ``pan`` with a second way, from fine to coarse.
        decoder: of the outline: ``yolo``, which reads the neck, or another of ``mtnet.nets.DECODERS``, which reads the
            encoder's own levels, those of strides 8, 16 and 32 after the interaction.
        spatial_dims: 2, or 3 with an encoder that can.
        in_channels: of the image.
        tasks: branches to build.
        labels: kinds of lesion that boxes tell apart, by name; the mask is of all of them.
        dropout: before every head.
        pretrained: start the encoder from ImageNet weights (2D, an encoder that has them); with None where this machine
            has them.
        outputs, layout: see ``MultiTaskNet``.

    Raises:
        ValueError: an unknown variant, encoder, interaction, head, neck, decoder or task.
        RuntimeError: ``pretrained`` weights cannot be fetched.
    """
    from mtnet.nets import Branch, DetectionHead, MultiTaskNet, PickLevels, SegmentationHead, make_encoder
    from mtnet.nets.decoders import LevelTowers, make_decoder
    from mtnet.nets.heads import DecodingHead
    from mtnet.nets.interactions import make_interaction
    from mtnet.nets.necks import FPN, PAN, SPP, NeckChain

    necks = {"fpn": FPN, "pan": PAN}
    for what, value, known in (
        ("variant", variant, _WIDTHS),
        ("interaction", interaction, ("cross_scale", "same_scale", "none")),
        ("head", head, ("decoupled", "coupled")),
        ("neck", neck, necks),
    ):
        if value not in known:
            raise ValueError(f"{what} is {value!r}; expected one of {', '.join(known)}.")
    if not tasks or not set(tasks) <= set(TASKS):
        raise ValueError(f"tasks is {list(tasks)}; expected some of {', '.join(TASKS)}.")
    widths = _WIDTHS[variant]
    name = encoder or ("cs3darknet_s" if variant == "compact" and spatial_dims == 2 else "cspdarknet53")
    narrow = widths.encoder if name == "cspdarknet53" else {}
    trunk: Any = make_encoder(name, spatial_dims, in_channels, pretrained=pretrained, **narrow)
    norm = widths.norm
    pooling = SPP(spatial_dims, trunk.channels, trunk.strides, norm=norm)
    pyramid: Any = necks[neck](
        spatial_dims, pooling.channels, pooling.strides, channels=widths.neck, strides=STRIDES, norm=norm
    )
    levels = pyramid.channels, pyramid.strides

    # The joined levels are what stands between a branch's decoder and its head: the heads' own layers come after.
    branches: dict[str, Branch] = {}
    joined: dict[str, Any] = {}
    if "segmentation" in tasks:
        on_neck = decoder == "yolo"
        own: Any = (
            LevelTowers(spatial_dims, *levels, channels=widths.neck, norm=norm)
            if on_neck
            else PickLevels(trunk.channels, trunk.strides, trunk.strides)
        )
        several = decoder in ("unet", "unetplusplus", "infused_unet")
        more: dict[str, Any] = (
            {"levels": 1 + len(AUXILIARY)} if several else {"channels": widths.climb} if on_neck else {}
        )
        climb: Any = make_decoder(decoder, spatial_dims, own.channels, own.strides, norm=norm, **more)
        mask = SegmentationHead(
            spatial_dims,
            climb.channels,
            climb.strides,
            output=SEGMENTATION,
            kernel_size=3 if on_neck else 1,
            dropout=dropout,
            upsample=climb.strides[0],
            auxiliary_strides=climb.strides[1:],
        )
        branches["segmentation"] = Branch(own, DecodingHead(climb, mask), reads="neck" if on_neck else "encoder")
        joined["segmentation"] = own
    if "detection" in tasks:
        boxes = DetectionHead(
            spatial_dims, *levels, detection(labels), norm=norm, dropout=dropout, coupled=head == "coupled"
        )
        joined["detection"] = PickLevels(*levels, STRIDES)
        branches["detection"] = Branch(joined["detection"], boxes, reads="neck")
    exchange = None
    if len(branches) > 1:
        exchange = make_interaction(
            interaction,
            spatial_dims,
            {task: part.channels for task, part in joined.items()},
            {task: part.strides for task, part in joined.items()},
            joined_strides=STRIDES,
            width=widths.neck,
            heads=widths.neck // _HEAD_WIDTH,
            feedforward=4 * widths.neck,
        )
    return MultiTaskNet(
        trunk, branches, neck=NeckChain(pooling, pyramid), interaction=exchange, outputs=outputs, layout=layout
    )


def preprocessing(size: int = SIZE["compact"], in_channels: int = 3, load: bool = True) -> Compose:
    """Image to network input: load, rows x columns, the longer side to ``size``, ImageNet normalisation.

    The aspect stays. A ``label`` beside the ``image`` takes the same steps in space.

    Args:
        size: of the longer side in pixels.
        in_channels: 3 (grey is copied) or 1.
        load: whether ``image`` is a path; a host that has loaded it already says no.
    """
    from mtnet.transforms import picture_chain

    return picture_chain(size, channels=in_channels, load=load)


inferer = whole_image
"""The whole image at once, padded to a multiple of 32; see ``whole_image``."""


def loss(
    weights: Mapping[str, float] | None = None,
    weighting: Literal["fixed", "uncertainty"] = "fixed",
    assigner: Literal["simota", "atss"] = "simota",
    box: Literal["ciou", "giou"] | None = None,
    spatial_dims: int = 2,
    labels: Sequence[str | Label] | None = None,
    outline: OutlineLoss = "dice_bce",
) -> MultiTaskLoss:
    """L_det + L_seg over the outputs ``lesions`` and ``pred``.

    Detection: box loss, BCE of the class (its target the IoU of the predicted box) and of the IoU output, each a
    positive cell, the box loss five times (YOLOX's balance). Segmentation: BCE and Dice, or U-Net v2's structure loss.

    Args:
        weights: by output; 1 where not given.
        weighting: ``fixed``, or ``uncertainty`` for learned ones.
        assigner: which cells answer for an object, ``simota`` or ``atss``.
        box: ``ciou`` (2D only; the default there) or ``giou``.
        spatial_dims: 2 or 3.
        labels: as the network's.
        outline: ``dice_bce`` (``BinarySegmentationLoss``) or ``structure`` (``StructureLoss``).

    Raises:
        ValueError: an unknown loss of the outline.
    """
    from mtnet.losses import DeepSupervisionLoss, DenseDetectionLoss, MultiTaskLoss, make_segmentation_loss

    if outline not in get_args(OutlineLoss):
        raise ValueError(f"outline is {outline!r}; expected one of {', '.join(get_args(OutlineLoss))}.")
    boxes = DenseDetectionLoss(
        detection(labels),
        spatial_dims,
        assigner,
        box=box or ("ciou" if spatial_dims == 2 else "giou"),
        confidence="bce",
        term_weights={"box": 5.0},
    )
    mask = DeepSupervisionLoss(make_segmentation_loss(outline), (SEGMENTATION.name, *AUXILIARY))
    return MultiTaskLoss({DETECTION.name: boxes, SEGMENTATION.name: mask}, weights, weighting=weighting)


def detection(labels: Sequence[str | Label] | None = None) -> OutputSpec:
    """What the boxes are, for the labels of that name."""
    return replace(DETECTION, labels=labels_of(labels, (POLYP,), 1))


@dataclass(frozen=True, slots=True)
class _Widths:
    encoder: Mapping[str, Any]
    neck: int
    climb: tuple[int, ...]
    norm: str


_HEAD_WIDTH = 32
"""Of a head of the attention."""
_WIDTHS = {
    "compact": _Widths({"norm": "group", "width": 16}, 96, (64, 32, 16, 8), "group"),
    "published": _Widths({}, 256, (128, 64, 32, 16), "batch"),
}
