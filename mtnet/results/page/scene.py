"""What the viewer of a page shows: a volume with its masks, or frames of an image or clip, and where lesions lie."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtnet.results.mask_boxes import mask_boxes
from mtnet.results.overlay import LUNG_WINDOW_HU, colour_of
from mtnet.results.page.grid import PageGrid
from mtnet.results.page.marks import class_codes, legend, lesion_code
from mtnet.structures import Findings, Lesion, Volume

# In steps of 6 HU: air at one end, at the other what enhances most; bone above is white.
_CT_RANGE_HU = (-1050.0, 450.0)
_CT_WINDOWS = {"Lung": LUNG_WINDOW_HU, "Soft tissue": (40.0, 400.0), "Wide": (-300.0, 1500.0)}


@dataclass(frozen=True, slots=True)
class Scene:
    """What goes into a page besides its text.

    Args:
        data: for the page's script, as JSON holds it.
        blobs: name to gzipped NIfTI.
        places: for each lesion, by its number, the words for where it lies.
    """

    data: dict[str, Any]
    blobs: dict[str, bytes] = field(default_factory=dict)
    places: dict[int, str] = field(default_factory=dict)


def volume_scene(findings: Findings, volume: Volume, most_voxels: int) -> Scene:
    """A volume, windowed to 8 bits and coarsened to at most ``most_voxels``, and the masks on it.

    Raises:
        ValueError: ``volume`` is on another grid than the findings.
    """
    if not volume.geometry.almost_equal(findings.geometry):
        raise ValueError(
            f"The image has grid {volume.geometry.shape}; expected that of the findings, {findings.geometry.shape}."
        )
    grid = PageGrid.of(findings.geometry, most_voxels)
    low, high, windows = _windows(volume)
    turned = grid.turned(volume.array[0])
    grey = np.clip((grid.coarser(turned) - low) * (255.0 / (high - low)), 0, 255)
    codes = _codes(findings, grid)
    slices = [
        f"slice {grid.source_slice(z) + 1} of {grid.view.shape[2]}, z {grid.height_mm(z):+.1f} mm".replace("-", "−")
        for z in range(grid.shape[2])
    ]
    centres = {lesion.number: _centre(lesion, grid, findings) for lesion in findings.lesions}
    data = {
        "kind": "volume",
        "shape": list(grid.shape),
        "spacing": [round(s, 4) for s in grid.spacing_mm],
        "range": [low, high],
        "windows": windows,
        "slices": slices,
        "legend": [] if codes is None else legend(findings, codes),
        "lesions": [
            {
                **_lesion(lesion),
                "box": _numbers(grid.box(lesion.box_index)),
                "centre": _numbers(centres[lesion.number]),
            }
            for lesion in findings.lesions
        ],
    }
    blobs = {"volume": grid.nifti(np.rint(grey).astype(np.uint8), (high - low) / 255, low)}
    if codes is not None:
        blobs["masks"] = grid.nifti(codes)
    return Scene(data, blobs, {n: slices[round(float(centre[2]))] for n, centre in centres.items()})


def lesion_entry(lesion: Lesion, box: NDArray[np.float64]) -> dict[str, Any]:
    """A lesion of an image or clip for the page's script: its box in pixels and frames of the page."""
    return {**_lesion(lesion), "box": _numbers(box), "centre": _numbers((box[:3] + box[3:]) / 2)}


def _lesion(lesion: Lesion) -> dict[str, Any]:
    return {"number": lesion.number, "rgb": list(colour_of(lesion.number)), "name": lesion.label.replace("_", " ")}


def _numbers(values: NDArray[np.float64]) -> list[float]:
    return [round(float(v), 3) for v in values]


def _centre(lesion: Lesion, grid: PageGrid, findings: Findings) -> NDArray[np.float64]:
    centre = grid.point(findings.geometry.lps_mm_to_index(lesion.centre_lps_mm).tolist())
    return np.clip(centre, 0, np.array(grid.shape) - 1)


def _windows(volume: Volume) -> tuple[float, float, list[dict[str, Any]]]:
    """The range of values that the page keeps, and the windows that it offers, as name, low and high."""
    if volume.modality == "CT":
        low, high = _CT_RANGE_HU
        windows = [
            {
                "name": f"{name} ({level:g} / {width:g} HU)".replace("-", "−"),
                "low": max(level - width / 2, low),
                "high": min(level + width / 2, high),
            }
            for name, (level, width) in _CT_WINDOWS.items()
        ]
        return low, high, windows
    steps = [max(n // 128, 1) for n in volume.array.shape[1:]]
    some = volume.array[0, :: steps[0], :: steps[1], :: steps[2]]
    low, high = (float(v) for v in np.percentile(some.astype(np.float32), (0.5, 99.5)))
    high = max(high, low + 1e-6)
    name = f"grey from {low:.4g} to {high:.4g}"
    return low, high, [{"name": name, "low": low, "high": high}]


def _codes(findings: Findings, grid: PageGrid) -> NDArray[np.uint8] | None:
    """Masks on the page's grid; lesions lie over classes, and none vanishes however small it is."""
    maps = (findings.label_map, findings.lesion_map)
    if all(one is None for one in maps):
        return None
    codes = np.zeros(grid.shape, np.uint8)
    by_number = {lesion.number: lesion_code(lesion.number) for lesion in findings.lesions}
    for one, code_of in zip(maps, (class_codes(findings), by_number), strict=True):
        if one is None:
            continue
        values = grid.turned(one.array[0])
        for value, where in mask_boxes(values).items():
            if value not in code_of:
                continue
            share, block = grid.share(values[where] == value, where)
            codes[block][share >= min(0.5, float(share.max()) / 2)] = code_of[value]
    return codes
