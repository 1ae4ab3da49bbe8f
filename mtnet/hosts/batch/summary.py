"""The table that ends a batch: a row a study or image, as Parquet and CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtnet.hosts.batch.ledger import Entry
from mtnet.hosts.batch.tasks import ItemOutcome
from mtnet.io.atomic import atomic_path

PARQUET, TABLE, PAGE = "summary.parquet", "summary.csv", "summary.html"
Row = dict[str, Any]

_TEXTS = ("id", "item", "state", "code", "message", "folder", "study_instance_uid", "series_instance_uid", "flags")


def check_extra() -> None:
    """Refuse to begin a night without what its end needs.

    Raises:
        ValueError: pyarrow is missing.
    """
    try:
        import pyarrow.parquet  # noqa: F401 - asked whether it is there
    except ImportError as error:
        raise ValueError(f"mtnet batch needs an extra ({error.name}): pip install 'mtnet[batch]'.") from None


def rows(entries: Iterable[Entry], out: Path) -> list[Row]:
    """A row for every item of every input, from the ledger and the findings.

    Columns beside those of every row: ``lesions``, ``best_score``, ``largest_diameter_mm``, ``lesion_volume_mm3``
    (together), ``probability.OUTPUT.CLASS``, ``measured.KEY``, ``error.KEY`` of the reconstruction, ``seconds.STAGE``
    and ``seconds`` (stages together), ``peak_memory_mib``.
    """
    found = []
    for entry in entries:
        outcome = entry.outcome
        tried = [item for item in outcome.items if item.number]
        for item in outcome.items:
            row: Row = {"id": outcome.id, "item": item.number, "state": item.state}
            row |= {"code": item.code, "message": item.message}
            if item.state == "answered":
                place = outcome.folder if len(tried) == 1 else f"{outcome.folder}/{item.number}"
                row |= {"folder": place, **_of_findings(out / "studies" / place / "findings.json")}
            found.append(row | _seconds(item))
    return sorted(found, key=lambda row: (row["id"], row["item"]))


def _seconds(item: ItemOutcome) -> Row:
    stages = {f"seconds.{stage}": round(seconds, 4) for stage, seconds in item.seconds.items()}
    return {**stages, "seconds": round(sum(item.seconds.values()), 4)} if stages else {}


def _of_findings(path: Path) -> Row:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    lesions, source = document["lesions"], document["source"]
    diameters = _values(lesions, "longest_axial_diameter_mm")
    volumes = _values(lesions, "volume_mm3")
    flags = {line["code"] for line in document["report"] if line["severity"] in ("flagged", "repaired")}
    row: Row = {
        "study_instance_uid": source["study_instance_uid"],
        "series_instance_uid": source["series_instance_uid"],
        "lesions": len(lesions),
        "best_score": max(_values(lesions, "score"), default=None),
        "largest_diameter_mm": max(diameters, default=None),
        "lesion_volume_mm3": sum(volumes) if volumes else None,
        "flags": " ".join(sorted(flags)),
        "peak_memory_mib": max((c["peak_memory_bytes"] / 2**20 for c in document["costs"]), default=None),
    }
    for answer in document["image_classes"]:
        row[f"probability.{answer['output']}.{answer['name']}"] = answer["probability"]
    row |= {f"measured.{key}": one["value"] for key, one in document.get("measured", {}).items()}
    return row | {f"error.{key}": value for key, value in document["reconstruction_error"].items()}


def _values(lesions: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [float(lesion[key]) for lesion in lesions if lesion.get(key) is not None]


def columns(table: Sequence[Row]) -> list[str]:
    """Every column of the rows, those of all rows first."""
    return list(dict.fromkeys([*_TEXTS, *sorted({key for row in table for key in row})]))


def write_parquet(table: Sequence[Row], path: Path) -> None:
    """Write the rows as Parquet; what a row lacks is null."""
    import pyarrow
    import pyarrow.parquet

    fields = []
    for name in columns(table):
        kind = pyarrow.string() if name in _TEXTS else pyarrow.float64()
        fields.append((name, pyarrow.int64() if name in ("item", "lesions") else kind))
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(table), pyarrow.schema(fields)), temporary)


def write_csv(table: Sequence[Row], path: Path) -> None:
    """Write the rows as CSV; what a row lacks is empty."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns(table))
        writer.writeheader()
        writer.writerows(table)
