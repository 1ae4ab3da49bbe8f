"""Res-MTNet: what a lung nodule is and how large it is, from one residual trunk with links between the two tasks.

Lin, Zhang, Pan, Chen, Pan, Qi: Res-MTNet (arXiv 2502.19692).

The paper's (of which only the idea could be read): one residual feature extractor, two heads, classification and
regression of pulmonary nodules, and residual links that share features between the tasks and keep gradients alive. Its
accuracy and F1 we know from a page about it alone, so they are not quoted.

Our choices, so all the rest: ResNet-18 (34 and 50 by name), the mean of its deepest level, 256 features that both
tasks share, one pre-activation residual block a task, then the links, linear maps of the other task's features that
start at 0 (see ``ResidualTaskLinks``). ``pred`` is what LIDC's readers suspect, a malignancy rating above 3 or below it
(3 is left out of the class); that is no pathology. Measured are the diameter in mm and the rating itself, 1 to 5,
both standardised by the mean and spread of LIDC's nodules. Cross-entropy plus lambda times smooth L1, lambda 1, or
learned weights; ``uncertainty`` adds a predicted variance. The input is a field of 22 x 22 mm and three axial planes
1 mm apart: LIDC's crops end with the nodule above and below, so a cube would tell the diameter by its padding. With
``spatial_dims=3`` it is a cube of 32 mm at 1 mm, for whole scans. ``compact`` is ResNet-18 at half the width (a quarter
in 3D) with group norm: 788 nodules do not fill more. Trunks of ``published`` are torchvision's, 11,176,512 parameters
in the ResNet-18 of three planes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from mtnet.structures import Code, Label, OutputSpec
from mtnet.structures.labels import labels_of

if TYPE_CHECKING:
    from monai.transforms import Compose

    from mtnet.inference import MultiTaskInferer
    from mtnet.inference.inferer import DenseForm
    from mtnet.inference.precision import Precision
    from mtnet.losses import MultiTaskLoss
    from mtnet.nets import MultiTaskNet

Variant = Literal["compact", "published"]
Task = Literal["classification", "regression"]
TASKS: tuple[Task, ...] = ("classification", "regression")

HU_WINDOW = (-1000.0, 400.0)
"""Clipped in preprocessing and mapped to 0..1."""
FEATURES = 256
PLANES = 3
PLANE_MM = 1.0
FIELD_MM = {2: 22.0, 3: 32.0}
"""Edge of the field of view, for planes and for a cube."""
SIZE = {2: 64, 3: 32}
"""Pixels along it."""

DIAMETER_MM = (8.7, 5.0)
READER_RATING = (2.9, 1.2)
"""Mean and standard deviation over 788 nodules of LIDC."""

_NODULE = Code("27925004", "SCT", "Nodule")
_LUNG = Code("39607008", "SCT", "Lung")
SUSPICION = (
    Label(0, "low_reader_suspicion", (92, 205, 255), _NODULE, _LUNG),
    Label(1, "high_reader_suspicion", (255, 150, 60), _NODULE, _LUNG),
)
CLASSIFICATION = OutputSpec("pred", "global", SUSPICION, activation="softmax", title="reader_suspicion")
DIAMETER = OutputSpec("diameter", "global", units="mm")
RATING = OutputSpec("reader_rating", "global", units="rating 1 to 5")

_WIDTH = {2: 32, 3: 16}


def network(
    variant: Variant = "compact",
    encoder: str = "resnet18",
    interaction: Literal["residual_links", "none"] = "residual_links",
    spatial_dims: int = 2,
    in_channels: int | None = None,
    tasks: Sequence[Task] = TASKS,
    labels: Sequence[str | Label] | None = None,
    uncertainty: bool = False,
    dropout: float = 0.0,
    pretrained: bool | None = False,
    outputs: Sequence[str] | None = None,
    layout: Literal["dict", "tuple", "tensor"] = "dict",
) -> MultiTaskNet:
    """The network: trunk, shared features, a residual block a task, the links, two heads.

    Args:
        variant: ``compact`` (what the bundle's weights fit) or ``published`` (full width, batch norm).
        encoder: ``resnet18``, ``resnet34``, ``resnet50``, ``resnet10``, or another of ``mtnet.nets.ENCODERS``.
        interaction: ``residual_links`` or ``none``; a single task has none.
        spatial_dims: 2 for planes, 3 for a cube.
        in_channels: by default three planes in 2D, one channel in 3D.
        tasks: branches to build.
        labels: classes of a nodule, by name; low and high reader suspicion by default.
        uncertainty: each measured value comes with its log-variance.
        dropout: in the residual blocks and before every head.
        pretrained: start the encoder from ImageNet weights (2D, ``published``); with None where this machine has them.
        outputs, layout: see ``MultiTaskNet``.

    Raises:
        ValueError: an unknown variant, encoder, interaction or task.
        RuntimeError: ``pretrained`` weights cannot be fetched.
    """
    from mtnet.nets import Branch, ClassificationHead, MultiTaskNet, make_encoder
    from mtnet.nets.decoders import ResidualVector
    from mtnet.nets.heads import RegressionHead
    from mtnet.nets.interactions import make_interaction
    from mtnet.nets.necks import SharedVector

    for what, value, known in (
        ("variant", variant, ("compact", "published")),
        ("interaction", interaction, ("residual_links", "none")),
    ):
        if value not in known:
            raise ValueError(f"{what} is {value!r}; expected one of {', '.join(known)}.")
    if not tasks or not set(tasks) <= set(TASKS):
        raise ValueError(f"tasks is {list(tasks)}; expected some of {', '.join(TASKS)}.")
    narrow: dict[str, Any] = {}
    if variant == "compact" and encoder.startswith("resnet"):
        narrow = {"norm": "group", "width": _WIDTH[spatial_dims]}
    channels = (PLANES if spatial_dims == 2 else 1) if in_channels is None else in_channels
    trunk: Any = make_encoder(encoder, spatial_dims, channels, pretrained=pretrained, **narrow)
    shared = SharedVector(trunk.channels, channels=FEATURES)
    branches: dict[str, Branch] = {}
    if "classification" in tasks:
        block = ResidualVector(shared.channels, dropout=dropout)
        told = replace(CLASSIFICATION, labels=labels_of(labels, SUSPICION, 0))
        classes = ClassificationHead(block.channels, told, dropout=dropout)
        branches["classification"] = Branch(block, classes, reads="neck")
    if "regression" in tasks:
        block = ResidualVector(shared.channels, dropout=dropout)
        values = RegressionHead(
            block.channels,
            [replace(spec, log_variance=uncertainty) for spec in (DIAMETER, RATING)],
            offsets=(DIAMETER_MM[0], READER_RATING[0]),
            scales=(DIAMETER_MM[1], READER_RATING[1]),
            dropout=dropout,
        )
        branches["regression"] = Branch(block, values, reads="neck")
    links = None
    if len(branches) > 1:
        links = make_interaction(interaction, spatial_dims, dict.fromkeys(branches, (FEATURES,)), {})
    return MultiTaskNet(trunk, branches, neck=shared, interaction=links, outputs=outputs, layout=layout)


def preprocessing(spatial_dims: int = 2, load: bool = True) -> Compose:
    """Volume to network input: load, the field around ``at_lps_mm`` (or the middle of a crop), clip HU, map to 0..1.

    Args:
        spatial_dims: 2 for planes ``(3, 64, 64)``, 3 for a cube ``(1, 32, 32, 32)``.
        load: whether ``image`` is a path; a host that has loaded it already says no.
    """
    from monai.transforms import Compose, EnsureTyped, ScaleIntensityRanged

    from mtnet.transforms import NodulePatchd

    loader = []
    if load:
        from mtnet.io.loader import LoadImageStudyd

        loader = [LoadImageStudyd(keys="image")]
    low, high = HU_WINDOW
    return Compose(
        [
            *loader,
            EnsureTyped(keys="image", dtype="float32"),
            NodulePatchd(
                keys="image",
                size=SIZE[spatial_dims],
                field_mm=FIELD_MM[spatial_dims],
                planes=PLANES if spatial_dims == 2 else None,
                plane_mm=PLANE_MM,
            ),
            ScaleIntensityRanged(keys="image", a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True),
        ]
    )


def inferer(
    batch: int = 1,
    precision: Precision = "float32",
    layout: Literal["batch", "list"] = "batch",
    dense: DenseForm = "logits",
) -> MultiTaskInferer:
    """The whole patch at once.

    Args:
        batch: patches in one pass.
        precision: ``float32``, ``bfloat16`` or ``float16``.
        layout, dense: see ``MultiTaskInferer``.
    """
    from mtnet.inference import MultiTaskInferer

    return MultiTaskInferer(None, 0.0, batch, precision=precision, layout=layout, dense=dense)


def loss(
    lambda_: float = 1.0, weighting: Literal["fixed", "uncertainty"] = "fixed", uncertainty: bool = False
) -> MultiTaskLoss:
    """Cross-entropy of ``pred`` plus lambda times the regression of ``diameter`` and ``reader_rating``.

    Regression is smooth L1 (beta 1) in standard deviations. A class of -1 (a rating of 3) or a value that is NaN is
    unknown and teaches nothing.

    Args:
        lambda_: weight of each regression.
        weighting: ``fixed``, or ``uncertainty`` for learned weights on top.
        uncertainty: for a network with log-variances: Gaussian likelihood in place of smooth L1.
    """
    from mtnet.losses import FocalLoss, GaussianRegressionLoss, MultiTaskLoss, RegressionLoss

    units = {DIAMETER.name: DIAMETER_MM[1], RATING.name: READER_RATING[1]}
    measured = {
        name: GaussianRegressionLoss(unit) if uncertainty else RegressionLoss("smooth_l1", beta=1.0, unit=unit)
        for name, unit in units.items()
    }
    return MultiTaskLoss(
        # Without focusing the focal loss is the cross-entropy over what is known.
        {CLASSIFICATION.name: FocalLoss(gamma=0.0), **measured},
        dict.fromkeys(units, lambda_),
        weighting=weighting,
        forms=dict.fromkeys(units, "regression") if weighting == "uncertainty" else None,
    )
