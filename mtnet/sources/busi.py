"""BUSI, breast ultrasound: a folder a class, masks beside their images."""

from __future__ import annotations

import re
from pathlib import Path

from mtnet.io.image2d import PICTURE_SUFFIXES
from mtnet.sources.layout import (
    About,
    Found,
    Problem,
    Problems,
    drafts_of,
    files_by_stem,
    foreign_images,
    set_root,
    subfolder,
)
from mtnet.sources.pictures import draft_picture

CLASSES = ("benign", "malignant", "normal")
ABOUT = About(
    title="Breast Ultrasound Images (BUSI)",
    licence="LicenseRef-BUSI",
    terms="research_only",
    cite="Al-Dhabyani W, Gomaa M, Khaled H, Fahmy A. Dataset of breast ultrasound images. Data in Brief 2020;28: "
    "104863. On its faults: Pawłowska A, Karwat P, Żołek N. Data in Brief 2023;48:109247.",
    url="https://doi.org/10.1016/j.dib.2019.104863",
)
_MASK = re.compile(r"(?P<image>.+)_mask(_\d+)?")


def read(root: Path, problems: Problems) -> Found:
    """Read ``benign/``, ``malignant/`` and ``normal/``: ``x (n).png`` with ``x (n)_mask.png``, ``x (n)_mask_1.png``...

    The union of all masks of an image is its lesion area. A normal image has an empty mask.

    Raises:
        FileNotFoundError: none of the three folders is there.
    """
    root = set_root(root, lambda folder: subfolder(folder, *CLASSES) is not None, f"folders {', '.join(CLASSES)}.")
    problems += foreign_images(root, PICTURE_SUFFIXES)
    drafts = []
    for name in CLASSES:
        folder = subfolder(root, name)
        if folder is None:
            continue
        files = files_by_stem(folder, PICTURE_SUFFIXES, problems)
        masks: dict[str, list[Path]] = {}
        for stem, path in files.items():
            fits = _MASK.fullmatch(stem)
            if fits:
                masks.setdefault(fits["image"], []).append(path)
        images = {stem: path for stem, path in files.items() if not _MASK.fullmatch(stem)}
        for stem, path in images.items():
            if stem not in masks:
                problems.append(Problem(path, f"missing mask: expected {stem}_mask{path.suffix}"))
                continue
            drafts.append(draft_picture(stem, path, masks[stem], problems, boxes_of_components=True, image_class=name))
        problems += [
            Problem(path, f"a mask without its image {stem}")
            for stem in masks.keys() - images.keys()
            for path in masks[stem]
        ]
    return Found(root, ABOUT, drafts_of(drafts), boxes_from="mask_components")
