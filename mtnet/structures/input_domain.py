"""What a network is made for, as its bundle declares it: the images that it may be given, and what others lead to."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal, get_args

from mtnet.structures.report import Severity

Colour = Literal["grey", "colour", "any"]
Values = Literal["HU", "any"]
Organ = Literal["lungs", "any"]
Contrast = Literal["with", "without", "any"]

_SEVERITIES: tuple[Severity, ...] = ("note", "flagged", "refused")

DOMAIN_VERDICTS: Mapping[str, Severity] = {
    "modality_outside": "refused",
    "modality_unknown": "flagged",
    "values_not_hu": "refused",
    "contrast_agent_outside": "flagged",
    "patient_position_outside": "flagged",
    "body_part_outside": "flagged",
    "no_lungs": "refused",
    "lungs_cut_off": "flagged",
    "one_lung": "flagged",
}
"""Severity of what can lie outside of a domain, by code, where the bundle's ``verdicts`` say nothing else. What is
measured (slices, thickness, volume) has its severity from ``Bounds``; what a network cannot take is always refused."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where a measured value is flagged and where it is refused; None where there is no bound.

    Raises:
        ValueError: a bound is no number, or they do not rise from ``refuse_below`` to ``refuse_above``.
    """

    refuse_below: float | None = None
    flag_below: float | None = None
    flag_above: float | None = None
    refuse_above: float | None = None

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise ValueError(f"{entry.name} is {value!r}; expected a number.")
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{entry.name} is {value!r}; expected a finite number.")
        given = [(e.name, getattr(self, e.name)) for e in fields(self) if getattr(self, e.name) is not None]
        for (low_name, low), (high_name, high) in itertools.pairwise(given):
            if low > high:
                raise ValueError(f"{low_name} is {low:g} and {high_name} is {high:g}; expected rising bounds.")

    def judge(self, value: float) -> Severity:
        """``note`` where the value lies within the bounds, else ``flagged`` or ``refused``.

        A bound itself is within. So is what passes it by a thousandth: headers round lengths.
        """
        tolerance = 1e-3 * abs(value)
        verdicts: tuple[tuple[float | None, int, Severity], ...] = (
            (self.refuse_below, -1, "refused"),
            (self.refuse_above, 1, "refused"),
            (self.flag_below, -1, "flagged"),
            (self.flag_above, 1, "flagged"),
        )
        for bound, sign, severity in verdicts:
            if bound is not None and sign * (value - bound) > tolerance:
                return severity
        return "note"


@dataclass(frozen=True, slots=True)
class InputDomain:
    """The images that a network may be given.

    Args:
        spatial_dims: 3 for volumes, 2 for single images.
        colour: ``grey`` (one channel), ``colour`` (three), or ``any``.
        modalities: values of Modality (0008,0060); empty for any.
        values: ``HU`` where the values have to look like Hounsfield units.
        organ: ``lungs`` where these have to be in the image, which is then judged by what it shows; ``any`` otherwise.
        body_parts: words of which BodyPartExamined (0018,0015) holds one, upper case; empty for any. The tag is often
            absent and sometimes wrong: with an ``organ``, the image has the last word.
        slices: of the series; voxels along the shortest axis where the file is no DICOM.
        slice_thickness_mm: SliceThickness (0018,0050), and the longest side of a voxel.
        lung_volume_ml: aerated lung in an image that holds all of it.
        contrast_agent: ``with`` or ``without`` where the network needs it so, else ``any``.
        patient_positions: values of Patient Position (0018,5100); empty for any.
        verdicts: code to severity (``note``, ``flagged``, ``refused``), for codes of ``DOMAIN_VERDICTS``.

    Raises:
        ValueError: a field is not what is described above; the message starts with its name.
    """

    spatial_dims: int = 3
    colour: Colour = "grey"
    modalities: tuple[str, ...] = ()
    values: Values = "any"
    organ: Organ = "any"
    body_parts: tuple[str, ...] = ()
    slices: Bounds = field(default_factory=Bounds)
    slice_thickness_mm: Bounds = field(default_factory=Bounds)
    lung_volume_ml: Bounds = field(default_factory=Bounds)
    contrast_agent: Contrast = "any"
    patient_positions: tuple[str, ...] = ()
    verdicts: Mapping[str, Severity] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.spatial_dims, bool) or self.spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims is {self.spatial_dims!r}; expected 2 or 3.")
        for name, kind in (("colour", Colour), ("values", Values), ("organ", Organ), ("contrast_agent", Contrast)):
            value, known = getattr(self, name), get_args(kind)
            if value not in known:
                raise ValueError(f"{name} is {value!r}; expected one of {', '.join(known)}.")
        for name in ("modalities", "body_parts", "patient_positions"):
            words = getattr(self, name)
            if not isinstance(words, tuple) or not all(isinstance(w, str) and w and w == w.upper() for w in words):
                raise ValueError(f"{name} is {words!r}; expected upper-case words.")
        for name in ("slices", "slice_thickness_mm", "lung_volume_ml"):
            if not isinstance(getattr(self, name), Bounds):
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected bounds.")
        if not isinstance(self.verdicts, Mapping):
            raise ValueError(f"verdicts is {self.verdicts!r}; expected codes with a severity each.")
        for code, severity in self.verdicts.items():
            if code not in DOMAIN_VERDICTS:
                raise ValueError(f"verdicts has {code!r}; expected some of {', '.join(DOMAIN_VERDICTS)}.")
            if severity not in _SEVERITIES:
                raise ValueError(f"verdicts of {code!r} is {severity!r}; expected one of {', '.join(_SEVERITIES)}.")

    def verdict(self, code: str) -> Severity:
        """Severity of one code of ``DOMAIN_VERDICTS``."""
        return self.verdicts.get(code, DOMAIN_VERDICTS[code])
