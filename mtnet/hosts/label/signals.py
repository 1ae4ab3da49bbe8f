"""What one answer tells of itself: how unsure it is, and how far its tasks contradict each other.

Both are numbers in 0..1 to choose images by, and nothing more: a network's scores are no calibrated chances. Nothing
is run twice for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtnet.answers import Answers
from mtnet.structures import Findings, OutputSpec
from mtnet.structures.labels import LESION_FREE

_RATING = re.compile(r"rating (\d+) to (\d+)")


@dataclass(frozen=True, slots=True)
class Signals:
    """Of one image; None where its network has nothing to tell it by.

    Args:
        uncertainty: mean over the tasks of how unsure each is: of lesions the expected number ``n`` of wrong decisions
            (the sum of ``min(score, 1 - score)`` over all that were considered) as ``n / (n + 1)``, of classes the
            entropy as a share of the largest.
        disagreement: largest contradiction between two tasks, see ``contradictions``.
        unlike_training: how far the image is from those that the network was trained for: the largest share of a limit
            that its weights' calibration tells; without one, of a network that redraws the image, its error in the
            image's units. Comparable between images of one network only.
    """

    uncertainty: float | None
    disagreement: float | None
    unlike_training: float | None


def signals_of(specs: Sequence[OutputSpec], answers: Answers, findings: Findings) -> Signals:
    """What the answers of a network about one image tell.

    Args:
        specs: the network's outputs.
        answers: as ``Predictor.infer`` gave them.
        findings: as ``Predictor.finish`` made them of these.
    """
    unsure = _unsure(specs, answers, findings)
    apart = contradictions(specs, answers, findings)
    return Signals(
        uncertainty=float(np.mean(unsure)) if unsure else None,
        disagreement=max(apart.values()) if apart else None,
        unlike_training=_unlike_training(findings),
    )


def tells_disagreement(specs: Iterable[OutputSpec]) -> bool:
    """Whether a network with these outputs has two tasks that can contradict each other."""
    specs = tuple(specs)
    rated = any(_RATING.fullmatch(spec.units) for spec in specs)
    classes = any(spec.kind == "global" and len(spec.labels) == 2 for spec in specs)
    return sum(_tells_presence(spec) for spec in specs) > 1 or (rated and classes)


def redraws(specs: Iterable[OutputSpec]) -> bool:
    """Whether a network with these outputs redraws the image in units in which the difference means something."""
    return any(spec.kind == "dense" and not spec.labels and spec.units not in ("", "normalised") for spec in specs)


def contradictions(specs: Sequence[OutputSpec], answers: Answers, findings: Findings) -> dict[str, float]:
    """How far tasks contradict each other, each in 0..1.

    - ``presence``: between the surest and the least sure task that there is a lesion at all.
    - ``place``: share of the mask that no box claims, and of the boxes that hold no mask, the larger of the two.
    - ``rating``: of a place, between the probability of the last of two classes and a rating on its scale.
    """
    found: dict[str, float] = {}
    present = [value for spec in specs if (value := _presence(spec, answers, findings)) is not None]
    if len(present) > 1:
        found["presence"] = max(present) - min(present)
    mask, boxes = findings.label_map, any(spec.kind == "boxes" for spec in specs)
    if boxes and mask is not None and findings.lesion_map is not None:
        drawn = int(np.count_nonzero(mask.array))
        claimed = int(np.count_nonzero(findings.lesion_map.array))
        empty = sum(not lesion.mask_voxels for lesion in findings.lesions)
        if drawn or findings.lesions:
            found["place"] = max(1 - claimed / drawn if drawn else 0.0, empty / max(len(findings.lesions), 1))
    for spec in specs:
        scale = _RATING.fullmatch(spec.units)
        if scale is not None:
            apart = [_rated_apart(spec.name, scale, lesion.class_probabilities, findings, n)
                     for n, lesion in enumerate(findings.lesions)]  # fmt: skip
            known = [value for value in apart if value is not None]
            if known:
                found["rating"] = max(known)
    return found


def _unlike_training(findings: Findings) -> float | None:
    if findings.training_distance:
        return max(one.score / one.threshold for one in findings.training_distance)
    return next((float(value) for value in findings.reconstruction_error.values()), None)


def _rated_apart(
    name: str, scale: re.Match[str], classes: Mapping[str, Mapping[str, float]], findings: Findings, lesion: int
) -> float | None:
    low, high = (float(end) for end in scale.groups())
    measured = next((m for key, m in findings.lesions[lesion].measured.items() if key.startswith(name)), None)
    two = next((list(values.values()) for values in classes.values() if len(values) == 2), None)
    if measured is None or two is None:
        return None
    return abs(two[1] - float(np.clip((measured.value - low) / (high - low), 0, 1)))


def _tells_presence(spec: OutputSpec) -> bool:
    if spec.kind == "global":
        return spec.activation == "sigmoid" or _nothing(spec) is not None
    return spec.kind == "boxes" or (spec.kind == "dense" and bool(spec.labels))


def _presence(spec: OutputSpec, answers: Answers, findings: Findings) -> float | None:
    """How sure one task is that there is a lesion."""
    if not _tells_presence(spec):
        return None
    if spec.kind == "boxes":
        score = answers.outputs.boxes[spec.name].score
        return float(score.max()) if len(score) else 0.0
    if spec.kind == "dense":
        dense = answers.outputs.dense[spec.name]
        if dense.probabilities is not None:
            return float(_foreground(spec, dense.probabilities).max())
        return float(bool((dense.array != spec.background).any()))
    said = {one.name: one.probability for one in findings.image_classes if one.output == spec.name}
    nothing = _nothing(spec)
    return max(said.values(), default=0.0) if nothing is None else 1 - said[nothing]


def _nothing(spec: OutputSpec) -> str | None:
    """The class of a global output that says that there is no lesion."""
    if spec.activation != "softmax":
        return None
    return next((label.name for label in spec.labels if label.name in (*LESION_FREE, "background")), None)


def _unsure(specs: Sequence[OutputSpec], answers: Answers, findings: Findings) -> list[float]:
    """How unsure each task is, in 0..1."""
    unsure = []
    boxes = any(spec.kind == "boxes" for spec in specs)
    for spec in specs:
        if spec.kind == "boxes":
            unsure.append(_wrong(answers.outputs.boxes[spec.name].score.numpy()))
        elif spec.kind == "dense" and spec.labels and not boxes and spec.name in answers.outputs.dense:
            kept = answers.outputs.dense[spec.name].probabilities
            if kept is not None:
                best = float(_foreground(spec, kept).max())
                # The parts of a mask stand for its decisions; where it draws none, the nearest thing to one.
                unsure.append(_wrong([lesion.score for lesion in findings.lesions] or [best]))
        elif spec.kind == "global" and spec.labels:
            said = [one.probability for one in findings.image_classes if one.output == spec.name]
            at_places = [list(lesion.class_probabilities.get(spec.called, {}).values()) for lesion in findings.lesions]
            rows = [row for row in (said, *at_places) if row]
            if rows:
                unsure.append(float(np.mean([_entropy(row, spec.activation == "sigmoid") for row in rows])))
    return unsure


def _wrong(scores: ArrayLike) -> float:
    """Of decisions by score, the expected number of wrong ones, brought into 0..1."""
    score = np.asarray(scores, dtype=np.float64)
    number = float(np.minimum(score, 1 - score).sum())
    return number / (number + 1)


def _entropy(probabilities: Sequence[float], each: bool) -> float:
    """Entropy as a share of the largest: of each class by itself and then the mean, or of all together."""
    rows = [(p, 1 - p) for p in probabilities] if each else [tuple(probabilities)]
    shares = []
    for row in rows:
        p = np.clip(np.asarray(row, dtype=np.float64), 1e-12, 1)
        shares.append(float(-(p * np.log(p)).sum() / np.log(len(p))) if len(p) > 1 else 0.0)
    return float(np.clip(np.mean(shares), 0, 1))


def _foreground(spec: OutputSpec, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(*S)``: the largest probability of a label that is no background."""
    channels = [n for n, label in enumerate(spec.labels) if label.value != spec.background]
    largest: NDArray[np.float32] = probabilities[channels].max(axis=0)
    return largest
