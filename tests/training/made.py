"""Small made pictures and chests with masks, boxes and classes, and their manifests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image as PILImage

from mtnet.io.nifti_out import write_nifti
from mtnet.phantoms import draw_chest
from mtnet.sources import Manifest, Sample, Source, write_manifest
from mtnet.structures import Volume

SOURCE = Source("made", "folder", "made", "CC0-1.0", "free", "", "", "drawn", "groups", boxes_from="annotation")
CLASSES = ("benign", "malignant", "normal")
BOX = (19.5, 9.5, 49.5, 29.5)
"""Of the bright rectangle: columns 20 to 49, rows 10 to 29."""
SHAPE = (48, 80)
"""Rows and columns."""
SPLITS = ("train", "train", "train", "val", "test", "test")
FOLDS = {"train": 2, "val": 1, "test": 0}


def write_pictures(folder: Path, count: int = 6) -> Path:
    """``count`` pictures with a bright rectangle on noise (every third has none), and their manifest's path.

    The second has no class, the third no mask and no boxes: what is unknown is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    samples = []
    for number in range(count):
        pixels = rng.integers(0, 120, (*SHAPE, 3), dtype=np.uint8)
        mask = np.zeros(SHAPE, np.uint8)
        image_class = CLASSES[number % 3]
        if image_class != "normal":
            mask[10:30, 20:50] = 255
            pixels[10:30, 20:50] += 100
        image, masked = folder / f"{number}.png", folder / f"{number}_mask.png"
        PILImage.fromarray(pixels).save(image)
        PILImage.fromarray(mask).save(masked)
        split = SPLITS[number % len(SPLITS)]
        known = number != 2
        samples.append(
            Sample(
                f"made/{number}",
                "made",
                f"made:{number}",
                image,
                split,
                FOLDS[split],
                masks=((masked,) if image_class != "normal" else ()) if known else None,
                boxes=((BOX,) if image_class != "normal" else ()) if known else None,
                image_class=None if number == 1 else image_class,
                values={"diameter_mm": 8.0 + number},
            )
        )
    write_manifest(Manifest((SOURCE,), tuple(samples)), folder / "manifest.json")
    return folder / "manifest.json"


def write_chests(folder: Path, count: int = 4, spacing_mm: tuple[float, float, float] = (4.0, 4.0, 5.0)) -> Path:
    """``count`` drawn chests with masks, boxes, a class and a measure of the first nodule, and their manifest's path.

    The second has no mask, class and measure, the third nothing but its class: what is unknown is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for number, split in zip(range(count), ("train", "train", "val", "test"), strict=False):
        phantom = draw_chest(number + 1, family="train", spacing_mm=spacing_mm)
        image, mask = folder / f"{number}.nii.gz", folder / f"{number}_mask.nii.gz"
        write_nifti(phantom.volume, image)
        write_nifti(Volume((phantom.lesion_map > 0)[None].astype(np.uint8), phantom.volume.geometry), mask)
        lesion = phantom.lesions[0]
        samples.append(
            Sample(
                f"made/{number}",
                "made",
                f"made:{number}",
                image,
                split,
                FOLDS[split],
                masks=None if number in (1, 2) else (mask,),
                boxes=None if number == 2 else tuple(tuple(map(float, one.box_index)) for one in phantom.lesions),
                image_class=None if number == 1 else "high_reader_suspicion",
                values={} if number in (1, 2) else {"diameter_mm": lesion.diameter_mm},
                centre_lps_mm=tuple(map(float, lesion.centre_lps_mm)),
            )
        )
    write_manifest(Manifest((SOURCE,), tuple(samples)), folder / "manifest.json")
    return folder / "manifest.json"
