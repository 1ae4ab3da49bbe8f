"""A few files of the real sets in their official layouts: enough to prepare, to train on for a moment and to score."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from mtnet.sources.folds import fold_of


def small_busi(root: Path, folder: Path, each: int = 2) -> Path:
    """``each`` images a class and fold, with their groups."""
    with (root / "groups.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    kept, counts = [], {}
    for row in rows:
        key = row["class"], fold_of(f"busi:{row['group']}")
        if row["label_conflict"] == "1" or row["n_masks"] != "1" or counts.get(key, 0) >= each:
            continue
        counts[key] = counts.get(key, 0) + 1
        kept.append(row)
        stem = Path(row["image"]).stem
        place = folder / row["class"]
        place.mkdir(parents=True, exist_ok=True)
        for file in (f"{stem}.png", f"{stem}_mask.png"):
            shutil.copy(root / row["class"] / file, place / file)
    _write(folder / "groups.csv", kept)
    return folder


def small_kvasir(root: Path, folder: Path, count: int = 24) -> Path:
    """The first images, masks and boxes."""
    names = sorted(path.stem for path in (root / "images").iterdir())[:count]
    _copy(root, folder, (f"{kind}/{name}.jpg" for kind in ("images", "masks") for name in names))
    boxes = json.loads((root / "kavsir_bboxes.json").read_text(encoding="utf-8"))
    (folder / "kavsir_bboxes.json").write_text(json.dumps({name: boxes[name] for name in names}), encoding="utf-8")
    return folder


def small_endotect(root: Path, folder: Path, count: int = 12) -> Path:
    """The first images with masks, and all frames without polyps."""
    for images, masks, number in (
        ("images", "masks", count),
        ("ulcerative-colitis_images", "ulcerative-colitis_masks", None),
    ):
        names = sorted(path.stem for path in (root / images).iterdir())[:number]
        _copy(root, folder, (f"{kind}/{n}.{end}" for kind, end in ((images, "jpg"), (masks, "png")) for n in names))
    return folder


def small_lidc(root: Path, folder: Path, count: int = 60) -> Path:
    """The first nodules and their rows."""
    with (root / "index.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:count]
    _copy(root, folder, (row["file"] for row in rows))
    _write(folder / "index.csv", rows)
    return folder


def _copy(root: Path, folder: Path, files: Iterable[str]) -> None:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, folder / name)


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
