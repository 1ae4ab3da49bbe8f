"""A 2D image in memory, and one frame of a sequence of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from mtnet.structures.geometry import Geometry
from mtnet.structures.report import InputReport


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """A 2D image, channel first, bright where values are high.

    Args:
        array: ``(C, i, j)`` = (channel, column, row), one channel (grey) or three (red, green, blue).
        spacing_mm: length of one step along i and j in mm; ``None`` where nothing tells it.
        modality: DICOM modality (``US``, ``ES``, ``CR``...), or empty where the file does not say.
        report: what was noticed while reading.
    """

    array: NDArray[np.generic]
    spacing_mm: tuple[float, float] | None = None
    modality: str = ""
    report: InputReport = field(default_factory=InputReport)

    def __post_init__(self) -> None:
        if self.array.ndim != 3 or self.array.shape[0] not in (1, 3) or 0 in self.array.shape:
            raise ValueError(f"Image.array has shape {self.array.shape}; expected (1 or 3, columns, rows).")
        spacing = self.spacing_mm
        if spacing is not None and not (len(spacing) == 2 and all(isfinite(s) and s > 0 for s in spacing)):
            raise ValueError(f"Image.spacing_mm is {spacing!r}; expected two lengths above 0, or None.")

    @property
    def shape(self) -> tuple[int, int]:
        """(i, j): columns and rows."""
        return self.array.shape[1], self.array.shape[2]

    @property
    def geometry(self) -> Geometry:
        """The image as a grid of one slice, first pixel at the origin, i to LPS x and j to LPS y.

        A 2D image has no place in the patient: this is a plane of its own. Where the spacing is not known, one unit is
        one pixel and no mm; ``spacing_mm`` is then ``None``.
        """
        step = self.spacing_mm or (1.0, 1.0)
        return Geometry.from_parts((*self.shape, 1), (*step, 1.0))


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One frame of a cine or video.

    Args:
        array: ``(C, i, j)``, as ``Image.array``.
        index: its place in the sequence, from 0.
        time_ms: when it is shown, counted from the first frame; ``None`` where nothing tells it.
    """

    array: NDArray[np.generic]
    index: int
    time_ms: float | None
