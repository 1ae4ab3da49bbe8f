"""What an annotator told of an image beside its mask: boxes, a class and values, in a JSON file next to the label.

``labels/final/<image>.json`` in MONAI Label's datastore, with or without a mask of the same name beside it:

- ``boxes_lps_mm``: rows of three lows and three highs in LPS mm; or ``boxes_index``: rows of lows and highs in voxel
  index of the image, where voxel ``i`` covers ``[i - 0.5, i + 0.5)`` (of a picture column and row: four numbers); or
  ``markups``, ROI boxes as 3D Slicer writes them. An empty list says that there is nothing.
- ``class``: of the image, by its name.
- ``at_lps_mm`` and values such as ``diameter_mm``, for a network of points.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtnet.hosts.label.markups import boxes_of_markups
from mtnet.io.read import read_volume_or_image
from mtnet.structures import Geometry, Image, OutputSpec
from mtnet.training.samples import CLASS

MASKS = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".tif", ".tiff", ".bmp")
"""Endings of files that can be a mask, the likeliest first."""
SIDE = ".json"

_AT = "at_lps_mm"
_BOXES = ("boxes_lps_mm", "boxes_index", "markups")


def labelled_items(datalist: Sequence[Mapping[str, str]], specs: Sequence[OutputSpec]) -> list[dict[str, Any]]:
    """Items to train on (``mtnet.training.samples_of``) of what was saved as final.

    A label that is neither mask nor side file, such as a DICOM SEG that the network made itself, teaches nothing and is
    left out.

    Args:
        datalist: ``image`` and ``label`` paths, as MONAI Label's datastores list them.
        specs: outputs of the network that is to learn.

    Raises:
        ValueError: a side file is not what is described above, or tells what the network cannot learn.
        RefusedError: an image whose grid a box needs cannot be read.
    """
    items = []
    for entry in datalist:
        label = Path(entry["label"])
        stem = _stem(label)
        mask = next((path for end in MASKS if (path := label.with_name(stem + end)).is_file()), None)
        side = label.with_name(stem + SIDE)
        item: dict[str, Any] = {"image": entry["image"]}
        if mask is not None:
            item["label"] = str(mask)
        if side.is_file():
            item |= read_side_file(side, Path(entry["image"]), specs)
            if _AT in item:
                # A place that was told is not to be guessed from a drawing.
                item.pop("label", None)
        if len(item) > 1:
            items.append(item)
    return items


def read_side_file(path: Path, image: Path, specs: Sequence[OutputSpec]) -> dict[str, Any]:
    """What a side file says, as keys of an item to train on.

    Args:
        path: of the side file.
        image: that it is about; read only where a box is told in mm.
        specs: outputs of the network.

    Raises:
        ValueError: it is not what is described above, or tells what the network cannot learn.
        RefusedError: the image's grid is needed, and the image cannot be read.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path.name} is no valid JSON: {error}") from None
    if not isinstance(told, dict):
        raise ValueError(f"{path.name} holds a {type(told).__name__}; expected an object.")
    told.pop("@schema", None)
    item: dict[str, Any] = {}
    given = [key for key in _BOXES if key in told]
    if len(given) > 1:
        raise ValueError(f"{path.name} tells boxes by {' and '.join(given)}; expected one of them.")
    if given:
        if not _learns_boxes(specs):
            raise ValueError(f"{path.name} tells boxes; this network learns none.")
        item["boxes"] = _boxes(given[0], told.pop(given[0]), image, path.name)
    if CLASS in told:
        item[CLASS] = _class(told.pop(CLASS), specs, path.name)
    values = [key for spec in specs if spec.kind == "global" and not spec.labels
              for key in (spec.name, f"{spec.name}_{spec.units}")]  # fmt: skip
    for key in [key for key in (_AT, *values) if key in told]:
        if key == _AT and not values:
            raise ValueError(f"{path.name} tells a place; this network looks at whole images.")
        item[key] = _numbers(told.pop(key), 3 if key == _AT else 0, key, path.name)
    if told:
        known = ", ".join([*_BOXES, CLASS, *([_AT, *values] if values else [])])
        raise ValueError(f"{path.name} has the key(s) {', '.join(sorted(told))}; expected some of {known}.")
    return item


def _stem(label: Path) -> str:
    return next((label.name.removesuffix(end) for end in (*MASKS, SIDE) if label.name.endswith(end)), label.stem)


def _learns_boxes(specs: Sequence[OutputSpec]) -> bool:
    return any(spec.kind == "boxes" for spec in specs)


def _class(name: Any, specs: Sequence[OutputSpec], file: str) -> str:
    """The class, where a network learns one that a person can tell: whether there is a lesion, its boxes tell."""
    known = [
        label.name for spec in specs if spec.kind == "global" and spec.activation == "softmax" for label in spec.labels
    ]
    if name not in known:
        expected = f"one of {', '.join(known)}" if known else "none: this network learns no class of an image by name"
        raise ValueError(f"{file} has class {name!r}; expected {expected}.")
    return str(name)


def _boxes(key: str, rows: Any, image: Path, file: str) -> list[list[float]]:
    if not isinstance(rows, list):
        raise ValueError(f"{file} has {key} {rows!r}; expected a list.")
    geometry, axes = _grid(image)
    if key == "markups":
        try:
            boxes = boxes_of_markups(rows, geometry)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
    else:
        sides = 2 * axes if key == "boxes_index" else 6
        boxes = np.array([_numbers(row, sides, key, file) for row in rows], dtype=np.float64).reshape(-1, sides)
        if not (boxes[:, : sides // 2] < boxes[:, sides // 2 :]).all():
            raise ValueError(f"{file} has a box in {key} whose lows are not below its highs.")
        if key == "boxes_lps_mm":
            world = Geometry((1, 1, 1), np.eye(4))
            boxes = world.box_index_to(geometry, boxes) if len(boxes) else boxes
    half = boxes.shape[1] // 2
    flat: list[list[float]] = np.concatenate([boxes[:, :axes], boxes[:, half : half + axes]], axis=1).tolist()
    return flat


def _grid(image: Path) -> tuple[Geometry, int]:
    """Grid of an image, and how many axes an item of it has."""
    read = read_volume_or_image(image)
    return (read.geometry, 2) if isinstance(read, Image) else (read.volume.geometry, 3)


def _numbers(value: Any, count: int, key: str, file: str) -> Any:
    """A number, or a tuple of ``count`` of them."""
    row = value if isinstance(value, list) else [value]
    good = all(isinstance(one, (int, float)) and np.isfinite(one) for one in row)
    if not good or isinstance(value, list) != bool(count) or len(row) != max(count, 1):
        raise ValueError(f"{file} has {key} {value!r}; expected {f'{count} numbers' if count else 'a number'}.")
    return tuple(float(one) for one in row) if count else float(row[0])
