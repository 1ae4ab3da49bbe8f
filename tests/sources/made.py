"""Small image sets in the layouts of the large ones, drawn for tests."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (40, 30)  # columns, rows


def picture(path, seed=0, size=SIZE, mode="RGB"):
    """Smooth noise, so that two seeds do not look alike and a copy does."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), "RGB")
    coarse.resize(size, Image.Resampling.BICUBIC).convert(mode).save(path)
    return path


def mask(path, *boxes, size=SIZE, mode="L", top=255, **options):
    """Rectangles (columns low, rows low, columns high, rows high; the high ones not in it) on black."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((size[1], size[0]), dtype=np.uint8)
    for i_low, j_low, i_high, j_high in boxes:
        values[j_low:j_high, i_low:i_high] = top
    image = Image.fromarray(values, "L")
    if mode == "RGBA":
        image = Image.merge("RGBA", (image, image, image, Image.new("L", size, 255)))
    elif mode != "L":
        image = image.convert(mode)
    image.save(path, **options)
    return path


def rectangle(size, *boxes):
    """What ``mask`` draws, as ``(i, j)``."""
    values = np.zeros(size, dtype=bool)
    for i_low, j_low, i_high, j_high in boxes:
        values[i_low:i_high, j_low:j_high] = True
    return values


def volume(path, array, spacing=(0.7, 0.8, 2.5), origin=(-100.0, -80.0, 50.0)):
    """An array ``(i, j, k)`` as NIfTI or MetaImage, written by SimpleITK; world LPS."""
    import SimpleITK

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(np.asarray(array).transpose(2, 1, 0)))
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    SimpleITK.WriteImage(image, str(path))
    return path


def busi(root, seed=0):
    """Two benign (one with two masks, one of them RGBA), one malignant, one normal."""
    picture(root / "benign" / "benign (1).png", seed + 1, mode="L")
    mask(root / "benign" / "benign (1)_mask.png", (5, 5, 12, 10), mode="1")
    mask(root / "benign" / "benign (1)_mask_1.png", (20, 15, 30, 25), mode="RGBA")
    picture(root / "benign" / "benign (10).png", seed + 2, mode="L")
    mask(root / "benign" / "benign (10)_mask.png", (3, 3, 9, 9))
    picture(root / "malignant" / "malignant (1).png", seed + 3, mode="L")
    mask(root / "malignant" / "malignant (1)_mask.png", (8, 8, 20, 20))
    picture(root / "normal" / "normal (1).png", seed + 4, mode="L")
    mask(root / "normal" / "normal (1)_mask.png")
    return root


def polyps(root, count=3, seed=0, images="images", masks="masks", image_suffix=".jpg", mask_suffix=".png"):
    """``count`` images with one polyp each; JPEG masks have grey values."""
    for n in range(count):
        picture(root / images / f"{n}{image_suffix}", seed + n)
        mask(root / masks / f"{n}{mask_suffix}", (8, 8, 24, 20))
    return root
