"""Labels and the coded concepts that give them one meaning everywhere."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept (DICOM PS3.3 8.8): value, coding scheme designator (``SCT``, ``DCM``, ``UCUM``) and meaning."""

    value: str
    scheme: str
    meaning: str

    def __post_init__(self) -> None:
        for name in ("value", "scheme", "meaning"):
            if not getattr(self, name):
                raise ValueError(f"Code.{name} is empty; a coded concept needs value, scheme and meaning.")


@dataclass(frozen=True, slots=True)
class Label:
    """One class of an output.

    Args:
        value: its number in a label map (0 is background) or its index among an output's classes.
        name: short lower-case English name, as users type and read it.
        colour: red, green, blue in 0..255 for overlays and DICOM SEG.
        code: what it is (SNOMED CT where there is a code).
        region: where in the body it lies, if one place holds for all of them.
    """

    value: int
    name: str
    colour: tuple[int, int, int] = (255, 255, 255)
    code: Code | None = None
    region: Code | None = None

    def __post_init__(self) -> None:
        if self.value < 0:
            raise ValueError(f"Label.value of {self.name!r} is {self.value}; expected 0 or more.")
        if not self.name:
            raise ValueError(f"Label.name of value {self.value} is empty; every label needs a name.")
        if len(self.colour) != 3 or not all(0 <= c <= 255 for c in self.colour):
            raise ValueError(f"Label.colour of {self.name!r} is {self.colour!r}; expected three numbers in 0..255.")
