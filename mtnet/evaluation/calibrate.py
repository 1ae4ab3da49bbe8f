"""From scored validation images to what is stored beside the weights: temperatures, operating points, and from where on
an image is unlike the training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax

from mtnet.evaluation import classification
from mtnet.evaluation.bootstrap import FloatArray
from mtnet.evaluation.operating_points import operating_points
from mtnet.evaluation.records import Evaluated, SampleRecord, notes_of
from mtnet.evaluation.summary import main_samples
from mtnet.evaluation.tasks import tasks_of
from mtnet.inference.calibration import FEATURES, RECONSTRUCTION, Calibration
from mtnet.inference.training_distance import FeatureModel
from mtnet.structures import OutputSpec

FEWEST_SAMPLES = 20
"""With fewer nothing is fitted."""
SHARE_ALIKE = 0.99
"""Of the validation images that lie below the threshold."""
COLDEST, HOTTEST = 0.05, 20.0
_FOLDS = 5
_SURE = 1e-7


def calibration_of(
    evaluated: Evaluated, outputs: Sequence[OutputSpec], features: Mapping[str, FloatArray] | None = None
) -> Calibration:
    """Fit everything on the samples that do not stand aside and are no foreign ones.

    Temperatures minimise the negative log-likelihood of the known classes (Guo et al. 2017, arXiv 1706.04599); where a
    temperature was in force already, the new one comes on top. An output that is pooled by ``noisy_or`` has none, for
    it is activated before it is pooled; nor has one whose every class is that of all samples or of none, for which any
    surer answer would fit better. Thresholds of distance are the 0.99 quantile; of features that of scores by a model
    that has not seen the sample's fifth of the groups, while the model that is stored has seen all.

    Args:
        evaluated: on the split to fit on.
        outputs: of the network, as they were evaluated.
        features: by sample, of ``Answers.features``.

    Raises:
        ValueError: there is nothing that could be fitted.
    """
    samples = [sample for sample in main_samples(evaluated) if not _is_foreign(sample)]
    paths = [task.path for task in tasks_of(outputs)]
    temperatures, told, left_out = {}, {}, {}
    cooler = evaluated
    for spec, path in zip(outputs, paths, strict=True):
        if spec.kind != "global" or not spec.labels or spec.pooling == "noisy_or":
            continue
        notes = [note for note in notes_of(samples, path) if note is not None]
        if len(notes) < FEWEST_SAMPLES:
            continue
        if one_sided := _one_sided(notes):
            left_out[spec.name] = one_sided
            continue
        factor, fitted = fitted_temperature(notes)
        temperatures[spec.name] = round(spec.temperature * factor, 6)
        told[spec.name] = fitted
        cooler = _recalibrated(cooler, path, factor)
    thresholds: dict[str, float] = {}
    errors = [note["error"] for note in notes_of(samples, "reconstruction") if note is not None]
    if len(errors) >= FEWEST_SAMPLES:
        thresholds[RECONSTRUCTION] = float(np.quantile(errors, SHARE_ALIKE))
    model = None
    held = [sample for sample in samples if sample.id in (features or {})]
    if features is not None and len(held) >= FEWEST_SAMPLES:
        rows = np.stack([features[sample.id] for sample in held])
        model = FeatureModel.of(rows)
        thresholds[FEATURES] = float(np.quantile(unseen_scores(rows, [s.group for s in held]), SHARE_ALIKE))
    if not temperatures and not thresholds:
        raise ValueError(
            f"Nothing can be stored: {len(samples)} samples were scored, and {FEWEST_SAMPLES} with a known class, a "
            "redrawn image or features are needed."
        )
    return Calibration(
        evaluated.model.weights_sha256,
        temperatures,
        model,
        thresholds,
        operating_points(cooler)["points"],
        {
            "split": evaluated.split,
            "samples": len(samples),
            "groups": len({sample.group for sample in samples}),
            "sources": sorted({sample.source for sample in samples}),
            "temperatures": told,
            "without_temperature": left_out,
            "share_alike": SHARE_ALIKE,
        },
    )


def fitted_temperature(notes: Sequence[Mapping[str, Any]]) -> tuple[float, dict[str, float]]:
    """The temperature that fits the classes of one output best, and negative log-likelihood (nats a sample) and, of
    classes that exclude each other, calibration error before and after."""
    before, loss, error = _softmax_loss(notes) if "target" in notes[0] else _sigmoid_loss(notes)
    bounds = (np.log(COLDEST), np.log(HOTTEST))
    found = minimize_scalar(lambda value: loss(float(np.exp(value))), bounds=bounds, method="bounded")
    factor = float(np.exp(found.x))
    if loss(factor) >= before:
        factor = 1.0
    told = {"samples": float(len(notes)), "nll_before": before, "nll_after": loss(factor)}
    if error is not None:
        told |= {"ece_before": error(1.0), "ece_after": error(factor)}
    return factor, {key: round(value, 6) for key, value in told.items()}


def unseen_scores(features: FloatArray, groups: Sequence[str]) -> NDArray[np.float64]:
    """Distances of images by models of the other groups' images, groups dealt into five parts."""
    place = {group: n % _FOLDS for n, group in enumerate(dict.fromkeys(groups))}
    part = np.array([place[group] for group in groups])
    scores = np.empty(len(features))
    for number in np.unique(part):
        own = part == number
        # One group alone cannot be held back.
        seen = features[~own] if (~own).sum() >= len(features) // 2 else features
        scores[own] = FeatureModel.of(seen).score(features[own])
    return scores


def _one_sided(notes: Sequence[Mapping[str, Any]]) -> str:
    """What hinders a temperature: each class is that of every sample, or of none; empty where nothing does."""
    if "target" in notes[0]:
        seen = {note["target"] for note in notes}
        return f"all samples are {min(seen)}" if len(seen) == 1 else ""
    known: dict[str, set[bool]] = {}
    for note in notes:
        for name, present in note["present"].items():
            known.setdefault(name, set()).add(bool(present))
    if any(len(sides) == 2 for sides in known.values()):
        return ""
    return "; ".join(f"{'every' if True in sides else 'no'} sample is {name}" for name, sides in known.items())


def _is_foreign(sample: SampleRecord) -> bool:
    return any(note.get("foreign", False) for note in sample.notes.values())


def _softmax_loss(notes: Sequence[Mapping[str, Any]]) -> tuple[float, Any, Any]:
    _, _, probability, target = classification.arrays(notes)
    logits = np.log(np.clip(probability, _SURE, 1))

    def loss(temperature: float) -> float:
        return float(-log_softmax(logits / temperature, axis=1)[np.arange(len(target)), target].mean())

    def error(temperature: float) -> float:
        return classification.calibration_error(softmax(logits / temperature, axis=1), target, np.ones(len(target)))

    return loss(1.0), loss, error


def _sigmoid_loss(notes: Sequence[Mapping[str, Any]]) -> tuple[float, Any, None]:
    pairs = [(note["probabilities"][name], present) for note in notes for name, present in note["present"].items()]
    logits = logit(np.clip([probability for probability, _ in pairs], _SURE, 1 - _SURE))
    signs = np.where([present for _, present in pairs], 1.0, -1.0)

    def loss(temperature: float) -> float:
        return float(np.logaddexp(0, -signs * logits / temperature).mean())

    return loss(1.0), loss, None


def _recalibrated(evaluated: Evaluated, path: str, factor: float) -> Evaluated:
    """The records as they would be at another temperature."""

    def at_factor(sample: SampleRecord) -> SampleRecord:
        note = sample.notes.get(path)
        if note is None:
            return sample
        held = note["probabilities"]
        values = np.clip(list(held.values()), _SURE, 1 - _SURE)
        scaled = softmax(np.log(values) / factor) if "target" in note else expit(logit(values) / factor)
        changed = {**note, "probabilities": dict(zip(held, scaled.tolist(), strict=True))}
        return replace(sample, notes={**sample.notes, path: changed})

    return replace(evaluated, samples=tuple(at_factor(sample) for sample in evaluated.samples))
