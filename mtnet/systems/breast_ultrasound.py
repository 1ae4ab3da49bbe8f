"""Breast ultrasound in two tasks: where the lesion is, and whether the image is benign, malignant or normal.

Chung, Dang, Vu, Nguyen, Nguyen, Dinh: a multi-task grid of encoders and decoders on breast ultrasound (arXiv
2401.07326).

The paper's (as far as it could be read): one encoder, pretrained on ImageNet, shared by a segmentation decoder and an
image-level classifier of three classes; the grid ResNet-50, ResNeXt-50, Wide-ResNet-50 and EfficientNet-B4 by U-Net,
U-Net++, FPN and DeepLabV3+, best with EfficientNet-B4 and DeepLabV3+; a weighted sum of Dice and class-weighted focal
loss with lambda = 0.7. Parameters of the grid are those of segmentation_models_pytorch, plus the classifier's.

Our choices: lambda multiplies the focal term (the paper's text leaves it open; ``form="convex"`` is the other reading,
lambda Dice + (1 - lambda) focal); gamma 2, class weights inverse to the frequency in BUSI (437 benign, 210 malignant,
133 normal images); EfficientNet-B4 without the 1792-channel convolution before its classifier, which no branch reads;
one linear layer on the mean of the deepest level as classifier; 256 x 256, ImageNet normalisation, grey copied to three
channels. ``compact``, for training from nothing on few images, is the best cell's decoder on a small CSPDarknet (timm's
``cs3darknet_s``; 3.9 million parameters in place of 17.8); in 3D on EfficientNet-B0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from mtnet.structures import Code, Label, OutputSpec
from mtnet.structures.labels import labels_of
from mtnet.systems.pictures import whole_image

if TYPE_CHECKING:
    from monai.transforms import Compose

    from mtnet.losses import MultiTaskLoss
    from mtnet.nets import MultiTaskNet

Variant = Literal["compact", "published"]
Task = Literal["segmentation", "classification"]
LossForm = Literal["additive", "convex"]
OutlineLoss = Literal["dice", "dice_bce", "structure"]
TASKS: tuple[Task, ...] = ("segmentation", "classification")

SIZE = (256, 256)
"""Rows and columns."""
LAMBDA = 0.7
"""The paper's best."""
BUSI_IMAGES = (437, 210, 133)
"""Benign, malignant and normal images of the whole data set (Al-Dhabyani et al., 2020)."""

LESION = Label(1, "breast_lesion", (255, 170, 0), Code("52988006", "SCT", "Lesion"), Code("76752008", "SCT", "Breast"))
IMAGE_CLASSES = (Label(0, "benign"), Label(1, "malignant"), Label(2, "normal"))

SEGMENTATION = OutputSpec("pred", "dense", (LESION,), (1,), "sigmoid")
CLASSIFICATION = OutputSpec("classification", "global", IMAGE_CLASSES, activation="softmax")

_ENCODERS = {
    ("compact", 2): "cs3darknet_s",
    ("published", 2): "efficientnet_b4",
    ("compact", 3): "efficientnet_b0",
    ("published", 3): "efficientnet_b4",
}
_DECODING: dict[str, dict[str, Any]] = {
    "unet": {"norm": "batch"},
    "unetplusplus": {"norm": "batch"},
    "fpn": {"norm": ("group", {"num_groups": 32}), "dropout": 0.2},
    "deeplabv3plus": {"norm": "batch"},
}
"""As segmentation_models_pytorch has them."""


def network(
    variant: Variant = "compact",
    encoder: str | None = None,
    decoder: str = "deeplabv3plus",
    spatial_dims: int = 2,
    in_channels: int = 3,
    tasks: Sequence[Task] = TASKS,
    labels: Sequence[str | Label] | None = None,
    dropout: float = 0.0,
    pretrained: bool | None = False,
    outputs: Sequence[str] | None = None,
    layout: Literal["dict", "tuple", "tensor"] = "dict",
) -> MultiTaskNet:
    """The network: one encoder, a segmentation decoder, a classifier of its deepest level.

    Args:
        variant: ``compact`` (what the bundle's weights fit) or ``published`` (EfficientNet-B4).
        encoder: in place of the variant's: ``resnet50``, ``resnext50_32x4d``, ``wide_resnet50_2``,
            ``efficientnet_b4``, another of ``mtnet.nets.ENCODERS``, or of timm in 2D.
        decoder: ``unet``, ``unetplusplus``, ``fpn`` or ``deeplabv3plus``.
        spatial_dims: 2, or 3 for volume scans, with an encoder that can.
        in_channels: of the image.
        tasks: branches to build.
        labels: classes of the image, by name; BUSI's three by default.
        dropout: before every head.
        pretrained: start the encoder from ImageNet weights (2D); with None where this machine has them.
        outputs, layout: see ``MultiTaskNet``.

    Raises:
        ValueError: an unknown variant, encoder, decoder or task.
        RuntimeError: ``pretrained`` weights cannot be fetched.
    """
    from mtnet.nets import Branch, ClassificationHead, MultiTaskNet, PickLevels, SegmentationHead, make_encoder
    from mtnet.nets.decoders import make_decoder

    for what, value, known in (("variant", variant, ("compact", "published")), ("decoder", decoder, _DECODING)):
        if value not in known:
            raise ValueError(f"{what} is {value!r}; expected one of {', '.join(known)}.")
    if not tasks or not set(tasks) <= set(TASKS):
        raise ValueError(f"tasks is {list(tasks)}; expected some of {', '.join(TASKS)}.")
    trunk: Any = make_encoder(
        encoder or _ENCODERS[variant, spatial_dims],
        spatial_dims,
        in_channels,
        pretrained=pretrained,
        output_stride=16 if decoder == "deeplabv3plus" else None,
    )
    branches: dict[str, Branch] = {}
    if "segmentation" in tasks:
        segment: Any = make_decoder(decoder, spatial_dims, trunk.channels, trunk.strides, **_DECODING[decoder])
        stride = segment.strides[0]
        head = SegmentationHead(
            spatial_dims,
            segment.channels,
            segment.strides,
            output=SEGMENTATION,
            kernel_size=3 if stride == 1 else 1,
            dropout=dropout,
            upsample=stride,
            align_corners=True,
        )
        branches["segmentation"] = Branch(segment, head)
    if "classification" in tasks:
        classes = replace(CLASSIFICATION, labels=labels_of(labels, IMAGE_CLASSES, 0))
        deepest = PickLevels(trunk.channels, trunk.strides)
        branches["classification"] = Branch(deepest, ClassificationHead(deepest.channels, classes, dropout=dropout))
    return MultiTaskNet(trunk, branches, outputs=outputs, layout=layout)


def preprocessing(size: Sequence[int] = SIZE, in_channels: int = 3, load: bool = True) -> Compose:
    """Image to network input: load, rows x columns, resize each axis to its own size, ImageNet normalisation.

    A ``label`` beside the ``image`` takes the same steps in space.

    Args:
        size: rows and columns, multiples of 32.
        in_channels: 3 (grey is copied) or 1.
        load: whether ``image`` is a path; a host that has loaded it already says no.
    """
    from mtnet.transforms import picture_chain

    return picture_chain((size[0], size[1]), channels=in_channels, load=load)


inferer = whole_image
"""The whole image at once, since its class is one of the whole image; see ``whole_image``."""


def loss(
    lambda_: float = LAMBDA,
    form: LossForm = "additive",
    gamma: float = 2.0,
    class_images: Sequence[float] | None = BUSI_IMAGES,
    outline: OutlineLoss = "dice",
) -> MultiTaskLoss:
    """Dice of ``pred`` and class-weighted focal loss of ``classification``, weighed by lambda.

    Dice alone teaches next to nothing on images without a lesion and on lesions that are missed altogether, where its
    gradient vanishes; ``dice_bce`` and ``structure`` do.

    Args:
        lambda_: see ``form``; 0.7 is the paper's best.
        form: ``additive``, Dice + lambda focal, or ``convex``, lambda Dice + (1 - lambda) focal.
        gamma: focusing power.
        class_images: training images of each class, whose inverse frequencies weigh the classes; none weighs all alike.
        outline: in place of Dice: ``dice_bce`` (``BinarySegmentationLoss``) or ``structure`` (``StructureLoss``).

    Raises:
        ValueError: an unknown form or loss, or a lambda that it cannot have.
    """
    from mtnet.losses import FocalLoss, MultiTaskLoss, inverse_frequency, make_segmentation_loss

    for what, value, known in (("form", form, LossForm), ("outline", outline, OutlineLoss)):
        if value not in get_args(known):
            raise ValueError(f"{what} is {value!r}; expected one of {', '.join(get_args(known))}.")
    alpha = None if class_images is None else inverse_frequency(class_images)
    options = {"activation": "sigmoid"} if outline == "dice" else {}
    mask = make_segmentation_loss(outline, **options)
    terms = {SEGMENTATION.name: mask, CLASSIFICATION.name: FocalLoss(gamma, alpha)}
    if form == "convex":
        return MultiTaskLoss(terms, {SEGMENTATION.name: lambda_}, weighting="convex")
    return MultiTaskLoss(terms, {CLASSIFICATION.name: lambda_})
