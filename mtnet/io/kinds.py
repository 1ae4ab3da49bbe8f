"""What kind of object a DICOM instance is, from SOP class, modality, image type and shape."""

from __future__ import annotations

from mtnet.structures.study import Instance, SeriesKind

_STORAGE = "1.2.840.10008.5.1.4.1.1."

CT_CLASSES = frozenset(_STORAGE + tail for tail in ("2", "2.1", "2.2"))
"""CT Image, Enhanced CT, Legacy Converted Enhanced CT Storage (PS3.4 table B.5-1)."""

ENHANCED_CLASSES = frozenset(
    _STORAGE + tail
    # CT and its legacy conversion; MR, MR colour and legacy; PET and legacy; X-ray 3D, breast tomosynthesis.
    for tail in ("2.1", "2.2", "4.1", "4.3", "4.4", "130", "128.1", "13.1.1", "13.1.2", "13.1.3")
)
"""Multi-frame objects whose geometry stands in functional groups (PS3.3 C.7.6.16)."""

SLICE_CLASSES = frozenset(_STORAGE + tail for tail in ("2", "4", "128"))
"""CT, MR and PET Image Storage: one slice a file, its geometry at the top level."""

_SECONDARY_CAPTURE = _STORAGE + "7"
_SEGMENTATION_CLASSES = frozenset(_STORAGE + tail for tail in ("66.4", "66.7"))  # binary or fractional; label map
_PARAMETRIC_MAP = _STORAGE + "30"
_DOSE_GRID = _STORAGE + "481.2"

_LOCALIZER_WORDS = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM"})

# ImageType values 3 and 4 that say that the pixels are no HU: perfusion (PS3.3 C.8.16.1.3, C.8.16.1.4) and
# multi-energy CT (C.8.15.3.10 and C.8.2.1.1.1); virtual monoenergetic images (VMI) are HU and not among them.
_MAP_WORDS = frozenset(
    {
        "PERFUSION", "PERM_FRAC", "RCBF", "RCBV", "CBF", "CBV", "MTT", "TTP", "TMAX", "FMRI", "ADC_MAP",
        "MAT_SPECIFIC", "MAT_FRACTIONAL", "MAT_VALUE_BASED", "EFF_ATOMIC_NUM", "ELECTRON_DENSITY",
    }
)  # fmt: skip


def map_word(instance: Instance) -> str | None:
    """The ImageType value by which a CT object is a parametric map, or ``None``."""
    if instance.sop_class_uid not in CT_CLASSES:
        return None
    return next((word for word in instance.image_type[2:] if word in _MAP_WORDS), None)


def is_localizer(instance: Instance) -> bool:
    """Whether ImageType calls it a localizer, scout or topogram (PS3.3 C.8.2.1.1.1)."""
    return any(word in _LOCALIZER_WORDS for word in instance.image_type)


def is_label_map_as_ct(instance: Instance) -> bool:
    """Whether it says CT by class and SEG by modality: a label map in the clothes of a CT."""
    return instance.sop_class_uid in CT_CLASSES and instance.modality == "SEG"


def kind_of(instance: Instance) -> SeriesKind:
    """The kind of one instance.

    What has neither rows nor columns is no image, unless its class promises a slice: then it is a broken slice. A
    colour object of a cross-sectional class is a capture (a dose table, a fused picture), not a volume.
    """
    sop_class, frames = instance.sop_class_uid, instance.number_of_frames
    is_capture = sop_class == _SECONDARY_CAPTURE or sop_class.startswith(_SECONDARY_CAPTURE + ".")
    has_matrix = instance.rows is not None and instance.columns is not None
    is_slice = sop_class in SLICE_CLASSES and frames == 1
    rules: tuple[tuple[bool, SeriesKind], ...] = (
        (sop_class == _DOSE_GRID or (not has_matrix and not is_slice), "not_an_image"),
        (sop_class in _SEGMENTATION_CLASSES or instance.modality == "SEG", "label_map"),
        (sop_class == _PARAMETRIC_MAP or map_word(instance) is not None, "parametric_map"),
        (is_capture or (is_slice and instance.samples_per_pixel > 1), "secondary_capture"),
        (is_localizer(instance), "localizer"),
        (is_slice or sop_class in ENHANCED_CLASSES, "volume"),
        (frames > 1, "cine"),
    )
    return next((kind for holds, kind in rules if holds), "image")
