"""A lesion, and what a network measured, as the plain Python that ``findings.json`` holds, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mtnet.structures import Geometry, Lesion, Measured

# Decimals that are kept: a ten-thousandth of a millimetre or voxel, a millionth of a score.
PLACE = 4
SHARE = 6


def lesion_to_dict(lesion: Lesion) -> dict[str, Any]:
    """A lesion of a volume."""
    return {
        "number": lesion.number,
        "label": lesion.label,
        "score": None if lesion.place_given else round(float(lesion.score), SHARE),
        "box_index": rounded(lesion.box_index, PLACE),
        "box_lps_mm": rounded(lesion.box_lps_mm, PLACE),
        "centre_lps_mm": rounded(lesion.centre_lps_mm, PLACE),
        "tracking_uid": lesion.tracking_uid,
        "class_probabilities": {
            channel: {name: round(float(p), SHARE) for name, p in classes.items()}
            for channel, classes in lesion.class_probabilities.items()
        },
        "measures": {key: round(float(value), SHARE) for key, value in lesion.measures.items()},
        "mask_component": lesion.number if lesion.mask_voxels else None,
        "mask_voxels": int(lesion.mask_voxels),
        "volume_mm3": _optional(lesion.volume_mm3),
        "longest_axial_diameter_mm": _optional(lesion.longest_axial_diameter_mm),
        "short_axial_diameter_mm": _optional(lesion.short_axial_diameter_mm),
        **measured_to_dict(lesion.measured),
        **({"place_given": True} if lesion.place_given else {}),
        **({"mask_drawn": True} if lesion.mask_drawn else {}),
    }


def measured_to_dict(measured: Mapping[str, Measured]) -> dict[str, Any]:
    """The key ``measured``, where something was."""
    if not measured:
        return {}
    values = {
        key: {
            "value": round(float(m.value), SHARE),
            "units": m.units,
            "sd": None if m.sd is None else round(m.sd, SHARE),
        }
        for key, m in measured.items()
    }
    return {"measured": values}


def measured_from_dict(document: Mapping[str, Any]) -> dict[str, Measured]:
    """What stands under ``measured`` of the findings or of a lesion."""
    return {key: Measured(**value) for key, value in document.get("measured", {}).items()}


def flat_lesion_to_dict(lesion: Lesion, geometry: Geometry) -> dict[str, Any]:
    """A lesion of a 2D image or clip: its place in pixels and frames, never in world mm."""
    centre_index = geometry.lps_mm_to_index(lesion.centre_lps_mm)
    return {
        **lesion_to_dict(lesion),
        "box_lps_mm": None,
        "centre_lps_mm": None,
        "centre_index": rounded(centre_index.tolist(), PLACE),
        "frame": int(lesion.frame or 0),
    }


def lesion_from_dict(document: Mapping[str, Any], geometry: Geometry) -> Lesion:
    """A lesion on a grid, from what ``lesion_to_dict`` or ``flat_lesion_to_dict`` made."""
    fields = {key: value for key, value in document.items() if key not in ("mask_component", "centre_index")}
    if fields["box_lps_mm"] is None:
        fields["box_lps_mm"] = geometry.box_index_to_lps_mm(fields["box_index"])
        fields["centre_lps_mm"] = geometry.index_to_lps_mm(document["centre_index"])
    fields["measured"] = measured_from_dict(document)
    if fields["score"] is None:
        fields["score"] = 1.0
    for key in ("box_index", "box_lps_mm", "centre_lps_mm"):
        fields[key] = tuple(float(v) for v in fields[key])
    return Lesion(**fields)


def rounded(values: Sequence[float], places: int) -> list[float]:
    """Numbers to so many decimals."""
    # Adding 0.0 turns -0.0 into 0.0.
    return [round(float(v), places) + 0.0 for v in values]


def _optional(value: float | None) -> float | None:
    return None if value is None else round(float(value), PLACE)
