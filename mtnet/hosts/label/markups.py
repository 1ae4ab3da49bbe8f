"""Boxes as 3D Slicer's markups JSON: one ROI a box, in LPS mm (markups schema 1.0.3 of 3D Slicer)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtnet.io.atomic import atomic_path
from mtnet.structures import Findings, Geometry, Lesion

SCHEMA = "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json#"

_LPS_OF = {"LPS": np.ones(3), "RAS": np.array([-1.0, -1.0, 1.0])}


def write_markups(findings: Findings, path: Path) -> None:
    """Write the boxes of all lesions, in the findings' order.

    On a grid with right angles a ROI is the box itself, turned as the grid is (``orientation``: row-major, its columns
    are the box's axes in LPS); on a sheared one the smallest box along the patient's axes. On a 2D image the world is
    the plane of ``Image.geometry``: mm where the spacing is known, else pixels, and one pixel deep.
    """
    document = {"@schema": SCHEMA, "markups": [_roi(lesion, findings.geometry) for lesion in findings.lesions]}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1), encoding="utf-8")


def boxes_of_markups(markups: Sequence[Mapping[str, Any]], geometry: Geometry) -> NDArray[np.float64]:
    """The ROI boxes ``(N, 6)`` in index space of a grid, half-open; a turned one becomes the smallest aligned one.

    Raises:
        ValueError: a markup is no ROI box, lacks a centre or size, or is in another frame than LPS or RAS.
    """
    boxes = [_box(markup, number, geometry) for number, markup in enumerate(markups, 1)]
    return np.array(boxes, dtype=np.float64).reshape(-1, 6)


def _roi(lesion: Lesion, geometry: Geometry) -> dict[str, Any]:
    if geometry.is_orthogonal():
        low, high = np.array(lesion.box_index[:3]), np.array(lesion.box_index[3:])
        centre = geometry.index_to_lps_mm((low + high) / 2)
        size, axes = (high - low) * geometry.spacing_mm, geometry.direction_lps
    else:
        low, high = np.array(lesion.box_lps_mm[:3]), np.array(lesion.box_lps_mm[3:])
        centre, size, axes = (low + high) / 2, high - low, np.eye(3)
    place, turned = _rounded(centre), _rounded(axes.ravel())
    told = f"{lesion.label} {lesion.number}"
    return {
        "type": "ROI",
        "name": told,
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "roiType": "Box",
        "center": place,
        "orientation": turned,
        "size": _rounded(size),
        "insideOut": False,
        "locked": False,
        "controlPoints": [
            {
                "id": "1",
                "label": told,
                "description": "place given" if lesion.place_given else f"score {lesion.score:.2f}",
                "position": place,
                "orientation": turned,
                "positionStatus": "defined",
            }
        ],
    }


def _box(markup: Mapping[str, Any], number: int, geometry: Geometry) -> NDArray[np.float64]:
    frame = markup.get("coordinateSystem", "LPS")
    try:
        to_lps = _LPS_OF[frame]
        centre = np.array(markup["center"], dtype=np.float64).reshape(3)
        size = np.array(markup["size"], dtype=np.float64).reshape(3)
        axes = np.array(markup.get("orientation", np.eye(3).ravel()), dtype=np.float64).reshape(3, 3)
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"Markup {number} is no ROI in LPS or RAS with 'center' and 'size' of three numbers (mm)."
        ) from None
    if markup.get("type", "ROI") != "ROI" or not (size > 0).all():
        raise ValueError(f"Markup {number} is no box: expected type ROI and a size above 0 along each axis.")
    signs = np.stack(np.meshgrid(*([-0.5, 0.5],) * 3, indexing="ij"), -1).reshape(-1, 3)
    corners = geometry.lps_mm_to_index((centre + (signs * size) @ axes.T) * to_lps)
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)])


def _rounded(values: Any) -> list[float]:
    # Adding 0.0 turns -0.0 into 0.0.
    return [round(float(value), 6) + 0.0 for value in values]
