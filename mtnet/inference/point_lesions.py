"""From what a network says of places to lesions there, with a ball of the measured diameter drawn for a mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtnet.inference.decode import hashed_uid
from mtnet.inference.measured import decode_measured
from mtnet.structures import Geometry, Label, Lesion, Measured, OutputSpec, Point, ReportLine, Volume

DIAMETER = "diameter_mm"
"""Key of the measured value that is drawn."""

_NO_CLASS = (Label(1, "lesion", (255, 196, 0)),)


@dataclass(frozen=True, slots=True, eq=False)
class PointLesions:
    """The same words as in ``Findings``."""

    lesions: tuple[Lesion, ...]
    labels: tuple[Label, ...]
    label_map: Volume | None
    lesion_map: Volume | None
    lines: tuple[ReportLine, ...]


@dataclass(frozen=True, slots=True)
class _Said:
    """What the network said of one place."""

    classes: Mapping[str, Mapping[str, float]]
    best: int
    measured: Mapping[str, Measured]


def lesions_at(
    places: Sequence[Point],
    answers: Sequence[Mapping[str, ArrayLike]],
    specs: Sequence[OutputSpec],
    geometry: Geometry,
    uid_seed: str,
) -> PointLesions:
    """One lesion a place, in their order.

    Its centre is the place, its label the likeliest class of the first output that has classes. A measured diameter
    gives its box, and in both maps the voxels whose centres lie in the ball: in the label map the number of the class,
    from 1. Where no voxel's centre does, the voxel at the place is drawn. A voxel of two balls belongs to the first.
    Nothing is measured on what was drawn. Without a diameter there are no masks, and a box is the voxel at its place.

    Args:
        places: inside of the grid.
        answers: of each, by output, activated; see ``mtnet.inference.plan.Outputs.global_``.
        specs: the network's outputs, all global.
        geometry: grid of the answers.
        uid_seed: what identifies source, model and options; with a lesion's content it makes the tracking UID of a
            place that has none.
    """
    said = [_said(answer, specs) for answer in answers]
    labels = place_labels(specs)
    drawn = all(DIAMETER in one.measured for one in said)
    label_map = np.zeros((1, *geometry.shape), np.uint8) if drawn else None
    lesion_map = np.zeros((1, *geometry.shape), np.uint16) if drawn else None
    lines: list[ReportLine] = []
    lesions = []
    for number, (place, one) in enumerate(zip(places, said, strict=True), 1):
        radius_mm = one.measured[DIAMETER].value / 2 if drawn else 0.0
        label = labels[one.best]
        voxels = 0
        if label_map is not None and lesion_map is not None:
            block, free = _free_ball(place, radius_mm, geometry, lesion_map[0])
            lesion_map[0][block][free], label_map[0][block][free] = number, label.value
            voxels = int(np.count_nonzero(free))
            lines.extend(_drawing_lines(number, radius_mm, voxels))
        box = _box(place, radius_mm, geometry)
        content = f"{number}|{np.round(place.lps_mm, 3).tolist()}|{label.name}|{radius_mm:.6f}"
        lesions.append(
            Lesion(
                number=number,
                label=label.name,
                score=1.0,
                box_index=_six(box),
                box_lps_mm=_six(geometry.box_index_to_lps_mm(box)),
                centre_lps_mm=place.lps_mm,
                tracking_uid=place.tracking_uid or hashed_uid(uid_seed, content),
                class_probabilities=one.classes,
                mask_voxels=voxels,
                measured=one.measured,
                place_given=True,
                mask_drawn=voxels > 0,
            )
        )
    if drawn:
        message = "Masks are balls of the measured diameter around the places, drawn: the network sees no outline."
        lines.insert(0, ReportLine("masks_drawn", "note", message, "decode"))
    return PointLesions(
        tuple(lesions),
        labels,
        None if label_map is None else Volume(label_map, geometry, "SEG"),
        None if lesion_map is None else Volume(lesion_map, geometry, "SEG"),
        tuple(lines),
    )


def _said(answer: Mapping[str, ArrayLike], specs: Sequence[OutputSpec]) -> _Said:
    classes: dict[str, Mapping[str, float]] = {}
    measured: dict[str, Measured] = {}
    best: int | None = None
    for spec in specs:
        if spec.labels:
            values = np.asarray(answer[spec.name], dtype=np.float64)
            classes[spec.called] = {
                label.name: float(value) for label, value in zip(spec.labels, values.tolist(), strict=True)
            }
            best = int(values.argmax()) if best is None else best
        else:
            measured |= decode_measured(answer[spec.name], spec)
    return _Said(classes, best or 0, measured)


def place_labels(specs: Sequence[OutputSpec]) -> tuple[Label, ...]:
    """The classes of the first output that has some, as values of a label map."""
    classes = next((spec.labels for spec in specs if spec.labels), ())
    return tuple(replace(label, value=n) for n, label in enumerate(classes, 1)) or _NO_CLASS


def _free_ball(
    place: Point, radius_mm: float, geometry: Geometry, lesion_map: NDArray[np.uint16]
) -> tuple[tuple[slice, ...], NDArray[np.bool_]]:
    """A block of the grid, and the voxels in it that are the ball's and no earlier one's."""
    box = _box(place, radius_mm, geometry)
    low = np.ceil(box[:3]).astype(int)
    # The face of the last voxel belongs to it.
    high = np.minimum(np.floor(box[3:]).astype(int), np.array(geometry.shape) - 1)
    block = tuple(slice(a, b + 1) for a, b in zip(low.tolist(), high.tolist(), strict=True))
    index = np.stack(np.meshgrid(*(np.arange(side.start, side.stop) for side in block), indexing="ij"), -1)
    away_mm = np.linalg.norm(geometry.index_to_lps_mm(index) - place.lps_mm, axis=-1)
    ball = away_mm <= radius_mm
    if not ball.any():
        nearest = tuple(slice(v, v + 1) for v in _voxel_at(place, geometry))
        block, ball = nearest, np.ones((1, 1, 1), dtype=np.bool_)
    return block, ball & (lesion_map[block] == 0)


def _voxel_at(place: Point, geometry: Geometry) -> tuple[int, ...]:
    index = np.floor(geometry.lps_mm_to_index(place.lps_mm) + 0.5).astype(int)
    return tuple(np.clip(index, 0, np.array(geometry.shape) - 1).tolist())


def _box(place: Point, radius_mm: float, geometry: Geometry) -> NDArray[np.float64]:
    """The smallest box in index space around the ball, cut to the grid; around the voxel where there is no ball."""
    if radius_mm <= 0:
        voxel = np.array(_voxel_at(place, geometry), dtype=np.float64)
        return np.concatenate([voxel - 0.5, voxel + 0.5])
    centre = geometry.lps_mm_to_index(place.lps_mm)
    # A ball in the patient is an ellipsoid in index space; its reach along an axis is that of the matrix's row.
    reach = radius_mm * np.linalg.norm(np.linalg.inv(geometry.affine_lps[:3, :3]), axis=1)
    last = np.array(geometry.shape) - 0.5
    return np.concatenate([np.clip(centre - reach, -0.5, last), np.clip(centre + reach, -0.5, last)])


def _drawing_lines(number: int, radius_mm: float, voxels: int) -> list[ReportLine]:
    lines = []
    if radius_mm <= 0:
        message = f"Lesion {number}: the measured diameter of {2 * radius_mm:.1f} mm cannot be; one voxel is drawn."
        lines.append(ReportLine("diameter_not_positive", "flagged", message, "decode"))
    if not voxels:
        message = f"Lesion {number} has no mask: all of it lies in one that was asked about before."
        lines.append(ReportLine("masks_overlap", "note", message, "decode"))
    return lines


def _six(values: NDArray[np.float64]) -> tuple[float, float, float, float, float, float]:
    a, b, c, d, e, f = (float(value) for value in values)
    return a, b, c, d, e, f
