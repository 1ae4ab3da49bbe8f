"""Groups to folds, folds to splits."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

from mtnet.io.atomic import atomic_path
from mtnet.sources.manifest import SPLITS, Manifest, Split

FOLDS = 5
TEST_FOLD, VAL_FOLD = 0, 1


def fold_of(group: str) -> int:
    """The fold of a group ``<source>:<group>``: SHA-256 of its UTF-8 text, as a number, modulo 5."""
    return int(hashlib.sha256(group.encode()).hexdigest(), 16) % FOLDS


def split_of(fold: int) -> Split:
    """Fold 0 tests, fold 1 validates, the others train."""
    return "test" if fold == TEST_FOLD else "val" if fold == VAL_FOLD else "train"


def read_groups(path: Path) -> dict[str, dict[str, str]]:
    """The rows of a ``groups.csv`` by their ``image``, a path relative to the file's folder.

    Raises:
        ValueError: the columns ``image`` and ``group`` are not there, or an image stands twice.
    """
    return {row["image"]: row for row in _rows(path, ("image", "group"), "image")}


def read_split_list(path: Path) -> dict[str, Split]:
    """Splits by sample id, from a CSV with the columns ``id`` and ``split`` (as ``write_split_list`` writes it).

    Raises:
        FileNotFoundError: there is no file.
        ValueError: a column is not there, an id stands twice, or a split has another name.
    """
    found: dict[str, Split] = {}
    for row in _rows(path, ("id", "split"), "id"):
        if row["split"] not in SPLITS:
            raise ValueError(
                f"{path.name}: the split of {row['id']} is {row['split']!r}; expected {', '.join(SPLITS)}."
            )
        found[row["id"]] = row["split"]
    return found


def write_split_list(manifest: Manifest, path: Path) -> None:
    """Write id, group, fold, split and flags of every sample as CSV: a split without pixels and paths."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("id", "group", "fold", "split", "flags"))
        writer.writerows((s.id, s.group, s.fold, s.split, " ".join(s.flags)) for s in manifest.samples)


def conflicting(groups: Sequence[str], classes: Sequence[str | None]) -> set[str]:
    """Groups whose images stand in several classes."""
    seen: dict[str, set[str]] = {}
    for group, name in zip(groups, classes, strict=True):
        if name is not None:
            seen.setdefault(group, set()).add(name)
    return {group for group, names in seen.items() if len(names) > 1}


def _rows(path: Path, columns: Sequence[str], key: str) -> list[dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path.name} has no column {', '.join(missing)}; expected {', '.join(columns)}.")
        rows = list(reader)
    seen: set[str] = set()
    for row in rows:
        if row[key] in seen:
            raise ValueError(f"{path.name} names {row[key]} twice.")
        seen.add(row[key])
    return rows
