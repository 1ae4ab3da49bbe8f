"""A user's own images: one documented layout for pictures and volumes."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

from mtnet.io.image2d import PICTURE_SUFFIXES
from mtnet.sources.layout import (
    VOLUME_SUFFIXES,
    About,
    Draft,
    Found,
    Problem,
    Problems,
    files_by_stem,
    foreign_images,
    set_root,
    subfolder,
    visible,
)
from mtnet.sources.manifest import SPLITS, Numbers, Split
from mtnet.sources.pairs import MASK_ENDINGS
from mtnet.sources.pictures import draft_picture
from mtnet.sources.volumes import draft_volume

ABOUT = About(title="A folder of images", licence="LicenseRef-unknown", terms="unknown")
OFFICIAL = ("labels",)
_SUFFIXES = (*VOLUME_SUFFIXES, *PICTURE_SUFFIXES)
_NO_MASK = "missing mask: expected one of the same stem in masks, or 'empty' or 'unknown' in labels.csv"
_TOLD = ("image", "class", "group", "split", "masks")


@dataclass(frozen=True, slots=True)
class _Row:
    """What ``labels.csv`` says of an image; ``masks`` is ``files``, ``empty`` or ``unknown``."""

    image_class: str | None
    group: str | None
    split: Split | None
    masks: str
    values: Mapping[str, float]


def read(root: Path, problems: Problems, split_by: str = "groups") -> Found:
    """Read a user's folder.

    - ``images/`` holds pictures or volumes; a folder in it names the class of what lies in that.
    - ``masks/`` (may be missing) holds, in the same folders, files of the same stem, or with ``_mask``, ``_mask_1``...
      behind it; all masks of an image count together.
    - ``labels.csv`` (may be missing): ``image`` (path below ``images/``), and any of ``class``, ``group``, ``split``,
      ``masks`` (``empty`` or ``unknown`` for an image that needs no mask file) and columns of numbers.
    - ``boxes.csv`` (may be missing): ``image,i_low,j_low,i_high,j_high``, of volumes with ``k_low`` and ``k_high``;
      half-open in index space. An image without a row has no boxes.

    Args:
        root: the folder.
        problems: what is wrong goes here.
        split_by: ``labels`` to take the column ``split`` of ``labels.csv``, else ``groups``.

    Raises:
        FileNotFoundError: there is no ``images/``.
        ValueError: a table lacks a column or holds what is no number.
    """
    root = set_root(root, lambda folder: subfolder(folder, "images") is not None, "a folder images.")
    images, masks = subfolder(root, "images"), subfolder(root, "masks")
    assert images is not None  # set_root has seen it.
    problems += foreign_images(root, _SUFFIXES)
    rows = _read_labels(root / "labels.csv")
    boxes = _read_boxes(root / "boxes.csv")
    drafts: list[Draft] = []
    named: set[str] = set()
    for folder in [images, *(entry for entry in visible(images) if entry.is_dir())]:
        inside = "" if folder == images else f"{folder.name}/"
        ignored: list[Problem] = []
        files = files_by_stem(folder, _SUFFIXES, ignored)
        problems += [p for p in ignored if folder != images or not p.file.is_dir()]
        mask_folder = masks if folder == images or masks is None else subfolder(masks, folder.name)
        by_image = _masks(mask_folder, files, problems) if mask_folder else {}
        for stem, path in files.items():
            key = f"{inside}{path.name}"
            named.add(key)
            row = rows.get(key, _Row(folder.name if inside else None, None, None, "files", {}))
            found = by_image.get(stem)
            if found is None and masks is not None and row.masks == "files":
                problems.append(Problem(path, _NO_MASK))
                continue
            known = None if row.masks == "unknown" else () if row.masks == "empty" else found
            draft = _draft(f"{inside}{stem}", path, known, row, None if boxes is None else boxes.get(key, ()), problems)
            if draft is not None:
                drafts.append(
                    replace(draft, group=row.group or draft.group, official=row.split if split_by == "labels" else None)
                )
    for table, keys in (("labels.csv", rows), ("boxes.csv", boxes or {})):
        problems += [Problem(images / key, f"missing: {table} names it") for key in keys if key not in named]
    return Found(root, ABOUT, tuple(drafts), boxes_from="annotation" if boxes is not None else "mask_components")


def _draft(
    name: str,
    path: Path,
    masks: Sequence[Path] | None,
    row: _Row,
    boxes: Sequence[Numbers] | None,
    problems: Problems,
) -> Draft | None:
    if path.name.lower().endswith(VOLUME_SUFFIXES):
        return draft_volume(
            name,
            path,
            masks,
            problems,
            boxes=boxes,
            image_class=row.image_class,
            values=row.values,
        )
    return draft_picture(
        name,
        path,
        masks,
        problems,
        boxes=boxes,
        boxes_of_components=True,
        image_class=row.image_class,
        values=row.values,
    )


def _masks(folder: Path, images: Mapping[str, Path], problems: Problems) -> dict[str, list[Path]]:
    """The masks of a folder by the stem of their image."""
    ignored: list[Problem] = []
    found: dict[str, list[Path]] = {}
    for stem, path in files_by_stem(folder, _SUFFIXES, ignored).items():
        image = _image_of(stem, images)
        if image is None:
            problems.append(Problem(path, "a mask without its image"))
        else:
            found.setdefault(image, []).append(path)
    problems += [p for p in ignored if not p.file.is_dir()]
    return found


def _image_of(stem: str, images: Mapping[str, Path]) -> str | None:
    """The image that a mask belongs to: ``x``, ``x_mask`` or ``x_mask_1`` to ``x``."""
    if stem in images:
        return stem
    head, _, number = stem.rpartition("_")
    base = head if number.isdigit() else stem
    return next(
        (base.removesuffix(e) for e in MASK_ENDINGS if base.endswith(e) and base.removesuffix(e) in images), None
    )


def _read_labels(path: Path) -> dict[str, _Row]:
    if not path.is_file():
        return {}
    found: dict[str, _Row] = {}
    for number, row in _csv(path, ("image",)):
        split, masks = row.get("split") or None, row.get("masks") or "files"
        if split is not None and split not in SPLITS:
            raise ValueError(f"labels.csv, line {number}: split is {split!r}; expected {', '.join(SPLITS)}.")
        if masks not in ("files", "empty", "unknown"):
            raise ValueError(f"labels.csv, line {number}: masks is {masks!r}; expected empty, unknown or nothing.")
        values = {
            key: _number(value, f"labels.csv, line {number}, {key}")
            for key, value in row.items()
            if key not in _TOLD and value
        }
        if not row["image"]:
            raise ValueError(f"labels.csv, line {number}: names no image.")
        if row["image"] in found:
            raise ValueError(f"labels.csv, line {number}: {row['image']} stands there twice.")
        found[row["image"]] = _Row(
            row.get("class") or _class_of(row["image"]),
            row.get("group") or None,
            split,
            masks,
            values,
        )
    return found


def _class_of(image: str) -> str | None:
    folder, _, _ = image.rpartition("/")
    return folder or None


def _read_boxes(path: Path) -> dict[str, tuple[Numbers, ...]] | None:
    if not path.is_file():
        return None
    found: dict[str, tuple[Numbers, ...]] = {}
    plane = ("i_low", "j_low", "i_high", "j_high")
    space = ("i_low", "j_low", "k_low", "i_high", "j_high", "k_high")
    for number, row in _csv(path, ("image", *plane)):
        sides = space if row.get("k_low") else plane
        box = tuple(_number(row[side], f"boxes.csv, line {number}, {side}") for side in sides)
        found[row["image"]] = (*found.get(row["image"], ()), box)
    return found


def _csv(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path.name} has no column {', '.join(missing)}.")
        return list(enumerate(reader, start=2))


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = float("nan")
    if not isfinite(value):
        raise ValueError(f"{where}: expected a number, found {text!r}.")
    return value
