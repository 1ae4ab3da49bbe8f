"""LUNA16: whole CT scans as ``.mhd``, with annotated nodules, excluded findings and candidates in tables."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtnet.sources.layout import About, Draft, Found, Problem, Problems, set_root, visible
from mtnet.sources.manifest import Numbers, Split
from mtnet.structures.geometry import Geometry

ABOUT = About(
    title="LUNA16",
    licence="CC-BY-4.0",
    terms="free",
    cite="Setio AAA, Traverso A, de Bel T, et al. Validation, comparison, and combination of algorithms for automatic "
    "detection of pulmonary nodules in computed tomography images: the LUNA16 challenge. Med Image Anal 2017;42:1-13.",
    url="https://luna16.grand-challenge.org",
)
OFFICIAL = ("official",)
_SUBSET = re.compile(r"subset(\d)", re.IGNORECASE)
_CANDIDATES = ("candidates_V2.csv", "candidates.csv")
_NO_DIAMETER_MM = 10.0
"""What the challenge's evaluation takes for a finding whose diameter is below 0, that is not told."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A nodule, an excluded finding or a candidate of one scan: its centre in LPS mm, and what the table adds.

    ``number`` is ``diameter_mm`` of annotations and ``class`` (1: a nodule) of candidates.
    """

    centre_lps_mm: tuple[float, float, float]
    number: float


def read(root: Path, problems: Problems, split_by: str = "groups") -> Found:
    """Read ``subset0/`` to ``subset9/`` (any that are there), ``annotations.csv`` and what lies beside it.

    Boxes are cubes around the annotated centre with the annotated diameter as side. Findings of
    ``annotations_excluded.csv`` count neither as hit nor as false alarm. A table of candidates is named in
    ``Source.files`` and read by ``read_findings``. The files do not tell patients: the group is the scan, except where
    ``groups.csv`` has it.

    Args:
        root: the set's folder.
        problems: what is wrong goes here.
        split_by: ``official`` for the challenge's ten subsets as folds (0 tests, 1 validates), else ``groups``.

    Raises:
        FileNotFoundError: there are no subsets, or no ``annotations.csv``.
        ValueError: a table lacks a column.
    """
    root = set_root(root, lambda folder: bool(_subsets(folder)), "folders subset0 to subset9 with .mhd files.")
    annotations = _table(root, "annotations.csv")
    if annotations is None:
        raise FileNotFoundError(f"There is no annotations.csv under {root}.")
    nodules = read_findings(annotations)
    excluded_table = _table(root, "annotations_excluded.csv")
    excluded = read_findings(excluded_table) if excluded_table else {}
    candidates = next((path for path in (_table(root, name) for name in _CANDIDATES) if path), None)
    drafts: list[Draft] = []
    for folder, number in _subsets(root):
        for path in visible(folder):
            if path.suffix.lower() in (".raw", ".zraw") and path.with_suffix(".mhd").is_file():
                continue
            if path.suffix.lower() != ".mhd":
                problems.append(Problem(path, "foreign file: expected .mhd and its .raw"))
                continue
            problems.looked()
            geometry = _geometry(path, problems)
            if geometry is None:
                continue
            boxes = _cubes(nodules.get(path.stem, ()), geometry)
            official = split_by == "official"
            drafts.append(
                Draft(
                    name=path.stem,
                    image=path,
                    boxes=boxes,
                    boxes_lps_mm=tuple(_rounded(geometry.box_index_to_lps_mm(box)) for box in boxes),
                    excluded_boxes=_cubes(excluded.get(path.stem, ()), geometry),
                    values={"nodules": float(len(boxes))},
                    group=path.stem,
                    official=_split(number) if official else None,
                    official_fold=number if official else None,
                )
            )
    return Found(
        root,
        ABOUT,
        tuple(drafts),
        boxes_from="annotation",
        grouped_by="scan",
        files={"candidates": candidates} if candidates else {},
    )


def read_findings(path: Path) -> dict[str, list[Finding]]:
    """The rows of ``annotations.csv``, ``annotations_excluded.csv`` or ``candidates.csv`` by series.

    Raises:
        ValueError: a column is not there or holds no number.
    """
    found: dict[str, list[Finding]] = {}
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        columns = reader.fieldnames or ()
        last = "diameter_mm" if "diameter_mm" in columns else "class"
        missing = [name for name in ("seriesuid", "coordX", "coordY", "coordZ", last) if name not in columns]
        if missing:
            raise ValueError(f"{path.name} has no column {', '.join(missing)}.")
        for number, row in enumerate(reader, start=2):
            try:
                centre = float(row["coordX"]), float(row["coordY"]), float(row["coordZ"])
                found.setdefault(row["seriesuid"], []).append(Finding(centre, float(row[last])))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path.name}, line {number}: expected numbers in coordX to {last}.") from error
    return found


def _subsets(folder: Path) -> list[tuple[Path, int]]:
    fits = ((entry, _SUBSET.fullmatch(entry.name)) for entry in visible(folder) if entry.is_dir())
    return [(entry, int(fit[1])) for entry, fit in fits if fit]


def _table(root: Path, name: str) -> Path | None:
    return next(iter(sorted(root.rglob(name), key=lambda path: len(path.parts))), None)


def _split(subset: int) -> Split:
    return "test" if subset == 0 else "val" if subset == 1 else "train"


def _geometry(path: Path, problems: list[Problem]) -> Geometry | None:
    """The grid that the header tells; the file of its pixels has to have the right size."""
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        geometry = Geometry.from_parts(
            reader.GetSize(), reader.GetSpacing(), reader.GetOrigin(), np.asarray(reader.GetDirection())
        )
        data = _data_file(path)
        if data.suffix.lower() == ".raw":
            expected = int(np.prod(geometry.shape)) * _item_bytes(reader)
            if data.stat().st_size != expected:
                problems.append(Problem(data, f"{data.stat().st_size} bytes; its header asks for {expected}"))
                return None
    except FileNotFoundError:
        problems.append(Problem(path, "missing: the file of its pixels is not there"))
        return None
    except (RuntimeError, ValueError, OSError) as error:
        problems.append(Problem(path, f"unreadable header ({type(error).__name__})"))
        return None
    return geometry


def _data_file(path: Path) -> Path:
    for line in path.read_text(encoding="latin-1").splitlines():
        key, _, value = line.partition("=")
        if key.strip().lower() == "elementdatafile":
            data = path.parent / Path(value.strip()).name
            if data.is_file():
                return data
    raise FileNotFoundError(path)


def _item_bytes(reader: Any) -> int:
    import SimpleITK

    return int(SimpleITK.Image([1, 1, 1], reader.GetPixelID()).GetSizeOfPixelComponent())


def _cubes(findings: Sequence[Finding], geometry: Geometry) -> tuple[Numbers, ...]:
    """The half-open boxes, in index space, of cubes around the findings."""
    boxes = []
    for finding in findings:
        side = finding.number if finding.number > 0 else _NO_DIAMETER_MM
        centre = geometry.lps_mm_to_index(finding.centre_lps_mm)
        reach = side / 2 / np.asarray(geometry.spacing_mm)
        boxes.append(_rounded(np.concatenate([centre - reach, centre + reach])))
    return tuple(boxes)


def _rounded(box: Any) -> Numbers:
    return tuple(round(float(v), 4) for v in box)
