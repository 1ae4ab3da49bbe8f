"""From a path that holds studies to folders of results: the one way that the command line and bundles share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mtnet.cases import Case, Clip, Item, ReadOptions
from mtnet.clips import answer_clip
from mtnet.io.scan import scan
from mtnet.predictor import Predictor, Progress
from mtnet.results import SegKind, Written, clear_results, write_results
from mtnet.structures import Findings, RefusedError, ReportLine, Study


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """Which DICOM objects to write: the kind of SEG, and whether the overlay is captured for the archive. ``page`` is
    whether to write ``report.html`` too."""

    seg: SegKind = "binary"
    capture: bool = True
    page: bool = False


@dataclass(frozen=True, slots=True)
class StudyOutcome:
    """What became of one study: what was written into ``folder``, or why it was refused."""

    folder: Path
    written: Written | None
    refusal: tuple[ReportLine, ...] = ()


def answer_studies(
    predictor: Predictor,
    path: Path,
    out: Path,
    options: ReadOptions | None = None,
    progress: Progress | None = None,
    write: WriteOptions | None = None,
) -> Iterator[StudyOutcome]:
    """Answer every study under ``path``, or for a network of images every image and clip, one after the other, as each
    is asked for.

    One is written to ``out``; several to ``out/1``, ``out/2``... in the order of the scan. A study that is
    refused does not keep the others from being answered; results of an earlier run are removed from its folder, so
    that nobody takes them for its own.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        RefusedError: nothing there is a study.
        ValueError: ``out`` is a file, or lies in the input.
    """
    check_out(path, out)
    options = options or ReadOptions()
    write = write or WriteOptions()
    items = items_at(predictor, path, options)
    for number, item in enumerate(items, 1):
        folder = out if len(items) == 1 else out / str(number)
        case = read_or_refuse(predictor, item, options)
        try:
            if isinstance(case, Clip):
                written = answer_clip(
                    predictor, case, folder, seg=write.seg, capture=write.capture, page=write.page, progress=progress
                )
            elif isinstance(case, Case):
                findings = predictor.finish(case, predictor.infer(case, progress))
                written = write_case(findings, case, folder, write)
            else:
                clear_results(folder)
                yield StudyOutcome(folder, None, case)
                continue
        except RefusedError as refused:
            clear_results(folder)
            yield StudyOutcome(folder, None, refused.lines)
            continue
        yield StudyOutcome(folder, written)


def items_at(predictor: Predictor, path: Path, options: ReadOptions) -> list[Item]:
    """What there is to answer under ``path``: studies for a network of volumes, else images and clips.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        RefusedError: nothing there is a study.
    """
    studies = scan(path, options.limits)
    if options.series_uid is not None:
        studies = _with_series(studies, options.series_uid)
    return predictor.items(studies, options)


def write_case(findings: Findings, case: Case, folder: Path, options: WriteOptions) -> Written:
    """Write what was found in a study or image into its folder; raises as ``write_results``."""
    return write_results(
        findings,
        case.volume,
        folder,
        dicom_seg=options.seg,
        dicom_capture=options.capture,
        image=case.header,
        page=options.page,
        meter=case.meter,
    )


def check_out(path: Path, out: Path) -> None:
    """Refuse a place for results that a later run could not use or would read as input.

    Raises:
        ValueError: ``out`` is a file, or is the folder ``path`` or lies in it.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder to write the results to.")
    if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
        raise ValueError(
            f"OUT ({out}) lies in the input ({path}): a later run would read its own results. Give a folder elsewhere."
        )


def read_or_refuse(predictor: Predictor, item: Item, options: ReadOptions) -> Case | Clip | tuple[ReportLine, ...]:
    """One item, or the lines that refuse it."""
    try:
        return predictor.read_item(item, options)
    except RefusedError as refused:
        return refused.lines
    except (ValueError, MemoryError) as error:
        reason = "There is not enough memory for it." if isinstance(error, MemoryError) else str(error)
        return (ReportLine("cannot_be_assembled", "refused", f"The volume cannot be assembled: {reason}"),)


def _with_series(studies: tuple[Study, ...], series_uid: str) -> tuple[Study, ...]:
    """The studies that hold the series; all where none does, so that reading says which series there are."""
    return tuple(s for s in studies if any(one.series_instance_uid == series_uid for one in s.series)) or studies
