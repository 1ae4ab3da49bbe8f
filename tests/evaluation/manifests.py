"""Small manifests with pictures, masks and boxes beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtnet.sources.manifest import Manifest, Sample, Source, write_manifest
from tests.planes import save, spot

Spot = tuple[tuple[int, int], tuple[int, int]]
"""First and one past the last pixel of a bright rectangle, as (column, row)."""


def source(name: str = "spots") -> Source:
    return Source(name, "folder", "Drawn spots", "CC0-1.0", "free", "nobody", "", "drawn", "groups")


def picture(folder: Path, name: str, place: Spot | None, size: tuple[int, int] = (64, 48), **fields: Any) -> Sample:
    """A picture with one bright rectangle or none, its mask and its box."""
    pixels = np.full((size[1], size[0]), 20, np.uint8) if place is None else spot(size, *place)
    image = save(folder / f"{name}.png", pixels)
    masks: tuple[Path, ...] = ()
    boxes: tuple[tuple[float, ...], ...] = ()
    if place is not None:
        masks = (save(folder / f"{name}_mask.png", (pixels > 100).astype(np.uint8) * 255),)
        boxes = (tuple(n - 0.5 for corner in place for n in corner),)
    fields = {"split": "test", "fold": 0, "source": "spots", "masks": masks, "boxes": boxes, **fields}
    group = f"{fields['source']}:{fields.pop('group', name)}"
    return Sample(id=f"{fields['source']}/{name}", group=group, image=image, **fields)


def pictures(folder: Path, count: int = 4, **fields: Any) -> list[Sample]:
    """Pictures with a rectangle each, the last one without."""
    places = [((8 + 4 * n, 6 + 2 * n), (24 + 4 * n, 20 + 2 * n)) for n in range(count - 1)]
    return [picture(folder, f"p{n}", place, **fields) for n, place in enumerate([*places, None])]


def manifest_of(samples: Sequence[Sample]) -> Manifest:
    return Manifest(tuple(source(name) for name in dict.fromkeys(s.source for s in samples)), tuple(samples))


def write(folder: Path, samples: Sequence[Sample]) -> Path:
    path = folder / "manifest.json"
    write_manifest(manifest_of(samples), path)
    return path
