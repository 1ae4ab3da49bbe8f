"""U-Net v2: skips that hold the semantics of all levels and the detail of each, for polyps and skin lesions.

Peng, Sonka, Chen: "U-Net v2: Rethinking the skip connections of U-Net for medical image segmentation" (arXiv
2311.17791, ISBI 2025); the authors' code is github.com/yaoppeng/U-Net_v2.

The paper's: PVTv2-B2; channel and spatial attention on each of its four levels, a 1-wide convolution to 32 channels;
semantics and detail infusion (SDI), the product of all levels at the size of each; a decoder of transposed convolutions
that adds them up; an answer of every level, four times its size; structure loss at 352 x 352 on polyps, cross-entropy
and 1.5 Dice weighted 1/2^i on skin lesions. With one class it has 25,128,652 parameters and 5.56 GMAC at 256 x 256
(the authors' count is 25,145,036: a fifth transposed convolution is never used, nor are two of the four answers in
their standalone file, so they never learn).

Our choices: all four answers are trained, also on polyps; each axis is resized to its own length, so that any multiple
of 32 is answered; the finest answer alone counts, above a probability of 0.5 (the authors add the second, stretch the
sum to 0..1, and thus find something in every image); the structure loss is what its papers say, ``legacy_reduction``
is what the code does; ImageNet normalisation. ``compact`` is for training from nothing on few images, where a small
convolutional encoder (timm's ``cs3darknet_s``) came further in the same time than PVTv2-B0, the smallest of the paper's
family, and SDI's skips in a U-Net's blocks (``infused_unet``, ours) in place of the sum; the decoder has group norm. In
3D, where there is no PVTv2, a ResNet stands in its place. The decoders ``unet`` and ``unetplusplus`` are the authors'
comparison: same encoder, plain skips.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from mtnet.structures import Code, Label, OutputSpec
from mtnet.structures.labels import labels_of
from mtnet.systems.pictures import whole_image

if TYPE_CHECKING:
    from monai.transforms import Compose

    from mtnet.losses import MultiTaskLoss
    from mtnet.nets import MultiTaskNet

Variant = Literal["compact", "published"]
LossForm = Literal["structure", "ce_dice"]

SIZE = (352, 352)
"""Rows and columns of the polyp recipe."""
SUPERVISION = (1.0, 0.5, 0.25, 0.125)
"""Weights of the four answers, finest first (the recipe for skin lesions); normalised to a sum of 1."""

POLYP = Label(1, "polyp", (255, 170, 0), Code("41329004", "SCT", "Polyp"), Code("71854001", "SCT", "Colon"))
SKIN_LESION = Label(
    1, "skin lesion", (255, 170, 0), Code("95324001", "SCT", "Skin lesion"), Code("39937001", "SCT", "Skin")
)
SEGMENTATION = OutputSpec("pred", "dense", (POLYP,), (1,), "sigmoid")
AUXILIARY = ("pred_aux_s2", "pred_aux_s4", "pred_aux_s8")
"""Answers of the coarser levels, which are given in training alone."""

_ENCODERS = {
    ("compact", 2): "cs3darknet_s",
    ("published", 2): "pvt_v2_b2",
    ("compact", 3): "resnet18",
    ("published", 3): "resnet50",
}
_DECODERS = {"compact": "infused_unet", "published": "unet_v2"}


def network(
    variant: Variant = "compact",
    encoder: str | None = None,
    decoder: str | None = None,
    spatial_dims: int = 2,
    in_channels: int = 3,
    labels: Sequence[str | Label] | None = None,
    dropout: float = 0.0,
    pretrained: bool | None = False,
    outputs: Sequence[str] | None = None,
    layout: Literal["dict", "tuple", "tensor"] = "dict",
) -> MultiTaskNet:
    """The network: an encoder, SDI, a decoder, an answer of every level.

    Args:
        variant: ``compact`` (what the bundle's weights fit) or ``published`` (PVTv2-B2, the summing decoder, batch
            norm).
        encoder: any of ``mtnet.nets.ENCODERS``, or of timm in 2D; by default the variant's own.
        decoder: ``unet_v2`` (the paper's), ``infused_unet``, or another of ``mtnet.nets.decoders.DECODERS`` to compare
            with; by default the variant's own.
        spatial_dims: 2, or 3 with an encoder that can.
        in_channels: of the image.
        labels: what is outlined, by default ``polyp``: one name (sigmoid), or several that exclude each other (softmax,
            behind a background; train them with ``ce_dice``). ``polyp`` and ``skin lesion`` have codes. Whole labels
            are taken as they are, a background among them.
        dropout: before every head.
        pretrained: start the encoder from ImageNet weights (2D); with None where this machine has them.
        outputs, layout: see ``MultiTaskNet``.

    Raises:
        ValueError: an unknown variant, encoder or decoder.
        RuntimeError: ``pretrained`` weights cannot be fetched.
    """
    from mtnet.nets import Branch, MultiTaskNet, PickLevels, SegmentationHead, make_encoder
    from mtnet.nets.decoders import make_decoder

    if variant not in ("compact", "published"):
        raise ValueError(f"variant is {variant!r}; expected one of compact, published.")
    name = encoder or _ENCODERS[variant, spatial_dims]
    decoder = decoder or _DECODERS[variant]
    # The authors' drop path; it has no parameters and acts in training alone.
    options: dict[str, Any] = {"drop_path_rate": 0.1} if name.startswith("pvt_v2") else {}
    trunk: Any = make_encoder(name, spatial_dims, in_channels, pretrained=pretrained, **options)
    neck: Any = None
    levels = trunk.channels, trunk.strides
    decoding: dict[str, Any] = {"norm": "batch" if variant == "published" else "group"}
    if decoder == "unet_v2":
        # The paper's levels are those of PVTv2; other encoders have finer ones too.
        neck = PickLevels(*levels, [stride for stride in trunk.strides if stride >= 4])
        levels = neck.channels, neck.strides
    elif decoder in ("unet", "unetplusplus", "infused_unet"):
        decoding["levels"] = 1 + len(AUXILIARY)
    skips: Any = make_decoder(decoder, spatial_dims, *levels, **decoding)
    told = labels_of((POLYP,) if labels is None else labels, (POLYP, SKIN_LESION), 1)
    if len(told) > 1 and told[0].value:
        told = (Label(0, "background"), *told)
    head = SegmentationHead(
        spatial_dims,
        skips.channels,
        skips.strides,
        labels=told,
        activation="sigmoid" if len(told) == 1 else "softmax",
        kernel_size=1,
        dropout=dropout,
        upsample=skips.strides[0],
        auxiliary_strides=skips.strides[1:],
    )
    branch = Branch(skips, head, reads="encoder" if neck is None else "neck")
    return MultiTaskNet(trunk, {"segmentation": branch}, neck=neck, outputs=outputs, layout=layout)


def preprocessing(size: Sequence[int] = SIZE, in_channels: int = 3, load: bool = True, mask: bool = True) -> Compose:
    """Image to network input: load, rows x columns, resize each axis to its own size, ImageNet normalisation.

    A ``label`` beside the ``image`` takes the same steps in space.

    Args:
        size: rows and columns, multiples of 32.
        in_channels: 3 (grey is copied) or 1.
        load: whether ``image`` is a path; a host that has loaded it already says no.
        mask: ``label`` is a mask picture; with more labels than one it holds class numbers.
    """
    from mtnet.transforms import picture_chain

    return picture_chain((size[0], size[1]), channels=in_channels, load=load, mask=mask)


inferer = whole_image
"""The whole image at once, padded to a multiple of 32; see ``whole_image``."""


def loss(
    form: LossForm = "structure", supervision: Sequence[float] = SUPERVISION, legacy_reduction: bool = False
) -> MultiTaskLoss:
    """One segmentation loss over the answers of all levels, each judged at the size of the image.

    Args:
        form: ``structure`` for one label (the polyp recipe), ``ce_dice`` for background and others (that for skin
            lesions).
        supervision: weights of the answers, finest first. The authors' polyp recipe is ``(1, 1, 0, 0)``.
        legacy_reduction: train as the published code does, see ``StructureLoss``.

    Raises:
        ValueError: an unknown form, or weights that are not four.
    """
    from mtnet.losses import DeepSupervisionLoss, MultiTaskLoss, StructureLoss
    from mtnet.losses.ce_dice import CrossEntropyDiceLoss

    if form not in ("structure", "ce_dice"):
        raise ValueError(f"form is {form!r}; expected one of structure, ce_dice.")
    term = StructureLoss(legacy_reduction) if form == "structure" else CrossEntropyDiceLoss(dice_weight=1.5)
    return MultiTaskLoss({"pred": DeepSupervisionLoss(term, ("pred", *AUXILIARY), supervision)})
