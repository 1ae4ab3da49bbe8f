"""``mtnet convert``: every usable volume of an input as NIfTI, every 2D image as PNG, with what was noticed."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtnet.cli.convert_images import cine_files, earlier_outputs, image_files, remove
from mtnet.cli.terminal import plain

if TYPE_CHECKING:
    from mtnet.io.dicom_images import DicomFrames
    from mtnet.io.video import Video
    from mtnet.structures.image import Image
    from mtnet.structures.report import ReportLine
    from mtnet.structures.study import Instance, Series, Stack, Study
    from mtnet.structures.volume import Volume

SUMMARY = "convert.json"
_WRITTEN_BY = "mtnet convert"
_KINDS = ("volume", "image", "cine")


@dataclass(frozen=True, slots=True)
class _Source:
    """One thing to convert: a stack of a series, one 2D object of it, or an image file (then all are ``None``)."""

    study: Study
    series: Series | None = None
    stack: Stack | None = None
    stack_number: int = 0
    instance: Instance | None = None


def add_parser(commands: Any) -> None:
    """Add the command to an argparse sub-parser collection."""
    parser = commands.add_parser(
        "convert",
        help="write every usable volume of an input as NIfTI, every 2D image as PNG",
        description="Write each usable volume of a DICOM folder or zip, or of NIfTI, NRRD and MetaImage files, as "
        "volume-<k>.nii.gz; each 2D image as image-<k>.png without loss (image-<k>.tif where values are negative or no "
        "whole numbers); each cine or video as the folder cine-<k> of numbered frames. A report with geometry and "
        f"every repair stands beside each as <name>.json. {SUMMARY} lists every series and image with its file or the "
        "reason why there is none, and is written last. CT values are HU, never clipped; images are never windowed.",
        epilog="Example: mtnet convert STUDY OUT. Exit codes: 0 at least one file was written, 1 all were refused, "
        "2 wrong usage.",
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="folder (nested, any file names), zip archive or file")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write to; made where it does not exist")
    parser.add_argument("--series", metavar="UID", help="convert this series only")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--strict", action="store_true", help="refuse what would be repaired")
    mode.add_argument("--repair", action="store_true", help="mend also what is refused by default and can be mended")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Convert ``args.path`` into ``args.out`` and print a line for each volume, image, cine and refusal.

    Raises:
        FileNotFoundError: there is nothing at the path.
        RefusedError: nothing readable was found, or the series that was asked for is not there.
        ValueError: ``OUT`` is the input, a file, or holds volumes that this command did not write.
    """
    from mtnet.io.scan import scan
    from mtnet.structures.report import RefusedError

    if not args.path.exists():
        raise FileNotFoundError(f"There is nothing at {args.path}. Give a folder, a zip archive or an image file.")
    _prepare(args.path, args.out)
    mode = "strict" if args.strict else "repair" if args.repair else "default"
    try:
        studies = scan(args.path)
        sources = [source for study in studies for source in _sources(study) if _asked_for(source, args.series)]
        if args.series and not sources:
            _refuse_series(studies, args.series)
    except RefusedError as error:
        _write_json(args.out / SUMMARY, _summary(mode, [], [], error.lines))
        raise
    entries: list[dict[str, Any]] = []
    written: Counter[str] = Counter()
    for source in sources:
        entry = _convert(source, args, written)
        entries.append(entry)
        for text in _text(entry):
            print(plain(text))
    findings = [(study.study_instance_uid, item) for study in studies for item in study.report]
    _write_json(args.out / SUMMARY, _summary(mode, entries, findings, ()))
    print(f"{written.total()} of {len(entries)} written to {args.out}.")
    return 0 if written else 1


def _prepare(path: Path, out: Path) -> None:
    """Make the folder, and clear it of what an earlier run left, whole or not. Foreign files stay."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; expected a folder to write to.")
    if out.exists() and path.exists() and out.resolve() == path.resolve():
        raise ValueError(
            "OUT is the input itself; give another folder, so that a later run does not read its own files."
        )
    out.mkdir(parents=True, exist_ok=True)
    stale = [out / SUMMARY] if (out / SUMMARY).exists() else []
    for volume in sorted(out.glob("volume-*.nii.gz")):
        report = volume.with_name(volume.name.removesuffix(".nii.gz") + ".json")
        if not report.exists() or not _is_ours(report):
            raise ValueError(f"{volume} was not written by mtnet convert; give an empty or another folder.")
        stale += [volume]
    for found in earlier_outputs(out):
        report = found.with_name(f"{found.name.removesuffix(found.suffix)}.json")
        if not report.exists() or not _is_ours(report):
            raise ValueError(f"{found} was not written by mtnet convert; give an empty or another folder.")
        stale += [found]
    stale += sorted(file for kind in _KINDS for file in out.glob(f"{kind}-*.json"))
    foreign = [file for file in stale if file.suffix == ".json" and not _is_ours(file)]
    if foreign:
        raise ValueError(f"{foreign[0]} was not written by mtnet convert; give an empty or another folder.")
    # The summary goes first: while it is there, the folder is complete. Volumes go before the reports that name them.
    for file in [*stale, *(file for kind in (*_KINDS, "convert") for file in out.glob(f".{kind}*.tmp-*"))]:
        remove(file)


def _is_ours(file: Path) -> bool:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("written_by") == _WRITTEN_BY


def _sources(study: Study) -> Iterator[_Source]:
    from mtnet.io.dicom_images import IMAGE_KINDS

    if study.image_path is not None:
        yield _Source(study)
    for series in study.series:
        for number, stack in enumerate(series.stacks):
            if stack.kind in IMAGE_KINDS:
                yield from (_Source(study, series, stack, number, instance) for instance in stack.instances)
            else:
                yield _Source(study, series, stack, number)


def _asked_for(source: _Source, series_uid: str | None) -> bool:
    return series_uid is None or (source.series is not None and source.series.series_instance_uid == series_uid)


def _refuse_series(studies: Iterable[Study], series_uid: str) -> None:
    from mtnet.io.verdicts import line
    from mtnet.structures.report import RefusedError

    there = [series.series_instance_uid for study in studies for series in study.series]
    raise RefusedError([line("series_not_found", uid=series_uid, known=", ".join(there) or "none")])


def _convert(source: _Source, args: argparse.Namespace, written: Counter[str]) -> dict[str, Any]:
    """Read one source and write its files, counted in ``written`` by kind; the summary's entry."""
    from mtnet.structures.report import RefusedError, ReportLine

    entry: dict[str, Any] = {**_described(source), "file": None, "report": None, "refusals": []}
    try:
        found = _read(source, args)
        kind = _kind_of(found)
        name = f"{kind}-{written[kind]}"
        with _files(found, args.out, name) as content:
            report = {"written_by": _WRITTEN_BY, **_described(source), **content, "report": _lines(found.report)}
            _write_json(args.out / f"{name}.json", report)
    except RefusedError as error:
        return {**entry, "refusals": _lines(error.lines)}
    except (ValueError, MemoryError) as error:
        reason = str(error) if isinstance(error, ValueError) else "there is not enough memory for it."
        refusal = ReportLine("cannot_be_assembled", "refused", f"It cannot be assembled: {reason}")
        return {**entry, "refusals": _lines([refusal])}
    written[kind] += 1
    frames = {"frames": len(content["frames"])} if "frames" in content else {}
    return {**entry, **content, **frames, "report": f"{name}.json"}


def _kind_of(found: Volume | Image | DicomFrames | Video) -> str:
    from mtnet.structures.image import Image
    from mtnet.structures.volume import Volume

    return "volume" if isinstance(found, Volume) else "image" if isinstance(found, Image) else "cine"


@contextmanager
def _files(found: Volume | Image | DicomFrames | Video, out: Path, name: str) -> Iterator[dict[str, Any]]:
    """Give what the report says of the file or folder, which is there when the block has ended.

    The report is to be written in the block: a file without one would be taken for somebody else's.
    """
    from mtnet.io.nifti_out import write_nifti
    from mtnet.structures.image import Image
    from mtnet.structures.volume import Volume

    if isinstance(found, Volume):
        yield {"file": f"{name}.nii.gz", **_grid(found)}
        write_nifti(found, out / f"{name}.nii.gz")
        return
    with image_files(found, out, name) if isinstance(found, Image) else cine_files(found, out, name) as content:
        yield content


def _read(source: _Source, args: argparse.Namespace) -> Volume | Image | DicomFrames | Video:
    from mtnet.io.image_files import load_image_file
    from mtnet.io.image_studies import open_dicom_image, open_image_file
    from mtnet.io.read import load_from_study
    from mtnet.io.verdicts import mode_of

    mode = mode_of(strict=args.strict, repair=args.repair)
    study, series, stack = source.study, source.series, source.stack
    if series is not None and stack is not None:
        if source.instance is not None:
            return open_dicom_image(study, series, stack, source.instance, mode)
        return load_from_study(study, series, stack, strict=args.strict, repair=args.repair)
    if study.image_path is None:
        raise ValueError("the study holds neither a stack nor an image file.")
    if study.image_kind != "volume":
        return open_image_file(study.image_path, mode)
    return load_image_file(study.image_path, strict=args.strict, repair=args.repair)


def _described(source: _Source) -> dict[str, Any]:
    image = source.study.image_path
    series, stack = source.series, source.stack
    if series is None or stack is None:
        return {
            "image_file": image.name if image else None,
            "series_instance_uid": None,
            "kind": source.study.image_kind,
        }
    one = {"sop_instance_uid": source.instance.sop_instance_uid} if source.instance else {}
    return {
        "study_instance_uid": source.study.study_instance_uid,
        "series_instance_uid": series.series_instance_uid,
        "series_number": series.number,
        "stack": source.stack_number,
        "kind": stack.kind,
        "modality": series.modality,
        "kernel": series.kernel,
        "source_files": 1 if one else stack.files,
        **one,
    }


def _grid(volume: Volume) -> dict[str, Any]:
    return {
        "shape": volume.geometry.shape,
        "spacing_mm": volume.geometry.spacing_mm,
        "affine_lps": volume.geometry.affine_lps.tolist(),
        "value_type": volume.array.dtype.name,
        "repaired": any(item.severity == "repaired" for item in volume.report),
    }


def _summary(
    mode: str,
    entries: list[dict[str, Any]],
    findings: Iterable[tuple[str, ReportLine]],
    refusals: Iterable[ReportLine],
) -> dict[str, Any]:
    from mtnet import __version__

    return {
        "written_by": _WRITTEN_BY,
        "version": __version__,
        "mode": mode,
        "series": entries,
        "findings": [{"study_instance_uid": uid, **asdict(item)} for uid, item in findings],
        "refusals": _lines(refusals),
    }


def _lines(lines: Iterable[ReportLine]) -> list[dict[str, str]]:
    return [asdict(item) for item in lines]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    from mtnet.io.atomic import atomic_path

    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _text(entry: dict[str, Any]) -> Iterator[str]:
    name = entry["series_instance_uid"] or entry["image_file"]
    if entry["file"]:
        shape = " x ".join(map(str, entry["shape"]))
        spacing = " x ".join(f"{step:.4g}" for step in entry["spacing_mm"] or ())
        size = f" of {spacing} mm" if spacing else " of unknown size"
        frames = f"{entry['frames']} frames, " if "frames" in entry else ""
        unit = "voxels" if len(entry["shape"]) == 3 else "pixels"
        repaired = ", repaired (see its report)" if entry["repaired"] else ""
        yield f"{entry['file']}: {name}, {frames}{shape} {unit}{size}{repaired}"
        return
    yield f"not converted: {name}, {entry['kind'].replace('_', ' ')}"
    for item in entry["refusals"]:
        where = f" [{item['where']}]" if item["where"] else ""
        yield f"  {item['message']}{where} ({item['code']})"
