"""Listing the studies and series of an input, from headers only."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mtnet.io.files import FileEntry, Listing, Opener, list_files
from mtnet.io.headers import Header, read_header
from mtnet.io.image2d import PICTURE_SUFFIXES
from mtnet.io.image_studies import image_file_study
from mtnet.io.limits import Limits
from mtnet.io.stacks import split_stacks
from mtnet.io.verdicts import line
from mtnet.io.video import VIDEO_SUFFIXES
from mtnet.structures.report import InputReport, RefusedError, ReportLine
from mtnet.structures.study import Series, Study

IMAGE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
"""Image formats beside DICOM that ``load`` reads, by file name."""

_DEFAULT_LIMITS = Limits()


def scan(path: Path, limits: Limits = _DEFAULT_LIMITS) -> tuple[Study, ...]:
    """List the studies under ``path``: a folder (nested, any names, foreign files among them), a zip, or one file.

    Headers only are read; where two files claim one position, their bytes are compared. A file that cannot be read is a
    line in the report of every study of the input, for it may belong to any. Findings carry the severity of the default
    mode (``mtnet.io.verdicts.judge`` gives another's); a refused line of a study is about the file that it names.
    Image files of other formats are listed, a study each, where the input holds no DICOM: volumes, else 2D images and
    videos.

    Args:
        path: folder, zip archive or file.
        limits: what the input may cost.

    Returns:
        the studies in order of their UIDs, their series by number and UID.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        RefusedError: no study was found, or a limit is passed.
    """
    path = Path(path)
    listing = list_files(path, limits)
    with Opener() as opener:
        headers, lines, foreign = _read_headers(listing, opener, limits)
        studies = _studies(headers, opener)
    images = list(_image_files(foreign))
    archives = [entry for entry in foreign if entry.suffixes == ".zip"]
    lines += [line("archive_not_opened", entry.where) for entry in archives]
    if not studies and images:
        lines += _foreign_lines(len(foreign) - len(images) - len(archives))
        return tuple(image_file_study(entry.path, lines, limits) for entry in images)
    lines += _foreign_lines(len(foreign) - len(archives))
    if not studies:
        raise RefusedError([line("nothing_found", path.name, files=len(listing.entries)), *lines])
    if len(studies) > 1:
        lines.append(line("several_studies", count=len(studies)))
    return tuple(
        Study(study.study_instance_uid, study.series, report=InputReport((*lines, *study.report))) for study in studies
    )


def _image_files(foreign: Sequence[FileEntry]) -> Iterator[FileEntry]:
    """The volumes among files that are no DICOM; where there are none, the 2D images and videos."""
    files = [entry for entry in foreign if entry.member is None]
    volumes = [entry for entry in files if entry.suffixes in IMAGE_SUFFIXES]
    yield from volumes or (entry for entry in files if entry.suffixes in (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES))


def _foreign_lines(count: int) -> list[ReportLine]:
    return [line("foreign_files", count=count)] if count else []


def _read_headers(
    listing: Listing, opener: Opener, limits: Limits
) -> tuple[list[Header], list[ReportLine], list[FileEntry]]:
    headers: list[Header] = []
    lines = list(listing.lines)
    foreign: list[FileEntry] = []
    for entry in listing.entries:
        found = read_header(entry, opener, limits)
        if found is None:
            foreign.append(entry)
        elif isinstance(found, ReportLine):
            if found not in lines:  # Media carry one directory file a folder, all of one name.
                lines.append(found)
        else:
            headers += found.frames or (found,)
    return headers, lines, foreign


def _studies(headers: Sequence[Header], opener: Opener) -> list[Study]:
    by_series: dict[tuple[str, str], list[Header]] = defaultdict(list)
    for header in headers:
        by_series[header.study_instance_uid, header.series_instance_uid].append(header)
    appearances = Counter(series_uid for _, series_uid in by_series)
    by_study: dict[str, list[Series]] = defaultdict(list)
    for (study_uid, series_uid), group in by_series.items():
        shared = [line("series_in_two_studies", series_uid)] if appearances[series_uid] > 1 else []
        by_study[study_uid].append(_series(group, opener, shared))
    studies = []
    for uid, found in sorted(by_study.items()):
        series = sorted(found, key=lambda s: (s.number is None, s.number or 0, s.series_instance_uid))
        notes = [line("several_series", count=len(series))] if len(series) > 1 else []
        studies.append(Study(uid, tuple(series), report=InputReport(tuple(notes))))
    return studies


def _series(group: Sequence[Header], opener: Opener, lines: Iterable[ReportLine]) -> Series:
    split = split_stacks(group, opener)
    chosen = {id(instance) for instance in split.stacks[0].instances}
    first = next(header for header in group if id(header.instance) in chosen)
    return Series(
        series_instance_uid=first.series_instance_uid,
        study_instance_uid=first.study_instance_uid,
        number=first.series_number,
        modality=first.instance.modality,
        kind=split.stacks[0].kind,
        kernel=first.kernel,
        description=first.description,
        body_part=first.body_part,
        manufacturer=first.manufacturer,
        stacks=split.stacks,
        report=InputReport((*lines, *split.lines)),
    )
