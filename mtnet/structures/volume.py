"""An image in memory together with the grid that it lives on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mtnet.structures.geometry import Geometry
from mtnet.structures.report import InputReport


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """A 3D image, channel first.

    Args:
        array: ``(C, i, j, k)``; for CT one channel in Hounsfield units.
        geometry: the grid; its shape equals ``array.shape[1:]``.
        modality: DICOM modality (``CT``, ``MR``, ``SEG``...), or empty where the file does not say.
        report: what was noticed while reading.
    """

    array: NDArray[np.generic]
    geometry: Geometry
    modality: str = ""
    report: InputReport = field(default_factory=InputReport)

    def __post_init__(self) -> None:
        if self.array.ndim != 4 or self.array.shape[1:] != self.geometry.shape:
            raise ValueError(
                f"Volume.array has shape {self.array.shape}; expected (C, i, j, k) with grid {self.geometry.shape}."
            )
