"""What is read of an input before a network sees it: a volume, a 2D image, or a clip whose frames come one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtnet.inference.cost import CostMeter
from mtnet.inference.input_check import dimension_line
from mtnet.inference.plane import PlaneScale
from mtnet.io.dicom_images import IMAGE_KINDS, DicomFrames
from mtnet.io.image_files import load_image_file
from mtnet.io.image_studies import open_dicom_image, open_image_file
from mtnet.io.limits import Limits
from mtnet.io.read import load_from_study
from mtnet.io.select import CHEST_CT_RULE, SeriesRule, select
from mtnet.io.ultrasound import UltrasoundRegion, regions
from mtnet.io.verdicts import mode_of
from mtnet.io.video import Video
from mtnet.points import Points
from mtnet.results.dicom_source import read_header
from mtnet.structures import (
    Frame,
    Image,
    InputReport,
    Instance,
    Point,
    RefusedError,
    Series,
    SeriesChoice,
    Source,
    Stack,
    Study,
    Volume,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How a path is read: the series wanted, what to do with irregular ones, and what an input may cost.

    ``points`` are the places that a network of points is asked about; without, it is the middle of a crop.
    ``allow_outside`` answers what lies outside of the bundle's input domain, and flags it; ``strict`` refuses also what
    would only be flagged.
    """

    series_uid: str | None = None
    strict: bool = False
    repair: bool = False
    allow_outside: bool = False
    limits: Limits = field(default_factory=Limits)
    rule: SeriesRule = CHEST_CT_RULE
    points: Points | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to answer: a study for a network of volumes; for one of images an image file, or an object of a study.

    ``series``, ``stack`` and ``instance`` are None where the item is a study or file as a whole.
    """

    study: Study
    series: Series | None = None
    stack: Stack | None = None
    instance: Instance | None = None
    choices: tuple[SeriesChoice, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One image that was read: the volume on its source grid, where it came from, what reading cost, and how it was
    asked to be read.

    A 2D image is a volume of one slice (``Image.geometry``) with a ``scale``; ``header`` is its data set where it is
    DICOM. ``places`` are those that a network of points is asked about.
    """

    volume: Volume
    source: Source
    meter: CostMeter
    options: ReadOptions = field(default_factory=ReadOptions)
    scale: PlaneScale | None = None
    header: Dataset | None = None
    places: tuple[Point, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A cine or video that was opened: frames are decoded as they are asked for, so that it takes the memory of one."""

    frames: DicomFrames | Video
    source: Source
    meter: CostMeter
    options: ReadOptions
    report: InputReport
    scale: PlaneScale
    header: Dataset | None = None

    @property
    def modality(self) -> str:
        """DICOM modality; empty for a video file."""
        return self.frames.modality if isinstance(self.frames, DicomFrames) else ""

    @property
    def count(self) -> int | None:
        """Frames that it is said to have; None where it does not count them."""
        return len(self.frames) if isinstance(self.frames, DicomFrames) else self.frames.frame_count

    def case_of(self, frame: Frame, meter: CostMeter) -> Case:
        """One frame as a case of its own."""
        image = Image(frame.array, self.scale.spacing_mm, self.modality, self.report)
        return Case(volume_of(image), self.source, meter, self.options, replace(self.scale, frame=frame.index))


def volume_of(image: Image) -> Volume:
    """A 2D image as a volume of one slice, in a plane of its own."""
    return Volume(image.array[..., None], image.geometry, image.modality, image.report)


def items_of(
    studies: Iterable[Study], spatial_dims: int, options: ReadOptions, modalities: tuple[str, ...]
) -> list[Item]:
    """What there is to answer, in the order of the studies, series and objects.

    For a network of volumes, each study. For one of images every image file, and of a DICOM study every object that
    holds an image or clip: those of ``modalities`` where there are such, captures of screens only where there is
    nothing else. A study without one is an item too: reading it says why it is none.
    """
    if spatial_dims == 3:
        return [Item(study) for study in studies]
    return [item for study in studies for item in _images_of(study, options.series_uid, modalities)]


def _images_of(study: Study, series_uid: str | None, modalities: tuple[str, ...]) -> Iterator[Item]:
    held = [s for s in study.series if any(stack.kind in IMAGE_KINDS for stack in s.stacks)]
    asked = [s for s in held if series_uid in (None, s.series_instance_uid)]
    wanted = [s for s in asked if s.modality in modalities] or asked
    captures = all(stack.kind not in ("image", "cine") for s in wanted for stack in s.stacks)
    kinds = IMAGE_KINDS if captures else ("image", "cine")
    choices = tuple(_passed_over(s, s in held, modalities) for s in study.series if s not in wanted)
    found = False
    for series in wanted:
        places = [(stack, one) for stack in series.stacks if stack.kind in kinds for one in stack.instances]
        for number, (stack, instance) in enumerate(places, 1):
            found = True
            reason = f"image {number} of {len(places)}, {instance.images} frame(s)"
            taken = SeriesChoice(series.series_instance_uid, True, reason)
            yield Item(study, series, replace(stack, instances=(instance,)), instance, (taken, *choices))
    if not found:
        yield Item(study)


def _passed_over(series: Series, holds_images: bool, modalities: tuple[str, ...]) -> SeriesChoice:
    reason = "no single images or clips"
    if holds_images:
        reason = f"not of modality {' or '.join(modalities)}" if series.modality not in modalities else "not asked for"
    return SeriesChoice(series.series_instance_uid, False, reason)


def read_volume_item(study: Study, options: ReadOptions, meter: CostMeter) -> Case:
    """Select a series of a study that was scanned, and load it; an image file is loaded as it is.

    Raises:
        RefusedError: nothing in it is a volume that suits, or it cannot be read right.
    """
    how: dict[str, Any] = {"strict": options.strict, "repair": options.repair, "limits": options.limits}
    if study.image_path is not None:
        if study.image_kind in IMAGE_KINDS:
            what = "a clip of single images" if study.image_kind == "cine" else "a single image"
            raise RefusedError([dimension_line(3, what, study.image_path.name)])
        volume = load_image_file(study.image_path, **how)
        return Case(volume, Source(file_name=study.image_path.name), meter, options)
    mode = mode_of(strict=options.strict, repair=options.repair)
    chosen = select(study, options.rule, options.series_uid, mode)
    volume = load_from_study(study, chosen.series, chosen.stack, **how)
    source = Source(
        study_instance_uid=study.study_instance_uid,
        series_instance_uid=chosen.series.series_instance_uid,
        choices=chosen.choices,
        series=chosen.series,
        stack=chosen.stack,
    )
    return Case(volume, source, meter, options)


def read_image_item(item: Item, options: ReadOptions, meter: CostMeter) -> Case | Clip:
    """Read an image, or open a clip.

    Raises:
        RefusedError: it is a volume, or cannot be read right.
    """
    mode = mode_of(strict=options.strict, repair=options.repair)
    study, header = item.study, None
    ultrasound: tuple[UltrasoundRegion, ...] = ()
    if item.series is not None and item.stack is not None and item.instance is not None:
        opened: Image | DicomFrames | Video = open_dicom_image(
            study, item.series, item.stack, item.instance, mode, options.limits
        )
        header = read_header(item.instance)
        ultrasound = regions(header)
        source = Source(
            study_instance_uid=study.study_instance_uid,
            series_instance_uid=item.series.series_instance_uid,
            sop_instance_uid=item.instance.sop_instance_uid,
            choices=item.choices,
            series=item.series,
            stack=item.stack,
        )
        report = opened.report
    elif study.image_path is not None and study.image_kind in IMAGE_KINDS:
        opened = open_image_file(Path(study.image_path), mode, options.limits)
        source = Source(file_name=study.image_path.name)
        noted = (replace(line, severity="note") if line.severity == "refused" else line for line in study.report)
        report = InputReport(()).plus(noted).plus(opened.report)
    else:
        where = study.image_path.name if study.image_path else study.study_instance_uid
        found = "a volume" if study.image_path else "a study that holds no single image or clip"
        raise RefusedError([dimension_line(2, found, where)])
    scale = PlaneScale(0, opened.spacing_mm, ultrasound)
    if isinstance(opened, Image):
        return Case(volume_of(replace(opened, report=report)), source, meter, options, scale, header)
    return Clip(opened, source, meter, options, report, scale, header)
