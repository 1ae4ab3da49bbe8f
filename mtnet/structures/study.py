"""A DICOM study as its headers tell it: instances, the stacks that they form, series. Never pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from mtnet.structures.report import InputReport

SeriesKind = Literal[
    "volume", "image", "cine", "localizer", "secondary_capture", "label_map", "parametric_map", "not_an_image"
]
SERIES_KINDS: tuple[SeriesKind, ...] = get_args(SeriesKind)


@dataclass(frozen=True, slots=True)
class Instance:
    """Header of one DICOM object, or of one frame of it, as far as a volume needs it. Absent tags are ``None``.

    ``path`` is the file; ``member`` names the entry when ``path`` is a zip archive. ``position_lps_mm`` and
    ``orientation_lps`` (row cosines, then column cosines) are PS3.3 C.7.6.2; ``pixel_spacing_mm`` is (between rows,
    between columns), as DICOM stores it. ``contrast_agent`` is whether ContrastBolusAgent (0018,0010) names one;
    ``patient_position`` is (0018,5100). ``frame`` is the number, from 1, of the frame that it stands for in an object
    that keeps geometry by frame; ``number_of_frames`` stays that of the object. ``native_offset`` is where uncompressed
    values start in the file, ``None`` where they do not simply lie there.
    """

    path: Path
    member: str | None
    file_bytes: int
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    modality: str = ""
    image_type: tuple[str, ...] = ()
    instance_number: int | None = None
    acquisition_number: int | None = None
    frame_of_reference_uid: str | None = None
    rows: int | None = None
    columns: int | None = None
    number_of_frames: int = 1
    samples_per_pixel: int = 1
    photometric: str = ""
    bits_allocated: int | None = None
    bits_stored: int | None = None
    pixel_representation: int | None = None
    lossy: bool = False
    position_lps_mm: tuple[float, float, float] | None = None
    orientation_lps: tuple[float, float, float, float, float, float] | None = None
    pixel_spacing_mm: tuple[float, float] | None = None
    slice_thickness_mm: float | None = None
    gantry_tilt_deg: float | None = None
    rescale_slope: float | None = None
    rescale_intercept: float | None = None
    rescale_type: str | None = None
    padding_value: int | None = None
    padding_limit: int | None = None
    contrast_agent: bool = False
    patient_position: str = ""
    frame: int | None = None
    native_offset: int | None = None

    @property
    def where(self) -> str:
        """The file's name for reports: ``archive.zip!member`` or the bare file name, and the frame in it."""
        name = f"{self.path.name}!{self.member}" if self.member else self.path.name
        return f"{name} frame {self.frame}" if self.frame is not None and self.number_of_frames > 1 else name

    @property
    def images(self) -> int:
        """How many images it stands for: the frames of the object, or 1 for one frame."""
        return 1 if self.frame is not None else self.number_of_frames


@dataclass(frozen=True, slots=True)
class Stack:
    """Instances of one series that share orientation, matrix, spacing and frame of reference, sorted along the normal.

    ``report`` holds what is known of this stack alone (gaps, duplicates, tilt...). ``shape`` is (i, j, k);
    ``spacing_mm`` is ``None`` along an axis where no tag tells it.
    """

    instances: tuple[Instance, ...]
    kind: SeriesKind
    shape: tuple[int, int, int] | None
    spacing_mm: tuple[float | None, float | None, float | None]
    report: InputReport = field(default_factory=InputReport)

    @property
    def files(self) -> int:
        """How many files it lies in: fewer than instances where these are frames."""
        return len({(instance.path, instance.member) for instance in self.instances})


@dataclass(frozen=True, slots=True)
class Series:
    """One DICOM series: what its headers say and the stacks that it falls into, the largest volume first."""

    series_instance_uid: str
    study_instance_uid: str
    number: int | None
    modality: str
    kind: SeriesKind
    kernel: str
    description: str
    body_part: str
    manufacturer: str
    stacks: tuple[Stack, ...]
    report: InputReport = field(default_factory=InputReport)

    @property
    def instances(self) -> tuple[Instance, ...]:
        """Every instance of every stack."""
        return tuple(instance for stack in self.stacks for instance in stack.instances)

    @property
    def files(self) -> int:
        """How many files it lies in."""
        return len({(instance.path, instance.member) for instance in self.instances})

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """(i, j, k) of the first stack."""
        return self.stacks[0].shape if self.stacks else None

    @property
    def spacing_mm(self) -> tuple[float | None, float | None, float | None]:
        """Spacing of the first stack."""
        return self.stacks[0].spacing_mm if self.stacks else (None, None, None)


@dataclass(frozen=True, slots=True)
class Study:
    """One DICOM study, or one image file that is no DICOM (its ``image_path``; then ``series`` is empty).

    ``image_kind`` is what such a file holds: ``volume``, ``image`` or ``cine``. ``image_shape`` is (i, j), of a cine
    (i, j, frames) where its frames are counted, and ``None`` where the header was not looked into or cannot be read.
    """

    study_instance_uid: str
    series: tuple[Series, ...] = ()
    image_path: Path | None = None
    image_kind: SeriesKind | None = None
    image_shape: tuple[int, ...] | None = None
    report: InputReport = field(default_factory=InputReport)
