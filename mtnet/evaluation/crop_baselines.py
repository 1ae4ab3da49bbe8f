"""What could be told of a lesion's crop without looking into it: from how the crop was cut, or from its true diameter.

LIDC's crops end with the nodule, so their size gives its size away, and size goes with suspicion. A network on such
crops has to stand beside these two rows: ``shape_only`` (the ``crop_...`` values of the manifest, each sample told by a
model that has not seen its fold) and ``diameter_only`` (the known diameter, whose ranking nothing is fitted to).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtnet.evaluation import classification, regression
from mtnet.evaluation.bootstrap import FloatArray
from mtnet.evaluation.records import Evaluated
from mtnet.sources.folds import fold_of
from mtnet.sources.manifest import Manifest, Sample
from mtnet.structures import ModelInfo

DIAMETER = "diameter_mm"
_CUT = tuple(f"crop_{what}" for axis in "ijk" for what in (f"voxels_{axis}", f"spacing_{axis}_mm"))
_RIDGE = 1e-3
_STEPS = 30
_FEWEST = 50
"""Samples of a manifest from which on anything is fitted to them."""


def crop_baselines(evaluated: Evaluated, manifest: Manifest) -> dict[str, Evaluated]:
    """``shape_only`` and ``diameter_only`` on the samples that a network was evaluated on, as if they were networks.

    From the crop's edges in mm, their second-order terms and its spacing, diameter is told by least squares and a class
    of two by logistic regression, both with a ridge penalty, over the folds of ``mtnet prepare``. From the diameter,
    the class is told by one logistic curve over its logarithm: it makes a probability of it and leaves the order.

    Args:
        evaluated: what was noted of the network; only tasks that it was scored on are told.
        manifest: its samples, those of other splits included.

    Returns:
        nothing where the manifest does not say how its images were cut.
    """
    samples = [s for s in manifest.samples if all(name in s.values for name in _CUT) and s.values.get(DIAMETER, 0) > 0]
    known = {sample.id: place for place, sample in enumerate(samples)}
    if len(samples) < _FEWEST or not all(sample.id in known for sample in evaluated.samples):
        return {}
    folds = np.array([fold_of(sample.group) for sample in samples])
    diameter = np.array([sample.values[DIAMETER] for sample in samples])
    names = _classes(evaluated)
    target = np.array([names.index(s.image_class) if s.image_class in names else -1 for s in samples])
    shape = _shape_features(samples)
    told: dict[str, dict[str, FloatArray]] = {"shape_only": {}, "diameter_only": {}}
    if _noted(evaluated, f"regression.{DIAMETER}"):
        told["shape_only"][DIAMETER] = _out_of_fold(_least_squares, shape, diameter, folds)
    if names:
        told["shape_only"]["class"] = _out_of_fold(_logistic, shape, target, folds)
        told["diameter_only"]["class"] = _told(_logistic, np.log(diameter)[:, None], target, target >= 0)
    return {
        name: replace(
            evaluated,
            model=_model(name, evaluated.model),
            samples=tuple(
                replace(s, notes=_notes(s.notes, {key: float(one[known[s.id]]) for key, one in rows.items()}, names))
                for s in evaluated.samples
            ),
        )
        for name, rows in told.items()
        if rows
    }


def _model(name: str, network: ModelInfo) -> ModelInfo:
    return replace(
        network,
        name=name,
        version="",
        weights_sha256="",
        training_data="the manifest's samples outside of each sample's fold",
        weights_licence="",
    )


def _notes(notes: Mapping[str, Any], told: Mapping[str, float], names: Sequence[str]) -> dict[str, Any]:
    """What the row would have noted where the network noted something."""
    made: dict[str, Any] = {}
    path = f"regression.{DIAMETER}"
    if DIAMETER in told and path in notes:
        made[path] = regression.record_of(notes[path]["truth"], told[DIAMETER], notes[path]["unit"])
    if "class" in told and "classification" in notes:
        second = told["class"]
        probabilities = dict(zip(names, (1 - second, second), strict=True))
        made["classification"] = classification.record_of(notes["classification"]["target"], probabilities)
    return made


def _classes(evaluated: Evaluated) -> list[str]:
    """Names of two classes that exclude each other; empty where there are others."""
    noted = _noted(evaluated, "classification")
    names = list(noted[0]["probabilities"]) if noted and "target" in noted[0] else []
    return names if len(names) == 2 else []


def _noted(evaluated: Evaluated, path: str) -> list[Mapping[str, Any]]:
    return [sample.notes[path] for sample in evaluated.samples if path in sample.notes]


def _shape_features(samples: Sequence[Sample]) -> FloatArray:
    cut = np.array([[sample.values[name] for name in _CUT] for sample in samples])
    voxels, spacing = cut[:, 0::2], cut[:, 1::2]
    edges_mm = voxels * spacing
    i, j, k = edges_mm.T
    return np.column_stack([edges_mm, spacing[:, [0, 2]], edges_mm**2, i * j, i * k, np.log(edges_mm)])


def _out_of_fold(fit: Any, features: FloatArray, target: NDArray[Any], folds: NDArray[np.int64]) -> FloatArray:
    """Each sample told by what was fitted to the samples of other folds whose target is known (not below 0)."""
    told = np.zeros(len(target))
    for fold in np.unique(folds):
        told[folds == fold] = _told(fit, features, target, (folds != fold) & (target >= 0))[folds == fold]
    return told


def _told(fit: Any, features: FloatArray, target: NDArray[Any], seen: NDArray[np.bool_]) -> FloatArray:
    """Every sample by what was fitted to those that were seen, features scaled by these."""
    middle, spread = features[seen].mean(axis=0), features[seen].std(axis=0)
    scaled = (features - middle) / np.where(spread > 0, spread, 1.0)
    design = np.column_stack([np.ones(len(scaled)), scaled])
    return np.asarray(fit(design[seen], target[seen])(design), dtype=np.float64)


def _least_squares(design: FloatArray, target: FloatArray) -> Any:
    weights = np.linalg.solve(design.T @ design + _penalty(design), design.T @ target)
    return lambda other: other @ weights


def _logistic(design: FloatArray, target: NDArray[Any]) -> Any:
    """Newton's method; the probability of the second class."""
    weights = np.zeros(design.shape[1])
    # A unit prior on scaled features keeps separable data finite.
    penalty = _penalty(design) / _RIDGE
    for _ in range(_STEPS):
        told = _sigmoid(design @ weights)
        slope = design.T @ (told - target) + penalty @ weights
        curve = (design * (told * (1 - told))[:, None]).T @ design + penalty
        weights = weights - np.linalg.solve(curve + 1e-9 * np.eye(len(curve)), slope)
    return lambda other: _sigmoid(other @ weights)


def _penalty(design: FloatArray) -> FloatArray:
    """On all but the constant."""
    return _RIDGE * np.diag(np.arange(design.shape[1]) > 0).astype(np.float64)


def _sigmoid(values: FloatArray) -> FloatArray:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -30, 30))))
