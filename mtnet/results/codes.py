"""Coded concepts of results: one table, each row with its place in DICOM PS3.16."""

from __future__ import annotations

from dataclasses import dataclass

from mtnet.structures import Code, Label


@dataclass(frozen=True, slots=True)
class Concept:
    """A code and the context group (CID) of PS3.16 that lists it."""

    code: Code
    cid: int


def _concept(value: str, scheme: str, meaning: str, cid: int) -> Concept:
    return Concept(Code(value, scheme, meaning), cid)


# CID 7150 "Segmentation Property Category": what sort of thing a segment is.
ABNORMAL_STRUCTURE = _concept("49755003", "SCT", "Morphologically Abnormal Structure", 7150)

# CID 7159 "Lesion Segmentation Type": by the names that labels use.
LESION_TYPES: dict[str, Concept] = {
    "lesion": _concept("52988006", "SCT", "Lesion", 7159),
    "nodule": _concept("27925004", "SCT", "Nodule", 7159),
    "mass": _concept("4147007", "SCT", "Mass", 7159),
    "tumour": _concept("108369006", "SCT", "Neoplasm", 7159),
    "tumor": _concept("108369006", "SCT", "Neoplasm", 7159),
    "neoplasm": _concept("108369006", "SCT", "Neoplasm", 7159),
    "cyst": _concept("367643001", "SCT", "Cyst", 7159),
    "abscess": _concept("44132006", "SCT", "Abscess", 7159),
    "haemorrhage": _concept("50960005", "SCT", "Hemorrhage", 7159),
}

# CID 7162 "Surface Processing Algorithm Family": what kind of algorithm drew the segment.
ARTIFICIAL_INTELLIGENCE = _concept("123110", "DCM", "Artificial Intelligence", 7162)


def lesion_type(name: str, labels: tuple[Label, ...] = ()) -> Code:
    """Code of a lesion class: that of the label of this name, else of the table, else "Lesion" (SCT 52988006).

    The table is searched for the whole name, then for its last word: ``lung nodule`` and ``lung_nodule`` are nodules.
    """
    for label in labels:
        if label.name == name and label.code is not None:
            return label.code
    words = name.lower().replace("_", " ").replace("-", " ").split()
    for key in (" ".join(words), *words[-1:]):
        if key in LESION_TYPES:
            return LESION_TYPES[key].code
    return LESION_TYPES["lesion"].code


def lesion_region(name: str, labels: tuple[Label, ...] = ()) -> Code | None:
    """Where in the body a lesion class lies, where its label says so."""
    for label in labels:
        if label.name == name:
            return label.region
    return None
