"""Everything that one run says about one study; what every writer writes and every reader of results gets back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mtnet.structures.geometry import Geometry
from mtnet.structures.labels import Label
from mtnet.structures.report import InputReport
from mtnet.structures.study import Series, Stack
from mtnet.structures.volume import Volume

Triple = tuple[float, float, float]
Box = tuple[float, float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class Measured:
    """A value that a network measured, rather than one that was worked out from a mask.

    Args:
        value: in ``units``.
        units: as the output says them: ``mm``, ``rating 1 to 5``.
        sd: standard deviation of the error that the network expects, in ``units``; None where it does not tell one.
    """

    value: float
    units: str
    sd: float | None = None


@dataclass(frozen=True, slots=True)
class Lesion:
    """One lesion on the grid of ``Findings.geometry``: detected, or at a place that was given.

    Args:
        number: from 1, by falling score; its value in ``lesions.nii.gz`` and its segment number in DICOM SEG order.
        label: name of its lesion class.
        score: detection score in 0..1, as the network gave it; 1 where the place was given (``place_given``).
        box_index: half-open box in continuous voxel index, three lows then three highs.
        box_lps_mm: the same box in LPS mm (smallest aligned box on an oblique grid).
        centre_lps_mm: centroid of its mask; of its box where it owns no mask.
        tracking_uid: DICOM tracking unique identifier, the same in every file of this result.
        class_probabilities: for each per-lesion channel with labels, label name to probability.
        measures: for each per-lesion channel without labels, a key with its unit to its value.
        mask_voxels: voxels of the mask component that it owns; 0 where there is none.
        volume_mm3: volume of that mask, or None.
        longest_axial_diameter_mm: longest in-slice diameter over all slices of the mask, voxel faces included, or None.
        short_axial_diameter_mm: longest diameter perpendicular to that one in the same slice, or None.
        frame: of a 2D image or clip, the frame that it lies on, from 0; None in a volume.
        measured: what the network measured of it, by a key that ends in its unit (``diameter_mm``).
        place_given: whether it was asked about at this place, which is its centre, rather than detected.
        mask_drawn: whether its mask is a ball of the measured diameter rather than an outline that was seen: volume
            and diameters of such a mask are None.

    On a 2D image the world is a plane of its own (``Image.geometry``): places in mm are lengths only where the pixel
    spacing is known, volumes are never told, and the area stands in ``measures``, with diameters in pixels where the
    spacing is not known.
    """

    number: int
    label: str
    score: float
    box_index: Box
    box_lps_mm: Box
    centre_lps_mm: Triple
    tracking_uid: str
    class_probabilities: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    measures: Mapping[str, float] = field(default_factory=dict)
    mask_voxels: int = 0
    volume_mm3: float | None = None
    longest_axial_diameter_mm: float | None = None
    short_axial_diameter_mm: float | None = None
    frame: int | None = None
    measured: Mapping[str, Measured] = field(default_factory=dict)
    place_given: bool = False
    mask_drawn: bool = False

    def __post_init__(self) -> None:
        if self.number < 1:
            raise ValueError(f"Lesion.number is {self.number}; lesions are counted from 1.")
        if not 0.0 <= self.score <= 1.0:
            raise ValueError(f"Lesion.score of lesion {self.number} is {self.score}; expected 0..1.")
        if not all(low < high for low, high in zip(self.box_index[:3], self.box_index[3:], strict=True)):
            raise ValueError(f"Lesion.box_index of lesion {self.number} is {self.box_index}; lows must be below highs.")
        if self.mask_drawn and (self.volume_mm3 is not None or self.longest_axial_diameter_mm is not None):
            raise ValueError(
                f"Lesion {self.number} has a drawn mask with a volume or diameter of its own; nobody saw it."
            )


@dataclass(frozen=True, slots=True)
class ImageClass:
    """One image-level class: output that it comes from, name, probability, and whether it passes the threshold."""

    output: str
    name: str
    probability: float
    threshold: float

    @property
    def present(self) -> bool:
        """Whether the probability reaches the threshold."""
        return self.probability >= self.threshold


@dataclass(frozen=True, slots=True)
class SeriesChoice:
    """Why a series was taken or passed over."""

    series_instance_uid: str
    taken: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Source:
    """Where the image came from. ``series`` and ``stack`` hold headers while the study is at hand, and are None when
    the source is no DICOM or the findings were read back from JSON. ``sop_instance_uid`` names the one object of a 2D
    image or clip."""

    study_instance_uid: str = ""
    series_instance_uid: str = ""
    file_name: str = ""
    choices: tuple[SeriesChoice, ...] = ()
    series: Series | None = None
    stack: Stack | None = None
    sop_instance_uid: str = ""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Which network answered: bundle name, version, SHA-256 of its weights, what it was trained on, and terms."""

    name: str
    version: str
    weights_sha256: str
    training_data: str
    weights_licence: str = ""
    intended_use: str = "Research use only. Not a medical device."


@dataclass(frozen=True, slots=True)
class TrainingDistance:
    """How far an image is from those that the network was trained for, and from where on it counts as unlike them.

    Args:
        measure: ``features`` (of the encoder; about 1 for an image like them) or ``reconstruction`` (mean absolute
            error of the redrawn image, in its units).
        score: of the image.
        threshold: above which it is unlike them.
    """

    measure: str
    score: float
    threshold: float

    @property
    def unlike(self) -> bool:
        """Whether the score passes the threshold."""
        return self.score > self.threshold


@dataclass(frozen=True, slots=True)
class StageCost:
    """Seconds and sampled peak resident memory of one stage of the run."""

    stage: str
    seconds: float
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True)
class FrameTimings:
    """How long the frames of a clip took, one after the other: ``count`` of them, from pixels to findings."""

    count: int
    median_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True)
class Plane:
    """That findings lie on the pixels of a 2D image or clip: columns, rows, frames.

    Args:
        spacing_mm: of the pixels along i and j; None where nothing tells it, and nothing is told in mm.
        timings: of a clip, how long its frames took.
    """

    spacing_mm: tuple[float, float] | None = None
    timings: FrameTimings | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """The answers for one image.

    Args:
        geometry: grid of every voxel answer: the source's own, or the repaired one.
        source: study, series and why it was chosen.
        model: network and weights.
        lesions: by falling score.
        image_classes: image-level answers.
        labels: the classes of the label map, background excluded.
        label_map: ``(1, i, j, k)`` uint8 of label values, or None when the task was switched off.
        lesion_map: ``(1, i, j, k)`` uint16 of lesion numbers, or None.
        reconstruction: the image as the network redraws it, in the input's units, or None.
        reconstruction_error: a key with its unit (``mean_absolute_error_hu``) to its value over the region.
        extras: what outputs of kinds that installed packages bring say, by output name, as JSON can hold it.
        report: everything noticed about the input and during the run.
        costs: seconds and memory by stage.
        options: the options that change the answers (window, overlap, precision, tasks...), as text.
        plane: where the image is a 2D one or a clip, whose frames are counted along k; None for a volume.
        measured: what the network measured of the image as a whole, by a key that ends in its unit.
        training_distance: how far the image is from those that the network was trained for, by measure; empty where
            nothing is stored of these.
    """

    geometry: Geometry
    source: Source
    model: ModelInfo
    lesions: tuple[Lesion, ...] = ()
    image_classes: tuple[ImageClass, ...] = ()
    labels: tuple[Label, ...] = ()
    label_map: Volume | None = None
    lesion_map: Volume | None = None
    reconstruction: Volume | None = None
    reconstruction_error: Mapping[str, float] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)
    report: InputReport = field(default_factory=InputReport)
    costs: tuple[StageCost, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    plane: Plane | None = None
    measured: Mapping[str, Measured] = field(default_factory=dict)
    training_distance: tuple[TrainingDistance, ...] = ()

    def __post_init__(self) -> None:
        for name in ("label_map", "lesion_map", "reconstruction"):
            volume = getattr(self, name)
            if volume is not None and volume.geometry.shape != self.geometry.shape:
                raise ValueError(
                    f"Findings.{name} has grid {volume.geometry.shape}; expected that of Findings.geometry, "
                    f"{self.geometry.shape}."
                )
        numbers = [lesion.number for lesion in self.lesions]
        if numbers != list(range(1, len(numbers) + 1)):
            raise ValueError(f"Findings.lesions are numbered {numbers}; expected 1, 2, ... in order.")
