"""Vendors' names of CT reconstruction kernels, sorted into soft tissue, lung and bone.

ConvolutionKernel (0018,1210) is free text of the vendor. Sources: Siemens SOMATOM operating instructions (body kernels
B10 to B41 for body tissue, B50 to B80 for more sharpness such as the thorax, H and U for head and bone; later names add
a letter: Br regular, Bf fine, Bv vascular, Bl lung); GE's algorithm names say what they are for; Philips filters A, B
and C from smooth to standard, D, E and Y sharp, L lung, UA to UC brain; Canon and Toshiba FC numbers (01 to 19 body, 20
to 29 and 60 to 69 head, 30 to 39 and 80 to 82 bone, 50 to 59 and 83 to 86 lung). Names change with a machine's
software: what no rule knows is ``unknown`` and never stops a reading.
"""

from __future__ import annotations

import re
from typing import Literal

KernelClass = Literal["soft", "unknown", "lung", "bone"]
KERNEL_ORDER: tuple[KernelClass, ...] = ("soft", "unknown", "lung", "bone")
"""From the one that the chest rule likes best. A kernel without a known name is more often standard than sharp."""

_PHILIPS: dict[str, KernelClass] = {
    "A": "soft", "B": "soft", "C": "soft", "CA": "soft", "CB": "soft", "CC": "soft", "UA": "soft", "UB": "soft",
    "UC": "soft", "D": "bone", "E": "bone", "EA": "bone", "EB": "bone", "EC": "bone", "XCA": "soft", "XCB": "soft",
    "XCC": "soft", "YA": "bone", "YB": "bone", "YC": "bone", "YD": "bone", "L": "lung",
}  # fmt: skip

_WORDS: tuple[tuple[str, KernelClass], ...] = (
    ("LUNG", "lung"),
    ("BONE", "bone"),
    ("EDGE", "bone"),
    ("ULTRA", "bone"),
    ("SHARP", "bone"),
    ("SOFT", "soft"),
    ("STANDARD", "soft"),
    ("STND", "soft"),
    ("STD", "soft"),
    ("DETAIL", "soft"),
    ("CHST", "soft"),
    ("CHEST", "soft"),
    ("SMOOTH", "soft"),
    ("ROUTINE", "soft"),
    ("BODY", "soft"),
)
_SIEMENS = re.compile(r"^(?P<family>[BHIJDQU])(?P<group>[A-Z]?)(?P<number>\d{2})[A-Z]?$")
_CANON = re.compile(r"^FC(?P<number>\d{2})")


def kernel_class(kernel: str, manufacturer: str = "") -> KernelClass:
    """Class of a kernel by its name; the manufacturer settles names of one or two letters (Philips).

    A value with several parts (``Br40d\\3``: kernel and strength of the iteration) is judged by its first.
    """
    name = kernel.partition("\\")[0].strip().upper()
    if not name:
        return "unknown"
    for word, known in _WORDS:
        if word in name:
            return known
    if name in _PHILIPS and ("PHILIPS" in manufacturer.upper() or not manufacturer):
        return _PHILIPS[name]
    canon = _CANON.match(name)
    if canon:
        return _canon_class(int(canon["number"]))
    siemens = _SIEMENS.match(name)
    if siemens:
        return _siemens_class(siemens["family"], siemens["group"], int(siemens["number"]))
    return "unknown"


def _canon_class(number: int) -> KernelClass:
    if 30 <= number < 40 or 80 <= number < 83:
        return "bone"
    if 50 <= number < 60 or 83 <= number < 90:
        return "lung"
    return "soft"


def _siemens_class(family: str, group: str, number: int) -> KernelClass:
    if family == "B" and group == "L":
        return "lung"
    if number < 50:
        return "soft"
    if family in "HU" or number >= 80:
        return "bone"
    return "lung"
