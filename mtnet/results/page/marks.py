"""What is drawn over images in a page: codes of masks, and the colours that they have."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtnet.results.overlay import colour_of
from mtnet.structures import Findings

_FIRST_LESION = 100
# A multiple of the number of colours, so that lesions that share a code also share their colour.
_LESION_CODES = 150


def class_codes(findings: Findings) -> dict[int, int]:
    """Label value to code, from 1; classes beyond the 99th are not drawn."""
    return {label.value: code for code, label in enumerate(findings.labels[: _FIRST_LESION - 1], start=1)}


def lesion_code(number: int) -> int:
    """The code of a lesion's mask by its number, from 1."""
    return _FIRST_LESION + (number - 1) % _LESION_CODES


def legend(findings: Findings, codes: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """For each code that occurs: its colour, its name, and whether it is a lesion's."""
    occurring = np.flatnonzero(np.bincount(codes.reshape(-1), minlength=256)).tolist()
    named = {
        code: {"code": code, "rgb": list(label.colour), "name": label.name.replace("_", " "), "lesion": False}
        for code, label in enumerate(findings.labels[: _FIRST_LESION - 1], start=1)
    }
    for code in occurring:
        if code >= _FIRST_LESION:
            rgb = list(colour_of(code - _FIRST_LESION + 1))
            named[code] = {"code": code, "rgb": rgb, "name": "lesion", "lesion": True}
    return [named[code] for code in occurring if code in named]
