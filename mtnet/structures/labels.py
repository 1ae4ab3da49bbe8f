"""Labels and the coded concepts that give them one meaning everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


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


LESION_FREE = ("normal", "none")
"""Names of image classes that say that the image shows nothing to find."""


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


def labels_of(names: Sequence[str | Label] | None, known: Sequence[Label], first: int) -> tuple[Label, ...]:
    """The labels that a person named for an output, in place of the ``known`` ones; these where there are no names.

    A name among ``known`` keeps its colour and codes; a new one has none.

    Args:
        names: short lower-case names, or whole labels, which are taken as they are.
        known: the output's own.
        first: value of the first name.

    Raises:
        ValueError: no name, or one that comes twice.
    """
    if names is None:
        return tuple(known)
    own = {label.name: label for label in known}
    found = tuple(
        name if isinstance(name, Label) else replace(own.get(name, Label(value, name)), value=value)
        for value, name in enumerate(names, first)
    )
    if not found or len({label.name for label in found}) < len(found):
        raise ValueError(f"labels is {[label.name for label in found]}; expected one or more different names.")
    return found
