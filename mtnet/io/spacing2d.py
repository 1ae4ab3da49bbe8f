"""How long a pixel of a 2D DICOM image is in the patient, and what says so."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mtnet.io.image2d import pixel_spacing_unknown
from mtnet.io.ultrasound import UltrasoundRegion, main_region, regions
from mtnet.structures.report import ReportLine

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_SAME_LENGTH = 1e-3


def spacing_2d(dataset: Dataset, where: str) -> tuple[tuple[float, float] | None, tuple[ReportLine, ...]]:
    """Spacing along i and j in mm, or ``None``, and the lines that say where it is from.

    Of an ultrasound image it is that of the main calibrated region; elsewhere, in this order, PixelSpacing (0028,0030)
    (PS3.3 10.7.1.3), ImagerPixelSpacing (0018,1164), which is measured at the detector, and
    NominalScannedPixelSpacing (0018,2010) of a digitised film.
    """
    found = regions(dataset)
    main = main_region(found)
    if main is not None:
        return main.spacing_mm, tuple(_region_lines(dataset, found, main, where))
    lines = []
    if dataset.get("SequenceOfUltrasoundRegions"):
        message = (
            "SequenceOfUltrasoundRegions (0018,6011) tells no spacing: its regions reach out of the image, are not 2D, "
            "or are not in cm."
        )
        lines.append(ReportLine("ultrasound_regions_unusable", "note", message, where))
    for keyword, tag in (
        ("PixelSpacing", "0028,0030"),
        ("ImagerPixelSpacing", "0018,1164"),
        ("NominalScannedPixelSpacing", "0018,2010"),
    ):
        spacing = _pair(dataset, keyword)
        if spacing is not None:
            message = f"The pixel size is {keyword} ({tag}){_meaning(dataset, keyword, spacing)}."
            return spacing, (*lines, ReportLine("pixel_spacing_source", "note", message, where))
    return None, (*lines, pixel_spacing_unknown(where), *_aspect(dataset, where))


def _region_lines(
    dataset: Dataset, found: tuple[UltrasoundRegion, ...], main: UltrasoundRegion, where: str
) -> list[ReportLine]:
    share = main.area / (int(dataset.Columns) * int(dataset.Rows))
    message = f"The pixel size is that of the ultrasound region that covers {share:.0%} of the image."
    lines = [ReportLine("pixel_spacing_source", "note", message, where)]
    spacing = main.spacing_mm or (0.0, 0.0)
    others = [region.spacing_mm for region in found if region is not main]
    if any(other is None or not _close(other, spacing) for other in others):
        message = "Other regions of the image have another scale, or none: measure in the main region only."
        lines.append(ReportLine("ultrasound_regions_differ", "note", message, where))
    stated = _pair(dataset, "PixelSpacing")
    if stated is not None and not _close(stated, spacing):
        message = "PixelSpacing (0028,0030) and the ultrasound region disagree; the region is taken."
        lines.append(ReportLine("pixel_spacing_differs", "note", message, where))
    return lines


def _close(one: tuple[float, float], two: tuple[float, float]) -> bool:
    return all(math.isclose(a, b, rel_tol=_SAME_LENGTH) for a, b in zip(one, two, strict=True))


def _meaning(dataset: Dataset, keyword: str, spacing: tuple[float, float]) -> str:
    if keyword == "NominalScannedPixelSpacing":
        return ", on the film that was digitised"
    if keyword == "ImagerPixelSpacing":
        return ", measured at the detector: things in the patient are smaller than it tells"
    kind = str(dataset.get("PixelSpacingCalibrationType") or "")
    if kind in ("GEOMETRY", "FIDUCIAL"):
        return f", calibrated by {kind.lower()}"
    detector = _pair(dataset, "ImagerPixelSpacing")
    if detector is not None and _close(detector, spacing):
        return ", which equals that at the detector: things in the patient are smaller than it tells"
    return ""


def _aspect(dataset: Dataset, where: str) -> list[ReportLine]:
    """PixelAspectRatio (0028,0034): height to width where no spacing is known."""
    ratio = _pair(dataset, "PixelAspectRatio")
    if ratio is None or math.isclose(*ratio):
        return []
    message = f"Pixels are {ratio[1]:g} to {ratio[0]:g}, height to width (PixelAspectRatio): the image is not square."
    return [ReportLine("pixel_aspect_ratio", "note", message, where)]


def _pair(dataset: Dataset, keyword: str) -> tuple[float, float] | None:
    """A tag of two values, row first, as (i, j); ``None`` unless both are numbers above 0."""
    try:
        down, across = (float(value) for value in dataset.get(keyword))
    except Exception:  # pydicom raises errors of many kinds for values that make no sense.
        return None
    return (across, down) if all(math.isfinite(v) and v > 0 for v in (across, down)) else None
