"""Kvasir-SEG, polyps: ``images/``, ``masks/`` and ``kavsir_bboxes.json`` (the spelling is official)."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from mtnet.io.image2d import PICTURE_SUFFIXES, describe_picture
from mtnet.sources.layout import About, Draft, Found, Problem, Problems, drafts_of, foreign_images, set_root, subfolder
from mtnet.sources.manifest import Numbers
from mtnet.sources.pairs import pairs
from mtnet.sources.pictures import draft_picture

ABOUT = About(
    title="Kvasir-SEG",
    licence="LicenseRef-Kvasir-SEG",
    terms="research_only",
    cite="Jha D, Smedsrud PH, Riegler MA, Halvorsen P, de Lange T, Johansen D, Johansen HD. Kvasir-SEG: A segmented "
    "polyp dataset. MMM 2020, 451-462.",
    url="https://doi.org/10.1007/978-3-030-37734-2_37",
)
OFFICIAL = ("880_120",)
_BOXES = ("kavsir_bboxes.json", "kvasir_bboxes.json")


def read(root: Path, problems: Problems, split_by: str = "groups") -> Found:
    """Read images, masks and, where the JSON is there, its boxes; else boxes are the components of the masks.

    The JSON's corners are taken as edges of pixels: xmin 0 is the image's left edge, -0.5 in index space.

    Args:
        root: the set's folder.
        problems: what is wrong goes here.
        split_by: ``880_120`` for the authors' split (its 120 images test; the others are folded by group into train and
            val).

    Raises:
        FileNotFoundError: ``images/`` or ``masks/`` is not there.
    """
    root = set_root(root, _fits, "folders images and masks.")
    images, masks = subfolder(root, "images"), subfolder(root, "masks")
    assert images is not None  # _fits has seen it.
    problems += foreign_images(root, PICTURE_SUFFIXES)
    told_in = next((root / name for name in _BOXES if (root / name).is_file()), None)
    told = _read_boxes(told_in, problems) if told_in else None
    drafts: list[Draft | None] = []
    for stem, image, mask in pairs(images, masks, PICTURE_SUFFIXES, problems):
        boxes = None
        if told is not None and told_in is not None:
            entry = told.get(stem)
            reason = f"{told_in.name} has no boxes of it" if entry is None else _misfit(entry, image)
            if entry is None or reason:
                problems.append(Problem(image, reason))
                continue
            boxes = _boxes(entry)
        drafts.append(
            draft_picture(stem, image, [mask] if mask else [], problems, boxes=boxes, boxes_of_components=told is None)
        )
    kept = drafts_of(drafts)
    if split_by == "880_120":
        test = _test_names()
        kept = tuple(replace(draft, official="test" if draft.name in test else None) for draft in kept)
    return Found(root, ABOUT, kept, boxes_from="annotation" if told is not None else "mask_components")


def _fits(folder: Path) -> bool:
    return subfolder(folder, "images") is not None and subfolder(folder, "masks") is not None


def _read_boxes(path: Path, problems: list[Problem]) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        problems.append(Problem(path, f"unreadable: no JSON ({type(error).__name__})"))
        return None
    if not isinstance(document, dict):
        problems.append(Problem(path, "expected an object of image names"))
        return None
    return document


def _misfit(entry: Any, image: Path) -> str:
    """What is wrong with an image's entry of the JSON; empty where nothing is."""
    try:
        size = int(entry["width"]), int(entry["height"])
        _boxes(entry)
    except (KeyError, TypeError, ValueError):
        return "its entry of the JSON is broken: expected height, width and bbox with xmin, ymin, xmax, ymax"
    try:
        shape, _ = describe_picture(image)
    except (ValueError, OSError):
        return ""  # Reading it will say what is wrong.
    return "" if size == shape else f"size mismatch: {shape[0]} x {shape[1]}, in the JSON {size[0]} x {size[1]}"


def _boxes(entry: Any) -> list[Numbers]:
    return [
        (float(b["xmin"]) - 0.5, float(b["ymin"]) - 0.5, float(b["xmax"]) - 0.5, float(b["ymax"]) - 0.5)
        for b in entry["bbox"]
    ]


def _test_names() -> frozenset[str]:
    text = resources.files("mtnet.sources").joinpath("splits", "kvasir_seg_880_120_test.txt").read_text("utf-8")
    return frozenset(line for line in text.splitlines() if line and not line.startswith("#"))
