"""2D DICOM objects (ultrasound, endoscopy, radiographs, captures): images, and cines whose frames are decoded late."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtnet.io.display import DisplayMap
from mtnet.io.files import Opener
from mtnet.io.frames import read_frames
from mtnet.io.limits import Limits
from mtnet.io.spacing2d import spacing_2d
from mtnet.io.ultrasound import UltrasoundRegion, regions
from mtnet.io.verdicts import line
from mtnet.structures.image import Frame, Image
from mtnet.structures.report import InputReport, RefusedError, ReportLine
from mtnet.structures.study import Instance, SeriesKind

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

IMAGE_KINDS: tuple[SeriesKind, ...] = ("image", "cine", "secondary_capture")
"""Kinds of stack that hold 2D images."""

_DEFAULT_LIMITS = Limits()
_TILED = ("TILED_FULL", "TILED_SPARSE")
_ULTRASOUND_VOLUME = "1.2.840.10008.5.1.4.1.1.6.2"


class DicomFrames:
    """The frames of one 2D DICOM object, each decoded when it is asked for.

    Args:
        instance: as ``scan`` found it.
        limits: ``frames`` and, for one frame, ``image_bytes``.

    Raises:
        RefusedError: the object is no sequence of 2D images (``tiled_image``, ``frames_are_a_volume``), a limit is
            passed, or its header cannot be read.
    """

    def __init__(self, instance: Instance, limits: Limits = _DEFAULT_LIMITS) -> None:
        self._instance = instance
        self._limits = limits
        _check_size(instance, limits)
        dataset = _header(instance)
        _check_kind(dataset, instance)
        where = instance.where
        self._display = DisplayMap(dataset, where)
        spacing_mm, spacing_lines = spacing_2d(dataset, where)
        times_ms, time_lines = _frame_times_ms(dataset, instance)
        self.modality = instance.modality
        self.shape: tuple[int, int] = (instance.columns or 0, instance.rows or 0)
        """(i, j): columns and rows."""
        self.spacing_mm: tuple[float, float] | None = spacing_mm
        """Along i and j; of ultrasound, in its main region."""
        self.regions: tuple[UltrasoundRegion, ...] = regions(dataset)
        """Calibrated ultrasound regions; ``mtnet.io.ultrasound.spacing_mm_at`` looks up the spacing in a box."""
        self.frame_times_ms: tuple[float, ...] | None = times_ms
        """When each frame is shown, from the first; ``None`` where nothing tells it."""
        lossy = (line("lossy_compression", where, count=1),) if instance.lossy else ()
        self.report = InputReport((*spacing_lines, *time_lines, *lossy, *self._display.lines))
        """What was noticed about the object."""

    def __len__(self) -> int:
        return self._instance.number_of_frames

    def __iter__(self) -> Iterator[Frame]:
        """The frames in order, one in memory at a time."""
        # One opener for all: it keeps where the frames of a compressed object begin.
        with Opener() as opener:
            for index in range(len(self)):
                time_ms = self.frame_times_ms[index] if self.frame_times_ms else None
                yield Frame(self._decoded(index, opener), index, time_ms)

    def frame(self, index: int) -> NDArray[np.generic]:
        """Frame ``index`` (from 0) as ``(1 or 3, i, j)``: RGB, or grey that is bright where values are high.

        Raises:
            IndexError: there is no such frame.
            RefusedError: it cannot be decoded right.
        """
        with Opener() as opener:
            return self._decoded(index, opener)

    def _decoded(self, index: int, opener: Opener) -> NDArray[np.generic]:
        decoded = read_frames(self._instance, opener, self._limits, [index])
        try:
            return self._display.apply(decoded.values[0], decoded.photometric)
        except ValueError as error:
            raise RefusedError([line("unreadable_pixels", self._instance.where, reason=str(error))]) from error

    def image(self, index: int = 0) -> Image:
        """Frame ``index`` as an image with spacing and report.

        Raises:
            IndexError, RefusedError: as ``frame``.
        """
        return Image(self.frame(index), self.spacing_mm, self.modality, self.report)


def _header(instance: Instance) -> Dataset:
    import pydicom

    try:
        with (
            Opener() as opener,
            opener.open(instance.path, instance.member) as stream,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            return pydicom.dcmread(stream, stop_before_pixels=True, force=True)
    except Exception as error:
        # Fed with any bytes, the parser may raise anything; its words may hold a value of the header.
        reason = f"its header cannot be parsed ({type(error).__name__})."
        raise RefusedError([line("unreadable_file", instance.where, reason=reason)]) from error


def _check_size(instance: Instance, limits: Limits) -> None:
    if instance.number_of_frames > limits.frames:
        what = f"The number of frames ({instance.number_of_frames})"
        raise RefusedError([line("limit_exceeded", instance.where, what=what, limit=limits.frames)])
    size = (instance.rows or 0) * (instance.columns or 0) * instance.samples_per_pixel
    if size * max((instance.bits_allocated or 8) // 8, 1) > limits.image_bytes:
        raise RefusedError([line("limit_exceeded", instance.where, what="A frame", limit=limits.image_bytes)])


def _check_kind(dataset: Dataset, instance: Instance) -> None:
    """Refuse objects whose frames are no images of the same view one after the other."""
    code, message = "", ""
    if str(dataset.get("DimensionOrganizationType") or "") in _TILED:
        code, message = "tiled_image", "The frames are tiles of one large image (slide microscopy), which is not read."
    elif instance.sop_class_uid == _ULTRASOUND_VOLUME:
        code, message = "frames_are_a_volume", "The frames are planes of an ultrasound volume, which is not read."
    if code:
        raise RefusedError([ReportLine(code, "refused", message, instance.where)])


def _frame_times_ms(dataset: Dataset, instance: Instance) -> tuple[tuple[float, ...] | None, tuple[ReportLine, ...]]:
    """When each frame is shown: FrameTimeVector, FrameTime (PS3.3 C.7.6.5), then a rate (C.7.6.5, C.7.6.6)."""
    count, where = instance.number_of_frames, instance.where
    if count == 1:
        return None, ()
    steps = _numbers(dataset, "FrameTimeVector")
    if len(steps) == count and all(step >= 0 for step in steps):
        # The first entry is 0 by the standard; time counts from the first frame whatever it says.
        times = np.cumsum([0.0, *steps[1:]])
        return tuple(float(time) for time in times), ()
    frame_time = _numbers(dataset, "FrameTime")
    if len(frame_time) == 1 and frame_time[0] > 0:
        return tuple(frame_time[0] * index for index in range(count)), ()
    for keyword in ("CineRate", "RecommendedDisplayFrameRate"):
        rate = _numbers(dataset, keyword)
        if len(rate) == 1 and rate[0] > 0:
            message = f"Frame times are worked out from {keyword}, at which the frames are meant to be shown."
            times_ms = tuple(1000.0 * index / rate[0] for index in range(count))
            return times_ms, (ReportLine("frame_times_from_rate", "note", message, where),)
    message = "Nothing tells when the frames were taken: their times are unknown."
    return None, (ReportLine("frame_times_unknown", "note", message, where),)


def _numbers(dataset: Dataset, keyword: str) -> list[float]:
    """A tag's values; empty unless all are finite numbers."""
    try:
        value = dataset.get(keyword)
        items = [] if value is None else list(value) if hasattr(value, "__iter__") else [value]
        numbers = [float(item) for item in items]
    except Exception:  # pydicom raises errors of many kinds for values that make no sense.
        return []
    return numbers if all(math.isfinite(number) for number in numbers) else []
