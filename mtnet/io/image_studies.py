"""Files that are no DICOM as studies of their own, and any study's 2D images, opened."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from mtnet.io.dicom_images import DicomFrames
from mtnet.io.image2d import PICTURE_SUFFIXES, describe_picture, read_picture
from mtnet.io.limits import Limits
from mtnet.io.verdicts import Mode, judge
from mtnet.io.video import VIDEO_SUFFIXES, Video
from mtnet.structures.image import Image
from mtnet.structures.report import InputReport, RefusedError, ReportLine
from mtnet.structures.study import Instance, Series, SeriesKind, Stack, Study

_DEFAULT_LIMITS = Limits()


def image_file_study(path: Path, lines: Iterable[ReportLine], limits: Limits = _DEFAULT_LIMITS) -> Study:
    """The study of one image file: what its header tells, and ``lines`` about the input that it is from.

    A 2D image or video that cannot be read has the reasons in its report. Volumes are not looked into.
    """
    suffix = path.suffix.lower()
    if suffix not in (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES):
        return Study("", image_path=path, image_kind="volume", report=InputReport(tuple(lines)))
    kind: SeriesKind = "image" if suffix in PICTURE_SUFFIXES else "cine"
    shape: tuple[int, ...] | None = None
    noticed: tuple[ReportLine, ...] = ()
    try:
        if kind == "image":
            shape, noticed = describe_picture(path, limits)
        else:
            video = Video(path, limits)
            shape = video.shape if video.frame_count is None else (*video.shape, video.frame_count)
            noticed = video.report.lines
    except RefusedError as refused:
        noticed = refused.lines
    except OSError as error:
        message = f"The file cannot be opened ({error.strerror})."
        noticed = (ReportLine("unreadable_image", "refused", message, path.name),)
    report = InputReport((*lines, *noticed))
    return Study("", image_path=path, image_kind=kind, image_shape=shape, report=report)


def open_image_file(path: Path, mode: Mode = "default", limits: Limits = _DEFAULT_LIMITS) -> Image | Video:
    """A 2D image file, read, or a video file, opened.

    Raises:
        FileNotFoundError, RefusedError: as ``read_picture`` and ``Video``.
    """
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return Video(path, limits)
    return read_picture(path, strict=mode == "strict", repair=mode == "repair", limits=limits)


def open_dicom_image(
    study: Study,
    series: Series,
    stack: Stack,
    instance: Instance,
    mode: Mode = "default",
    limits: Limits = _DEFAULT_LIMITS,
) -> Image | DicomFrames:
    """One 2D object of a stack: read where it is a single image, opened where it has several frames.

    The lines of study, series and stack stand first in its report; those that refuse another file of the input are
    notes.

    Raises:
        RefusedError: a finding about the object, or about its stack as a whole, refuses it, or as ``DicomFrames``.
    """
    found = judge((*series.report, *stack.report), mode)
    refusals = [item for item in found.refusals if item.where in ("", instance.where, series.series_instance_uid)]
    if refusals:
        raise RefusedError(refusals)
    frames = DicomFrames(instance, limits)
    noted = [replace(i, severity="note") if i.severity == "refused" else i for i in (*study.report, *found)]
    frames.report = InputReport(()).plus(noted).plus(frames.report)
    return frames if len(frames) > 1 else frames.image()
