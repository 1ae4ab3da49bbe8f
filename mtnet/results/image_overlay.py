"""``overlay.png`` of a 2D image, or of the key frames of a clip: the picture with contours, boxes and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtnet.io.atomic import atomic_path
from mtnet.results.canvas import Panel
from mtnet.results.overlay import colour_of, overlay_page
from mtnet.structures import Findings, Lesion

MOST_FRAMES = 6
_SIDE_PX, _SIDE_OF_MANY_PX = 900, 480


def write_image_overlay(findings: Findings, frames: Mapping[int, NDArray[np.generic]], path: Path) -> None:
    """Write the picture.

    Args:
        findings: what to show, with ``plane``.
        frames: frame number to its pixels ``(C, i, j)``; of an image frame 0. The first six are shown.
        path: the PNG to make; its folder must exist.

    Raises:
        ValueError: there is no frame, or one has another size than the findings.
    """
    size = findings.geometry.shape[:2]
    if not frames or any(pixels.shape[1:] != size for pixels in frames.values()):
        sizes = ", ".join(str(pixels.shape[1:]) for pixels in frames.values()) or "none"
        raise ValueError(f"The frames have sizes {sizes}; expected some of the findings' size, {size}.")
    shown = sorted(frames)[:MOST_FRAMES]
    side = _SIDE_PX if len(shown) == 1 else _SIDE_OF_MANY_PX
    cells = [_cell(findings, k, frames[k], side) for k in shown]
    image = overlay_page(findings, "the image as it is", cells, min(len(cells), 3))
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", compress_level=6)


def key_frames(lesions: tuple[Lesion, ...]) -> list[int]:
    """The frames that a page has room for: those of the best lesions, each once."""
    return list(dict.fromkeys(lesion.frame or 0 for lesion in lesions))[:MOST_FRAMES]


def displayed(pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    """``(rows, columns, 3)`` to look at: 8 bits as they are, others from their 1st to 99th percentile."""
    turned = pixels.transpose(2, 1, 0)
    if turned.dtype != np.uint8:
        values = turned.astype(np.float32)
        low, high = (float(v) for v in np.percentile(values, (1, 99)))
        turned = (np.clip((values - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(turned, (*turned.shape[:2], 3)))


def _cell(findings: Findings, k: int, pixels: NDArray[np.generic], side: int) -> Any:
    spacing = findings.plane.spacing_mm if findings.plane else None
    step_i, step_j = spacing or (1.0, 1.0)
    columns, rows, frames = findings.geometry.shape
    across, down = columns * step_i, rows * step_j
    scale = side / max(across, down)
    width, height = max(round(across * scale), 64), max(round(down * scale), 64)
    middle = ((columns - 1) / 2, (rows - 1) / 2)
    panel = Panel(width, height, middle, (width / scale, height / scale), (step_i, step_j))
    panel.colour(displayed(pixels))
    if findings.label_map is not None:
        plane = findings.label_map.array[0, :, :, k].T
        for label in findings.labels:
            panel.contour(plane == label.value, label.colour, width=1.0, strength=0.55, finer=2)
    for lesion in findings.lesions:
        if lesion.frame != k:
            continue
        if findings.lesion_map is not None:
            plane = findings.lesion_map.array[0, :, :, k].T
            panel.contour(plane == lesion.number, colour_of(lesion.number), width=1.6)
        box = np.array(lesion.box_index)[[0, 1, 3, 4]]
        panel.box(box, colour_of(lesion.number), str(lesion.number))
    if spacing is not None:
        panel.scale_bar(next(mm for mm in (100.0, 50.0, 10.0, 5.0, 1.0, 0.1, 0.0) if mm <= max(across, down) / 4))
    if frames > 1:
        panel.caption(f"frame {k + 1} of {frames}")
    return panel.image
