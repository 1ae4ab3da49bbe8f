"""The places that a network of points is asked about: given, of an earlier run's lesions, or the middle of a crop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtnet.results import read_findings_json
from mtnet.structures import Geometry, Point, RefusedError, ReportLine, Source, Study

_WHAT_TO_DO = "Give places with --at x,y,z (LPS mm), or the findings.json of an earlier run with --lesions."
# A field that reaches out by less is one that ends at the faces of the outermost voxels.
_ROUNDING_MM = 0.05


@dataclass(frozen=True, slots=True)
class Points:
    """Places that were asked about.

    Args:
        places: in the order in which they are answered.
        of_lesions: whether they are the lesions of an earlier run.
        study_instance_uid, series_instance_uid: in which that run found them; empty where it was no DICOM.
    """

    places: tuple[Point, ...]
    of_lesions: bool = False
    study_instance_uid: str = ""
    series_instance_uid: str = ""


def points_at(places_lps_mm: Iterable[Sequence[float]]) -> Points:
    """Places (x, y, z) in LPS mm.

    Raises:
        ValueError: one is not three finite numbers, or there is none.
    """
    places = tuple(Point((x, y, z)) for x, y, z in map(_three, places_lps_mm))
    if not places:
        raise ValueError("No place was given; expected one or more of x,y,z in LPS mm.")
    return Points(places)


def points_of_findings(path: Path) -> Points:
    """The centres of the lesions in a ``findings.json``, with their tracking UIDs.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no ``findings.json``, or one of a single image or clip.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give the findings.json of an earlier run (--lesions).")
    found = read_findings_json(path)
    if found.plane is not None:
        raise ValueError(f"{path.name} tells of an image, whose lesions have no place in a patient; give a volume's.")
    places = tuple(Point(lesion.centre_lps_mm, lesion.tracking_uid) for lesion in found.lesions)
    return Points(places, True, found.source.study_instance_uid, found.source.series_instance_uid)


def asked(at_lps_mm: Sequence[Sequence[float]] | None, lesions: Path | None) -> Points | None:
    """What a user asked for: places, or the lesions of an earlier run, or neither.

    Raises:
        FileNotFoundError: there is no such file of findings.
        ValueError: both are given, or one is not what ``points_at`` or ``points_of_findings`` take.
    """
    if at_lps_mm and lesions is not None:
        raise ValueError("--at and --lesions are both given; give one.")
    if lesions is not None:
        return points_of_findings(lesions)
    return points_at(at_lps_mm) if at_lps_mm else None


def placed(
    points: Points | None,
    geometry: Geometry,
    source: Source,
    field_mm: tuple[float, float, float],
    largest_crop_mm: float,
) -> tuple[tuple[Point, ...], tuple[ReportLine, ...]]:
    """The places in one volume, each inside it.

    Args:
        points: what was asked; None is the middle of a crop.
        geometry: of the volume.
        source: where it came from.
        field_mm: what the network sees around a place, along x, y and z.
        largest_crop_mm: a volume that is longer than this along an axis is no crop.

    Returns:
        The places, and lines on fields that reach out of the volume and on lesions of another series.

    Raises:
        RefusedError: no place is given and the volume is no crop, an earlier run's lesions are of another study or
            none, or a place lies outside.
    """
    sides_mm = np.array(geometry.shape) * geometry.spacing_mm
    if points is None:
        if sides_mm.max() > largest_crop_mm:
            message = (
                f"The image is {_times(sides_mm)} mm large, so nothing tells where in it the network is to look: only "
                f"of a crop of at most {largest_crop_mm:g} mm is the middle taken. {_WHAT_TO_DO}"
            )
            raise RefusedError([ReportLine("no_place_given", "refused", message, "image")])
        middle = geometry.index_to_lps_mm((np.array(geometry.shape) - 1) / 2)
        places: tuple[Point, ...] = (Point((float(middle[0]), float(middle[1]), float(middle[2]))),)
        told = "No place was given; the middle of the crop is taken."
        lines = [ReportLine("middle_of_crop", "note", told, "image")]
    else:
        places, lines = points.places, list(_owner_lines(points, source))
        if not places:
            message = "The earlier run found no lesion, so there is none to measure."
            raise RefusedError([ReportLine("no_lesions_given", "refused", message, "--lesions")])
    outside = [(n, p) for n, p in enumerate(places, 1) if not _inside(geometry, p)]
    if outside:
        raise RefusedError([_outside_line(geometry, n, point) for n, point in outside])
    return places, (*lines, *_field_lines(geometry, places, field_mm))


def one_study(studies: Sequence[Study], points: Points) -> list[Study]:
    """The one study that the places lie in: that of the lesions, or the only one.

    Raises:
        RefusedError: there are several, and nothing tells which.
    """
    uid = points.study_instance_uid
    owners = [study for study in studies if uid and study.study_instance_uid == uid] or list(studies)
    if len(owners) > 1:
        message = f"The input holds {len(owners)} studies, and places lie in one. Give the folder or file of that one."
        raise RefusedError([ReportLine("several_studies", "refused", message, "--at")])
    return owners


def _owner_lines(points: Points, source: Source) -> Iterable[ReportLine]:
    """Whether the lesions belong to this image."""
    if not points.of_lesions:
        return
    if points.study_instance_uid and source.study_instance_uid:
        if points.study_instance_uid != source.study_instance_uid:
            message = "The lesions were found in another study. Give the findings.json of this one."
            raise RefusedError([ReportLine("lesions_of_another_study", "refused", message, "--lesions")])
        if points.series_instance_uid != source.series_instance_uid:
            message = "The lesions were found in another series of the study; the patient may have moved between them."
            yield ReportLine("lesions_of_another_series", "flagged", message, "--lesions")
    else:
        message = "Nothing tells whether the lesions were found in this image: one of the two is no DICOM study."
        yield ReportLine("lesions_not_matched", "note", message, "--lesions")


def _inside(geometry: Geometry, point: Point) -> bool:
    index = geometry.lps_mm_to_index(point.lps_mm)
    return bool(((index >= -0.5) & (index <= np.array(geometry.shape) - 0.5)).all())


def _outside_line(geometry: Geometry, number: int, point: Point) -> ReportLine:
    box = geometry.box_index_to_lps_mm([-0.5, -0.5, -0.5, *(n - 0.5 for n in geometry.shape)])
    spans = ", ".join(
        f"{name} {low:.1f} to {high:.1f}" for name, low, high in zip("xyz", box[:3], box[3:], strict=True)
    )
    place = ", ".join(f"{value:.1f}" for value in point.lps_mm)
    message = f"Place {number} ({place}) lies outside of the image, which spans {spans} mm (LPS: left, back, up)."
    return ReportLine("place_outside", "refused", message, "--at")


def _field_lines(
    geometry: Geometry, places: Sequence[Point], field_mm: tuple[float, float, float]
) -> Iterable[ReportLine]:
    half = np.array(field_mm) / 2
    limit = np.array(geometry.shape) - 0.5
    for number, point in enumerate(places, 1):
        centre = np.array(point.lps_mm)
        corners = centre + np.stack(np.meshgrid(*([-1, 1],) * 3, indexing="ij"), -1).reshape(-1, 3) * half
        index = geometry.lps_mm_to_index(corners)
        beyond = np.maximum(-0.5 - index.min(axis=0), index.max(axis=0) - limit) * geometry.spacing_mm
        if beyond.max() > _ROUNDING_MM:
            message = (
                f"The field of {_times(field_mm)} mm around place {number} reaches {beyond.max():.1f} mm out of the "
                "image, whose last voxels are repeated there."
            )
            yield ReportLine("field_reaches_outside", "flagged", message, "image")


def _times(values: Iterable[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def _three(place: Sequence[float]) -> Sequence[float]:
    if isinstance(place, str) or len(place) != 3:
        raise ValueError(f"A place is {place!r}; expected three numbers, x, y, z in LPS mm.")
    return place
