"""How each kind of output is scored: which samples have the truth for it, what is noted of one, what is made of all.

Built-in kinds stand in ``METRICS``; an installed package's kind brings its own under ``metric``
(``mtnet.structures.kinds``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtnet.evaluation import classification, detection, distance, presence, reconstruction, regression, segmentation
from mtnet.evaluation.bootstrap import Metric
from mtnet.evaluation.detection import Boxes
from mtnet.inference.decode import decode_lesions, region_slice
from mtnet.predictor import Answers, Case
from mtnet.sources.manifest import Sample
from mtnet.structures import Findings, OutputSpec
from mtnet.structures.kinds import of_kind
from mtnet.structures.labels import LESION_FREE

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """A sample with everything that is known and was answered of it.

    Args:
        sample: of the manifest.
        case: what was read of its image.
        answers: of the network.
        findings: made of these.
        mask: ``(i, j, k)`` foreground on the grid of the findings, where the sample's masks are known.
        limits: range to which the image was clipped for the network, where it was.
        foreign: the image is of a kind that the network was not trained on.
    """

    sample: Sample
    case: Case
    answers: Answers
    findings: Findings
    mask: NDArray[np.bool_] | None = None
    limits: tuple[float, float] | None = None
    foreign: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """How one output is scored.

    Args:
        path: where its scores stand in ``metrics.json``, such as ``regression.diameter_mm``.
        wants: whether a sample has the truth that it needs.
        measure: what is noted of one sample, as JSON can hold it; None where there is nothing to note.
        metrics: of these notes, None for samples without; names may have dots.
    """

    path: str
    wants: Callable[[Sample], bool]
    measure: Callable[[Answered], Record | None]
    metrics: Callable[[Sequence[Record | None]], Mapping[str, Metric]]


def tasks_of(outputs: Sequence[OutputSpec]) -> tuple[Task, ...]:
    """The tasks of a network's outputs, in their order.

    A second output that would stand in the same place stands under its own name there.

    Raises:
        ValueError: an outside kind brings no metric, or its package cannot be loaded.
    """
    found: dict[str, Task] = {}
    for spec in outputs:
        task = of_kind(spec.kind, "metric", METRICS)(spec)
        path = task.path if task.path not in found else f"{task.path}.{spec.name}"
        found[path] = Task(path, task.wants, task.measure, task.metrics)
    return tuple(found.values())


TRAINING_DISTANCE = Task(
    distance.PATH,
    lambda _: False,
    lambda answered: distance.record_of(answered.findings.training_distance, foreign=answered.foreign),
    distance.metrics,
)
"""Of a network that is calibrated. No sample is scored for its sake alone."""


def _dense_task(spec: OutputSpec) -> Task:
    if spec.labels:
        return Task("segmentation", lambda s: s.masks is not None, _measure_mask, segmentation.metrics)
    return Task("reconstruction", lambda _: True, partial(_measure_redrawn, spec), reconstruction.metrics)


def _boxes_task(spec: OutputSpec) -> Task:
    return Task("detection", lambda s: s.boxes is not None, partial(_measure_boxes, spec), detection.metrics)


def _global_task(spec: OutputSpec) -> Task:
    if not spec.labels:
        key = value_key(spec)
        measure = partial(_measure_value, spec, key)
        return Task(f"regression.{key}", lambda s: key in s.values, measure, regression.metrics)
    names = [label.name for label in spec.labels]
    if spec.activation == "softmax":
        measure = partial(_measure_class, spec, names)
        return Task("classification", lambda s: s.image_class in names, measure, classification.metrics)
    measure = partial(_measure_presence, spec, names)
    return Task("classification", lambda s: bool(known_presence(s, names)), measure, presence.metrics)


METRICS: Mapping[str, Callable[[OutputSpec], Task]] = {
    "dense": _dense_task,
    "boxes": _boxes_task,
    "global": _global_task,
}
"""The built-in kinds of output."""


def value_key(spec: OutputSpec) -> str:
    """Under which name manifests have the value that an output measures: with its unit where that is a word."""
    return f"{spec.name}_{spec.units.lower()}" if spec.units.isidentifier() else spec.name


def known_presence(sample: Sample, names: Sequence[str]) -> dict[str, bool]:
    """Which classes a sample is known to show: those that its ``values`` name (1 or 0) or count (``nodules``), and all
    where its class is one of them or says that there is nothing (``normal``, ``none``)."""
    known = {name: sample.values[f"{name}s"] > 0 for name in names if f"{name}s" in sample.values}
    known |= {name: sample.values[name] >= 0.5 for name in names if name in sample.values}
    if sample.image_class not in (*names, *LESION_FREE):
        return known
    return {name: sample.image_class == name for name in names} | known


def _measure_mask(answered: Answered) -> Record | None:
    if answered.mask is None or answered.findings.label_map is None:
        return None
    answer = _asked(answered.sample, answered.mask, answered.findings.label_map.array[0] != 0)
    plane = answered.findings.plane
    if plane is None:
        return segmentation.record_of(answered.mask, answer, answered.findings.geometry.spacing_mm)
    return segmentation.record_of(answered.mask[..., 0], answer[..., 0], plane.spacing_mm)


def _asked(sample: Sample, mask: NDArray[np.bool_], answer: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The answer, and in excluded boxes only what is known to be there."""
    if not sample.excluded_boxes:
        return answer
    answer = answer.copy()
    for box in sample.excluded_boxes:
        half = len(box) // 2
        inside = tuple(
            slice(max(int(np.ceil(low)), 0), max(int(np.ceil(high)), 0))
            for low, high in zip(box[:half], box[half:], strict=True)
        )
        answer[inside] &= mask[inside]
    return answer


def _measure_boxes(spec: OutputSpec, answered: Answered) -> Record | None:
    sample, geometry = answered.sample, answered.findings.geometry
    if sample.boxes is None:
        return None
    lesions, _, _ = decode_lesions(
        answered.answers.outputs.boxes[spec.name],
        spec,
        image_geometry=answered.answers.grid,
        geometry=geometry,
        uid_seed="",
        threshold=0.0,
    )
    flat = answered.findings.plane is not None
    found = _boxes([lesion.box_index for lesion in lesions], flat, [lesion.score for lesion in lesions])
    known, excluded = _boxes(sample.boxes, flat), _boxes(sample.excluded_boxes, flat)
    return detection.record_of(found, known, excluded, geometry, spec.threshold, _dice_of_found(answered, known))


def _dice_of_found(answered: Answered, known: Boxes) -> list[float]:
    """Dice of the mask of each known lesion that a lesion of the findings hits, the best by score, within its box."""
    findings, mask = answered.findings, answered.mask
    if mask is None or findings.lesion_map is None or not findings.lesions or not len(known.box_index):
        return []
    flat = findings.plane is not None
    told = _boxes([lesion.box_index for lesion in findings.lesions], flat)
    hits = detection.hits_of(told, known, findings.geometry)
    numbers = findings.lesion_map.array[0]
    dice = []
    for place in np.flatnonzero(hits.any(axis=0)):
        number = findings.lesions[int(np.argmax(hits[:, place]))].number
        box = known.box_index[place]
        dims = len(box) // 2
        inside = tuple(
            slice(max(int(np.ceil(low)), 0), int(np.ceil(high)))
            for low, high in zip(box[:dims], box[dims:], strict=True)
        )
        wanted = mask[inside]
        drawn = numbers == number
        total = int(np.count_nonzero(wanted)) + int(np.count_nonzero(drawn))
        if np.any(wanted):
            dice.append(2 * int(np.count_nonzero(wanted & drawn[inside])) / total)
    return dice


def _boxes(box_index: Sequence[Sequence[float]], flat: bool, scores: Sequence[float] = ()) -> Boxes:
    """Boxes as ``(N, 4)`` of an image, ``(N, 6)`` of a volume, given as either."""
    dims = 2 if flat else 3
    whole = np.array(box_index, dtype=np.float64).reshape(len(box_index), -1 if len(box_index) else 2 * dims)
    half = whole.shape[1] // 2
    own = np.concatenate([whole[:, :dims], whole[:, half : half + dims]], axis=1)
    return Boxes(own, np.asarray(scores, dtype=np.float64))


def _global(spec: OutputSpec, answered: Answered) -> NDArray[np.float64]:
    """What a global output says of the image, or of the one place that was asked about."""
    at_places = answered.answers.at_places
    said = at_places[0] if at_places else answered.answers.outputs.global_
    return np.asarray(said[spec.name].double().numpy(), dtype=np.float64)


def _measure_class(spec: OutputSpec, names: Sequence[str], answered: Answered) -> Record | None:
    target = answered.sample.image_class
    if target is None or target not in names:
        return None
    return classification.record_of(
        target, dict(zip(names, _global(spec, answered).tolist(), strict=True)), spec.temperature
    )


def _measure_presence(spec: OutputSpec, names: Sequence[str], answered: Answered) -> Record | None:
    known = known_presence(answered.sample, names)
    told = dict(zip(names, _global(spec, answered).tolist(), strict=True))
    return presence.record_of(known, told, spec.threshold) if known else None


def _measure_value(spec: OutputSpec, key: str, answered: Answered) -> Record | None:
    if key not in answered.sample.values:
        return None
    return regression.record_of(answered.sample.values[key], float(_global(spec, answered)[0]), spec.units)


def _measure_redrawn(spec: OutputSpec, answered: Answered) -> Record | None:
    """None where the values are not those of the image."""
    redrawn, image = answered.findings.reconstruction, answered.case.volume
    if redrawn is None or spec.units == "normalised" or redrawn.array.shape != image.array.shape:
        return None
    found = answered.answers.region
    region = None
    if found is not None:
        mask, grid = found.mask.numpy(), answered.answers.grid
        planes = [region_slice(mask, grid, image.geometry, k) for k in range(image.geometry.shape[2])]
        region = np.stack(planes, axis=-1)
    return reconstruction.record_of(
        image.array, redrawn.array, answered.limits, region, unit=spec.units, foreign=answered.foreign
    )
