"""From any path to one volume or 2D image: scan, select, load."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mtnet.io.dicom_images import IMAGE_KINDS
from mtnet.io.image_files import load_image_file
from mtnet.io.image_studies import open_dicom_image, open_image_file
from mtnet.io.limits import Limits
from mtnet.io.load import load
from mtnet.io.scan import scan
from mtnet.io.select import CHEST_CT_RULE, Selection, SeriesRule, select
from mtnet.io.verdicts import line, mode_of
from mtnet.structures.findings import SeriesChoice
from mtnet.structures.image import Image
from mtnet.structures.report import InputReport, RefusedError, ReportLine
from mtnet.structures.study import Series, Stack, Study
from mtnet.structures.volume import Volume

_DEFAULT_LIMITS = Limits()
_GAP_CODES = frozenset(
    {"missing_slices", "missing_slices_wide_gap", "variable_spacing", "variable_spacing_wide_gap", "single_slice"}
)


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A volume, and the selection that it was read by: ``None`` for an image file that is no DICOM."""

    volume: Volume
    selection: Selection | None

    @property
    def choices(self) -> tuple[SeriesChoice, ...]:
        """Why each series was taken or passed over."""
        return self.selection.choices if self.selection else ()


def read_volume(
    path: Path,
    *,
    rule: SeriesRule = CHEST_CT_RULE,
    series_uid: str | None = None,
    strict: bool = False,
    repair: bool = False,
    limits: Limits = _DEFAULT_LIMITS,
) -> Reading:
    """Read the one volume that the rule chooses from a DICOM folder or zip, or an image file.

    Args:
        path: DICOM folder, zip or file; NIfTI, NRRD or MetaImage file, or a folder that holds one such file.
        rule: which series suits, and which is best.
        series_uid: take this series whatever the rule says.
        strict: refuse what would be repaired.
        repair: mend what is refused by default and can be mended.
        limits: what the input may cost.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        RefusedError: nothing there can be read right, or it holds several image files.
    """
    studies = scan(Path(path), limits)
    return _volume_of(studies, Path(path), rule, series_uid, strict=strict, repair=repair, limits=limits)


def read_volume_or_image(
    path: Path,
    *,
    rule: SeriesRule = CHEST_CT_RULE,
    series_uid: str | None = None,
    strict: bool = False,
    repair: bool = False,
    limits: Limits = _DEFAULT_LIMITS,
) -> Reading | Image:
    """Read the volume that the rule chooses; where the input holds no volume, the one 2D image in it.

    Args:
        path: as ``read_volume``; also a PNG, JPEG, TIFF or BMP file, or a DICOM file, folder or zip of one 2D image.
        rule: which series of volumes suits, and which is best.
        series_uid: take this series whatever the rule says, of images too.
        strict: refuse what would be repaired.
        repair: mend what is refused by default and can be mended.
        limits: what the input may cost.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        RefusedError: as ``read_volume``; ``several_images`` or ``several_frames`` where there is no one image.
    """
    studies = scan(Path(path), limits)
    mode = mode_of(strict=strict, repair=repair)
    asked = [
        (study, series, stack)
        for study in studies
        for series in study.series
        for stack in series.stacks
        if series_uid in (None, series.series_instance_uid)
    ]
    files = [study for study in studies if study.image_kind in IMAGE_KINDS]
    objects = [(*place, instance) for place in asked if place[2].kind in IMAGE_KINDS for instance in place[2].instances]
    if any(stack.kind == "volume" for _, _, stack in asked) or not (files or objects):
        return _volume_of(studies, Path(path), rule, series_uid, strict=strict, repair=repair, limits=limits)
    if len(files) + len(objects) > 1:
        message = f"The input holds {len(files) + len(objects)} images; give one of them."
        raise RefusedError([ReportLine("several_images", "refused", message, Path(path).name)])
    image = files[0].image_path if files else None
    found = open_dicom_image(*objects[0], mode, limits) if image is None else open_image_file(image, mode, limits)
    if isinstance(found, Image):
        return found
    message = "The input holds several frames; give one image. mtnet convert writes each frame as one."
    raise RefusedError([ReportLine("several_frames", "refused", message, Path(path).name)])


def _volume_of(
    studies: tuple[Study, ...],
    path: Path,
    rule: SeriesRule,
    series_uid: str | None,
    *,
    strict: bool,
    repair: bool,
    limits: Limits,
) -> Reading:
    """The volume that the rule chooses from what was scanned at ``path``."""
    images = [study.image_path for study in studies if study.image_path is not None]
    if len(images) > 1:
        message = f"The folder holds {len(images)} image files; give one of them."
        raise RefusedError([ReportLine("several_image_files", "refused", message, path.name)])
    if images:
        volume = load_image_file(images[0], strict=strict, repair=repair, limits=limits)
        if not volume.modality:
            assumed = line("modality_assumed", images[0].name, modality=" or ".join(rule.modalities))
            volume = replace(volume, report=volume.report.plus([assumed]))
        return Reading(volume, None)
    selection = select(studies, rule, series_uid, mode_of(strict=strict, repair=repair))
    study = next(one for one in studies if selection.series in one.series)
    volume = load_from_study(study, selection.series, selection.stack, strict=strict, repair=repair, limits=limits)
    return Reading(volume, selection)


def load_from_study(
    study: Study,
    series: Series,
    stack: Stack,
    *,
    strict: bool = False,
    repair: bool = False,
    limits: Limits = _DEFAULT_LIMITS,
) -> Volume:
    """``load``, with what the scan noticed about the whole input taken into account.

    The study's lines stand first in the volume's report. A file that could not be read might be a slice of this stack:
    where slices are missing from it, the stack is refused and the file named; elsewhere it is a note.

    Raises:
        RefusedError: as ``load``, and for such a file.
    """
    lost = study.report.refusals
    if lost and _GAP_CODES.intersection(stack.report.codes):
        gaps = (item for item in stack.report if item.code in _GAP_CODES and item.severity != "refused")
        raise RefusedError((*stack.report.refusals, *lost, *gaps))
    volume = load(stack, series, strict=strict, repair=repair, limits=limits)
    noted = (replace(item, severity="note") if item.severity == "refused" else item for item in study.report)
    return replace(volume, report=InputReport(tuple(noted)).plus(volume.report))
