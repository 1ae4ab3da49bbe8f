"""Thresholds and what they give, chosen on the samples that were scored; nothing takes them up by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mtnet.evaluation import classification
from mtnet.evaluation.detection import froc_of
from mtnet.evaluation.froc import RATES
from mtnet.evaluation.ranking import Ranking
from mtnet.evaluation.records import Evaluated, notes_of
from mtnet.evaluation.summary import main_samples

WANTED_SENSITIVITY = 0.95


def operating_points(evaluated: Evaluated) -> dict[str, Any]:
    """Each point by its name, with the threshold and what it gives on these samples.

    Detection: for each rate of FROC the lowest score with at most so many false boxes an image. Classes: where
    sensitivity and specificity have their highest sum (Youden), and where sensitivity first reaches 0.95, of each class
    against the rest.
    """
    samples = main_samples(evaluated)
    points: dict[str, Any] = {}
    boxes = [note for note in notes_of(samples, "detection") if note is not None]
    if boxes:
        froc = froc_of(boxes)
        told = {f"at_{rate:g}_false_an_image": froc.score_at(rate) for rate in RATES}
        points["detection"] = {
            name: {"threshold": at[0], "sensitivity": at[1], "false_an_image": at[2]}
            for name, at in told.items()
            if at is not None and np.isfinite(at[1])
        }
    classes = class_rankings([note for note in notes_of(samples, "classification") if note is not None])
    for name, ranking in classes.items():
        own = {"youden": ranking.youden(), "at_0.95_sensitivity": ranking.at_sensitivity(WANTED_SENSITIVITY)}
        points.setdefault("classification", {})[name] = {
            point: {"threshold": at[0], "sensitivity": at[1], "specificity": at[2]}
            for point, at in own.items()
            if at is not None
        }
    return {
        "model": {"name": evaluated.model.name, "version": evaluated.model.version,
                  "weights_sha256": evaluated.model.weights_sha256},
        "split": evaluated.split,
        "samples": len(samples),
        "groups": len({sample.group for sample in samples}),
        "points": points,
    }  # fmt: skip


def class_rankings(notes: Sequence[Any]) -> dict[str, Ranking]:
    """Of each class against the rest, whether classes exclude each other or not."""
    if notes and "target" in notes[0]:
        names, _, probability, target = classification.arrays(notes)
        return {name: Ranking.of(probability[:, k], target == k) for k, name in enumerate(names)}
    names = sorted({name for note in notes for name in note["present"]})
    found = {}
    for name in names:
        own = [note for note in notes if name in note["present"]]
        scores = [note["probabilities"][name] for note in own]
        found[name] = Ranking.of(scores, [note["present"][name] for note in own])
    return found
