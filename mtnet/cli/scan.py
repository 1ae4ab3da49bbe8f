"""``mtnet scan``: what a folder, an archive or a file holds."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtnet.cli.terminal import plain

if TYPE_CHECKING:
    from mtnet.structures.report import ReportLine
    from mtnet.structures.study import Series, Study

_COLUMNS = ("No.", "Kind", "Modality", "Kernel", "Columns x rows x slices", "Spacing (mm)", "Files")


def add_parser(commands: Any) -> None:
    """Add the command to an argparse sub-parser collection."""
    parser = commands.add_parser(
        "scan",
        help="list studies and series with every finding about them",
        description="List the studies and series of a folder, a zip archive or a file. Reads headers only; shows no "
        "patient names, identifiers or dates.",
        epilog="Example: mtnet scan STUDY --json. Exit codes: 0 done, 1 nothing readable was found, 2 wrong usage.",
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="folder (nested, any file names), zip archive or file")
    parser.add_argument("--json", action="store_true", help="write JSON for programs")
    parser.add_argument(
        "--descriptions",
        action="store_true",
        help="show series descriptions too; they are free text and may hold names",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Scan ``args.path`` and print what was found.

    Raises:
        FileNotFoundError: there is nothing at the path.
        RefusedError: nothing readable was found (with ``--json``, the reasons are printed and 1 is returned).
    """
    from mtnet.io.scan import scan
    from mtnet.structures.report import RefusedError

    try:
        studies = scan(args.path)
    except RefusedError as error:
        if not args.json:
            raise
        print(json.dumps({"studies": [], "findings": [_line_json(item) for item in error.lines]}, indent=2))
        return 1
    if args.json:
        print(json.dumps({"studies": [_study_json(s, args.descriptions) for s in studies]}, indent=2))
    else:
        for number, study in enumerate(studies, 1):
            print("\n".join(_study_text(number, study, args.descriptions)))
    return 0


def _study_json(study: Study, descriptions: bool) -> dict[str, Any]:
    return {
        "study_instance_uid": study.study_instance_uid,
        "image_file": study.image_path.name if study.image_path else None,
        "image_kind": study.image_kind,
        "image_shape": study.image_shape,
        "findings": [_line_json(item) for item in study.report],
        "series": [_series_json(series, descriptions) for series in study.series],
    }


def _series_json(series: Series, descriptions: bool) -> dict[str, Any]:
    described = {"description": series.description} if descriptions else {}
    return {
        "series_instance_uid": series.series_instance_uid,
        "number": series.number,
        "kind": series.kind,
        "modality": series.modality,
        "kernel": series.kernel,
        **described,
        "shape": series.shape,
        "spacing_mm": series.spacing_mm,
        "files": series.files,
        "findings": [_line_json(item) for item in _findings(series)],
        "stacks": [
            {
                "kind": stack.kind,
                "shape": stack.shape,
                "spacing_mm": stack.spacing_mm,
                "files": stack.files,
                "findings": [_line_json(item) for item in stack.report],
            }
            for stack in series.stacks
        ],
    }


def _findings(series: Series) -> list[ReportLine]:
    """Findings of the series and of each of its stacks."""
    return [*series.report, *(item for stack in series.stacks for item in stack.report)]


def _line_json(item: ReportLine) -> dict[str, str]:
    return {"code": item.code, "severity": item.severity, "message": item.message, "where": item.where}


def _study_text(number: int, study: Study, descriptions: bool) -> Iterator[str]:
    name = _image_file_text(study) if study.image_path else study.study_instance_uid
    yield f"Study {number}: {plain(name)}"
    yield from _finding_text(study.report, "  ")
    if not study.series:
        return
    rows = [_COLUMNS, *(_row(series) for series in study.series)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    yield _aligned(rows[0], widths)
    for series, row in zip(study.series, rows[1:], strict=True):
        yield _aligned(row, widths)
        yield f"      {plain(series.series_instance_uid)}"
        if descriptions and series.description:
            yield f"      {plain(series.description)}"
        yield from _finding_text(_findings(series), "      ")
    yield ""


def _image_file_text(study: Study) -> str:
    shape = " x ".join(map(str, study.image_shape or ()))
    described = ", ".join(text for text in (study.image_kind, shape) if text)
    return f"image file {study.image_path.name if study.image_path else ''} ({described})"


def _row(series: Series) -> tuple[str, ...]:
    spacing = " x ".join("?" if step is None else f"{step:.4g}" for step in series.spacing_mm)
    values = (
        "-" if series.number is None else str(series.number),
        series.kind.replace("_", " "),
        series.modality or "-",
        series.kernel or "-",
        " x ".join(map(str, series.shape)) if series.shape else "-",
        spacing if any(series.spacing_mm) else "-",
        str(series.files),
    )
    return tuple(plain(value) for value in values)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  " + "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip()


def _finding_text(lines: Iterable[ReportLine], indent: str) -> Iterator[str]:
    for item in lines:
        where = f" [{plain(item.where)}]" if item.where else ""
        yield f"{indent}{item.severity}: {plain(item.message)}{where} ({item.code})"
