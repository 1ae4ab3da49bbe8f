"""A place in the patient that a network is asked about."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Point:
    """One place.

    Args:
        lps_mm: x, y, z.
        tracking_uid: of the lesion that is known to lie there; empty for one that is new.

    Raises:
        ValueError: the place is not three finite numbers.
    """

    lps_mm: tuple[float, float, float]
    tracking_uid: str = ""

    def __post_init__(self) -> None:
        place = tuple(float(value) for value in self.lps_mm)
        if len(place) != 3 or not all(math.isfinite(value) for value in place):
            raise ValueError(f"Point.lps_mm is {self.lps_mm!r}; expected three finite numbers, x, y, z in mm.")
        object.__setattr__(self, "lps_mm", place)
