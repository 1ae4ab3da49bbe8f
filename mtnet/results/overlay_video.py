"""``overlay.mp4``: the frames of a clip with contours, boxes and numbers, through OpenCV (``mtnet[video]``)."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtnet.results.image_overlay import displayed
from mtnet.results.notice import full_notice
from mtnet.results.overlay import colour_of
from mtnet.structures import Findings, ModelInfo

_STRIP_PX = 28
_WARNING = (255, 196, 64)


def can_write_video() -> bool:
    """Whether OpenCV is installed."""
    return importlib.util.find_spec("cv2") is not None


class OverlayVideo:
    """Writes a video frame by frame; no frame is kept.

    The image stands unscaled at the top left; below it is a strip with what the weights may be used for. Sides are
    filled up to even numbers, which the codec (MPEG-4 part 2) needs.

    Args:
        path: the file, ``.mp4``.
        size: (columns, rows) of the frames.
        frames_per_second: at which it is played.
        model: whose notice the strip shows.

    Raises:
        OSError: the installed OpenCV cannot write the file.
    """

    def __init__(self, path: Path, size: tuple[int, int], frames_per_second: float, model: ModelInfo) -> None:
        self._cv2: Any = importlib.import_module("cv2")
        columns, rows = size
        self._size = columns, rows
        self._page = np.zeros((rows + _STRIP_PX + rows % 2, columns + columns % 2, 3), np.uint8)
        self._put(full_notice(model), (6, rows + 19), 0.45, _WARNING)
        codec = self._cv2.VideoWriter_fourcc(*"mp4v")
        self._writer = self._cv2.VideoWriter(
            str(path), self._cv2.CAP_FFMPEG, codec, frames_per_second, self._page.shape[1::-1]
        )
        if not self._writer.isOpened():
            raise OSError(f"{path.name}: the installed OpenCV cannot write an MP4 video.")

    def write(self, pixels: NDArray[np.generic], findings: Findings) -> None:
        """Add a frame ``(C, i, j)`` and what was found on it."""
        cv2, (columns, rows) = self._cv2, self._size
        image = displayed(pixels)
        if findings.label_map is not None:
            plane = findings.label_map.array[0, :, :, 0].T
            for label in findings.labels:
                self._contour(image, plane == label.value, label.colour)
        for lesion in findings.lesions:
            colour = colour_of(lesion.number)
            if findings.lesion_map is not None:
                plane = findings.lesion_map.array[0, :, :, 0].T
                self._contour(image, plane == lesion.number, colour)
            i0, j0, _, i1, j1, _ = (round(v + 0.5) for v in lesion.box_index)
            cv2.rectangle(image, (i0, j0), (max(i1 - 1, i0), max(j1 - 1, j0)), colour, 1)
            place = (min(i1 + 3, columns - 10), max(j0 + 10, 10))
            cv2.putText(image, f"{lesion.number} {lesion.score:.2f}", place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1)
        self._page[:rows, :columns] = image
        self._writer.write(np.ascontiguousarray(self._page[..., ::-1]))

    def close(self) -> None:
        """End the file."""
        self._writer.release()

    def _contour(self, image: NDArray[np.uint8], mask: NDArray[np.bool_], colour: tuple[int, int, int]) -> None:
        if not mask.any():
            return
        cv2 = self._cv2
        found = cv2.findContours(np.ascontiguousarray(mask, np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(image, found[-2], -1, colour, 1)

    def _put(self, text: str, place: tuple[int, int], size: float, colour: tuple[int, int, int]) -> None:
        face = self._cv2.FONT_HERSHEY_SIMPLEX
        (width, _), _ = self._cv2.getTextSize(text, face, size, 1)
        fitting = size * min(1.0, (self._page.shape[1] - 12) / max(width, 1))
        self._cv2.putText(self._page, text, place, face, fitting, colour, 1, self._cv2.LINE_AA)
