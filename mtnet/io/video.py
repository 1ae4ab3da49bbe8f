"""Video files as streams of frames, through OpenCV (``mtnet[video]``), whose wheels hold an FFmpeg under the LGPL."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtnet.io.containers import container_of, is_cut_short
from mtnet.io.image2d import pixel_spacing_unknown
from mtnet.io.limits import Limits
from mtnet.io.verdicts import line
from mtnet.structures.image import Frame
from mtnet.structures.report import InputReport, RefusedError, ReportLine

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
"""Video formats by file name."""

_DEFAULT_LIMITS = Limits()
# Containers that count their frames; the others' count is a guess from duration and rate.
_COUNTED = ("mp4", "avi")
_LOST_SHARE = 0.01


class Video:
    """A video file, read frame by frame as often as it is iterated over. One decoded frame is held at a time.

    Frames are RGB of 8 bits, turned upright as the file's rotation says; their times come from its timestamps, so that
    variable frame rates keep theirs. Sound is not read. No format tells a pixel size in the patient.

    Args:
        path: ``.mp4``, ``.mov``, ``.avi``, ``.mkv``, ``.webm``, MPEG or WMV; content, not name, tells the container.
        limits: ``frames`` and ``image_bytes``.

    Raises:
        FileNotFoundError: there is no file.
        RefusedError: ``missing_extra`` (OpenCV is not installed), ``unsupported_format``, ``video_cut_short``,
            ``unreadable_video`` or ``limit_exceeded``.
    """

    def __init__(self, path: Path, limits: Limits = _DEFAULT_LIMITS) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"There is no file {self.path}.")
        container = container_of(self.path)
        if container is None:
            reason = "expected a video in an MP4, QuickTime, AVI, Matroska, WebM, MPEG or ASF file."
            raise RefusedError([line("unsupported_format", self.path.name, reason=reason)])
        if is_cut_short(self.path, container):
            raise self._refused("video_cut_short", "The file is shorter than it says. Bring the whole file.")
        self._limits = limits
        with self._opened() as capture:
            frame = capture.read()
            if frame is None:
                raise self._refused("unreadable_video", "No frame can be decoded. Bring the original file.")
            columns, rows = frame.shape[1], frame.shape[0]
            turned = round(capture.number("CAP_PROP_ORIENTATION_META")) % 360
            claimed = capture.number("CAP_PROP_FRAME_COUNT")
        self.shape: tuple[int, int] = (columns, rows)
        """(i, j): columns and rows, upright."""
        self.spacing_mm: tuple[float, float] | None = None
        """Never known."""
        self.frame_count: int | None = int(claimed) if container in _COUNTED and claimed >= 1 else None
        """Frames that the file says it has; ``None`` where it does not count them."""
        if (self.frame_count or 0) > limits.frames:
            what = f"The number of frames ({self.frame_count})"
            raise RefusedError([line("limit_exceeded", self.path.name, what=what, limit=limits.frames)])
        lines = [pixel_spacing_unknown(self.path.name)]
        if turned:
            message = f"The frames are turned upright as the file says (by {turned} degrees)."
            lines.append(ReportLine("video_rotated", "note", message, self.path.name))
        self.report = InputReport(tuple(lines))
        """What was noticed about the file."""

    def __iter__(self) -> Iterator[Frame]:
        """The frames in order, each ``(3, i, j)`` uint8 with its time in ms.

        Raises:
            RefusedError: ``video_cut_short`` at the end, where the file holds fewer frames than it counts;
                ``unreadable_video`` where the size of the frames changes; ``limit_exceeded``.
        """
        count, start_ms, last_ms = 0, 0.0, -math.inf
        with self._opened() as capture:
            while (frame := capture.read()) is not None:
                if count >= self._limits.frames:
                    what = "The number of frames"
                    raise RefusedError([line("limit_exceeded", self.path.name, what=what, limit=self._limits.frames)])
                if frame.shape != (self.shape[1], self.shape[0], 3):
                    raise self._refused("unreadable_video", "The size of the frames changes. Cut the video there.")
                now_ms = capture.number("CAP_PROP_POS_MSEC")
                start_ms = now_ms if count == 0 else start_ms
                time_ms = now_ms - start_ms if now_ms > last_ms else None
                last_ms = max(last_ms, now_ms)
                yield Frame(np.ascontiguousarray(frame[..., ::-1].transpose(2, 1, 0)), count, time_ms)
                count += 1
        if self.frame_count is not None and count < self.frame_count - max(1, _LOST_SHARE * self.frame_count):
            what = f"{count} of {self.frame_count} frames can be decoded. Bring the original file."
            raise self._refused("video_cut_short", what)

    @contextmanager
    def _opened(self) -> Iterator[_Capture]:
        try:
            cv2: Any = importlib.import_module("cv2")
        except ImportError as error:
            message = "Reading video needs OpenCV. Install it with: pip install 'mtnet[video]'."
            raise self._refused("missing_extra", message) from error
        level = _set_log_level(cv2, 0)
        native = cv2.VideoCapture()
        capture = _Capture(cv2, native)
        try:
            # The path is absolute and its content was looked at: FFmpeg is not to take it for a protocol or playlist.
            opened = native.open(str(self.path.resolve()), cv2.CAP_FFMPEG)
            columns = capture.number("CAP_PROP_FRAME_WIDTH") if opened else 0
            rows = capture.number("CAP_PROP_FRAME_HEIGHT") if opened else 0
            if columns < 1 or rows < 1:
                raise self._refused("unreadable_video", "The file holds no video that can be decoded.")
            if columns * rows * 3 > self._limits.image_bytes:
                what = f"A frame of {columns:.0f} x {rows:.0f} pixels"
                raise RefusedError([line("limit_exceeded", self.path.name, what=what, limit=self._limits.image_bytes)])
            native.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
            yield capture
        except cv2.error as error:
            raise self._refused("unreadable_video", "The video cannot be decoded.") from error
        finally:
            native.release()
            _set_log_level(cv2, level)

    def _refused(self, code: str, message: str) -> RefusedError:
        return RefusedError([ReportLine(code, "refused", message, self.path.name)])


def _set_log_level(cv2: Any, level: int) -> int:
    """Set how much OpenCV writes to standard error (0: nothing); the level before. OpenCV 5 has it elsewhere than 4."""
    if hasattr(cv2, "setLogLevel"):
        before = int(cv2.getLogLevel())
        cv2.setLogLevel(level)
        return before
    return int(cv2.utils.logging.setLogLevel(level))


class _Capture:
    """An opened video of OpenCV, whose module is imported late and is unknown to type checkers."""

    def __init__(self, cv2: Any, native: Any) -> None:
        self._cv2 = cv2
        self._native = native

    def read(self) -> NDArray[np.uint8] | None:
        """The next frame, (rows, columns, 3) in the order blue, green, red; ``None`` after the last."""
        good, frame = self._native.read()
        return frame if good else None

    def number(self, name: str) -> float:
        """A property; 0 where it is not known."""
        value = float(self._native.get(getattr(self._cv2, name)))
        return value if math.isfinite(value) else 0.0
