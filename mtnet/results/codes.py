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

# CID 7472 "Volume Measurements", CID 7470 "Linear Measurements".
VOLUME = _concept("118565006", "SCT", "Volume", 7472)
LONG_AXIS = _concept("103339001", "SCT", "Long axis", 7470)
SHORT_AXIS = _concept("103340004", "SCT", "Short axis", 7470)
DIAMETER = _concept("81827009", "SCT", "Diameter", 7470)

# CID 7471 "Area Measurements".
AREA = _concept("42798000", "SCT", "Area", 7471)

# CID 6047 "CAD Processing and Findings Summary", and the name of that answer (TID 4000).
FINDINGS_SUMMARY = Code("111017", "DCM", "CAD Processing and Findings Summary")
WITHOUT_FINDINGS = _concept("111241", "DCM", "All algorithms succeeded; without findings", 6047)
WITH_FINDINGS = _concept("111242", "DCM", "All algorithms succeeded; with findings", 6047)

# CID 240 "Present-Absent".
PRESENT = _concept("52101004", "SCT", "Present", 240)
ABSENT = _concept("272519000", "SCT", "Absent", 240)

# CID 100 "Quantitative Diagnostic Imaging Procedures": by the modality of the source.
ANY_PROCEDURE = _concept("363679005", "SCT", "Imaging procedure", 100)
PROCEDURES: dict[str, Concept] = {
    "CT": _concept("25045-6", "LN", "CT unspecified body region", 100),
    "MR": _concept("25056-3", "LN", "MRI unspecified body region", 100),
    "PT": _concept("44136-0", "LN", "PET unspecified body region", 100),
    "NM": _concept("49118-3", "LN", "NM unspecified body region", 100),
    "CR": _concept("43468-8", "LN", "XR unspecified body region", 100),
    "DX": _concept("43468-8", "LN", "XR unspecified body region", 100),
}

# TID 1500, 1600, 1602 and the like: names of content items.
COMMENT = Code("121106", "DCM", "Comment")
IMAGE_LIBRARY = Code("111028", "DCM", "Image Library")
IMAGE_LIBRARY_GROUP = Code("126200", "DCM", "Image Library Group")
LIBRARY_IMAGE = Code("260753009", "SCT", "Source")
MODALITY = Code("121139", "DCM", "Modality")
FRAME_OF_REFERENCE_UID = Code("112227", "DCM", "Frame of Reference UID")
DEVICE_OBSERVER = Code("121007", "DCM", "Device")
# CID 29 "Acquisition Modality": the name of each Defined Term that a source here can have.
MODALITIES = {
    "CR": "Computed Radiography",
    "CT": "Computed Tomography",
    "DX": "Digital Radiography",
    "ES": "Endoscopy",
    "GM": "General Microscopy",
    "IO": "Intra-oral Radiography",
    "MG": "Mammography",
    "MR": "Magnetic Resonance",
    "NM": "Nuclear Medicine",
    "OP": "Ophthalmic Photography",
    "OT": "Other Modality",
    "PT": "Positron emission tomography",
    "RF": "Radiofluoroscopy",
    "SM": "Slide Microscopy",
    "US": "Ultrasound",
    "XA": "X-Ray Angiography",
    "XC": "External-camera Photography",
}

# CID 7202 "Source Image Purposes of Reference" and CID 7203 "Image Derivation".
SOURCE_IMAGE = _concept("121322", "DCM", "Source image for image processing operation", 7202)
SEGMENTATION = _concept("113076", "DCM", "Segmentation", 7203)

# UCUM units of the values that results hold, by the end of their key.
NO_UNITS = Code("1", "UCUM", "no units")
UNITS: dict[str, Code] = {
    "_mm": Code("mm", "UCUM", "mm"),
    "_cm": Code("cm", "UCUM", "cm"),
    "_mm2": Code("mm2", "UCUM", "square millimeter"),
    "_mm3": Code("mm3", "UCUM", "cubic millimeter"),
    "_ml": Code("ml", "UCUM", "milliliter"),
    "_hu": Code("[hnsf'U]", "UCUM", "Hounsfield unit"),
    "_percent": Code("%", "UCUM", "%"),
    "_deg": Code("deg", "UCUM", "degree"),
    "_s": Code("s", "UCUM", "second"),
    "_px": Code("{pixels}", "UCUM", "Pixels"),
}

PRIVATE_SCHEME = "99MTNET"


def private_code(key: str, meaning: str) -> Code:
    """A code of our own scheme for what no standard names: the key, or where it is long its head and a hash.

    Args:
        key: lower-case name, the same in every version.
        meaning: what a person reads; cut to 64 characters.
    """
    import hashlib

    value = key.replace("\\", "/").replace(" ", "_")
    if len(value) > 16 or not value.isascii():
        head = "".join(c for c in value if c.isascii())[:7]
        value = f"{head}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    return Code(value, PRIVATE_SCHEME, " ".join(meaning.replace("\\", "/").split())[:64])


def unit_of(key: str) -> Code:
    """The UCUM unit that a key of a measurement ends in; "no units" where it ends in none."""
    return next((unit for end, unit in UNITS.items() if key.endswith(end)), NO_UNITS)


def without_unit(key: str) -> str:
    """A key of a measurement without the unit that it ends in."""
    return next((key.removesuffix(end) for end in UNITS if key.endswith(end)), key)


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
