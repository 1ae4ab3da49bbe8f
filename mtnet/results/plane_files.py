"""Files of findings on a 2D image or clip: masks as PNG, or as TIFF with a page a frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtnet.io.atomic import atomic_path
from mtnet.io.image_out import write_image
from mtnet.structures import Volume


def mask_name(stem: str, frames: int) -> str:
    """``stem.png`` for an image, ``stem.tif`` for a clip."""
    return f"{stem}.png" if frames == 1 else f"{stem}.tif"


def write_mask(volume: Volume, folder: Path, stem: str) -> Path:
    """Write a label map on the pixels of an image: grey values are label values or lesion numbers.

    Args:
        volume: ``(1, i, j, frames)`` uint8 or uint16.
        folder: where to; must exist.
        stem: file name without its ending.
    """
    frames = volume.array.shape[3]
    path = folder / mask_name(stem, frames)
    if frames == 1:
        return write_image(volume.array[..., 0], folder, stem)
    with atomic_path(path) as temporary:
        first, *rest = (_page(volume.array[0, :, :, k]) for k in range(frames))
        first.save(temporary, format="TIFF", compression="tiff_deflate", save_all=True, append_images=rest)
    return path


def write_redrawn(volume: Volume, source_type: np.dtype[Any] | None, folder: Path, stem: str) -> Path:
    """Write a redrawn image ``(C, i, j, 1)``: in the type of the source where that is whole numbers of 8 or 16 bits.

    Colour that is neither is scaled from its own range to 16 bits, since no plain format holds it.
    """
    values: NDArray[Any] = volume.array[..., 0]
    if source_type is not None and source_type.kind == "u" and source_type.itemsize <= 2:
        values = np.rint(values).clip(0, np.iinfo(source_type).max).astype(source_type)
    elif values.shape[0] == 3:
        low, high = float(values.min()), float(values.max())
        values = np.rint((values - low) / max(high - low, 1e-12) * 65535).astype(np.uint16)
    return write_image(values, folder, stem)


def _page(mask: NDArray[Any]) -> Any:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(mask.T))
