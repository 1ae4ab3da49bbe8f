"""The files of an evaluation: ``metrics.json``, ``samples.csv``, ``operating_points.json``."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from mtnet import __version__
from mtnet.evaluation import classification, segmentation
from mtnet.evaluation.bootstrap import DRAWS, Score
from mtnet.evaluation.detection import HIT_IOU
from mtnet.evaluation.operating_points import operating_points
from mtnet.evaluation.records import Evaluated, SampleRecord, notes_of
from mtnet.evaluation.summary import Comparison, Scores, Summary, main_samples
from mtnet.io.atomic import atomic_path
from mtnet.sources.manifest import Manifest
from mtnet.structures import ModelInfo

SCHEMA_VERSION = "1.0"
METRICS_FILE, SAMPLES_FILE, POINTS_FILE = "metrics.json", "samples.csv", "operating_points.json"

RULES = {
    "interval": f"95 %, percentile bootstrap, {DRAWS} draws of groups (patients, sequences or near-duplicates)",
    "empty_masks": "truth and answer both empty: Dice, IoU and NSD 1, HD95 0; one of them empty: Dice, IoU and NSD 0, "
    "HD95 the image's diagonal",
    "segmentation": "all labels but the background together; means over images, and pooled over the voxels of all; "
    "HD95 is the larger of the two directed 95th percentiles; NSD counts border voxels within "
    f"{segmentation.TOLERANCE:g} mm, or pixels where their size is unknown",
    "detection": "average precision by COCO (101 recalls, at most 100 boxes an image, one class); FROC and CPM by "
    "LUNA16: a box hits a lesion of a volume within half its diameter, of an image at an IoU of "
    f"{HIT_IOU:g}, further boxes on it and boxes on excluded findings count for nothing",
    "classification": "the most probable class is the answer; of two classes AUROC, AP and Brier are those of the "
    "second, of more AUROC and AP are means of each against the rest and Brier is summed over classes; ECE over "
    f"{classification.CALIBRATION_BINS} bins of equal width",
    "regression": "error is measured less known; limits of agreement at 1.96 standard deviations; ICC(2,1)",
    "reconstruction": "over the region that the network looked at; SSIM on axial planes, Gaussian window of 11 pixels",
    "training_distance": "distance from the images that the weights were calibrated on; flagged is the share above the "
    "stored threshold",
    "label_conflict": "images that stand in two classes train only; they count in with_label_conflict alone",
}
"""By which rules scores are made, by what they are about."""

_TASKS = ("segmentation", "detection", "classification", "regression", "reconstruction", "training_distance")
_RULE_OF_TASK = {
    "empty_masks": "segmentation",
    **{task: task for task in _TASKS},
}


def metrics_document(evaluated: Evaluated, summary: Summary, manifest: Manifest) -> dict[str, Any]:
    """What ``metrics.json`` holds: task to metric to score, and what they were made of."""
    main = main_samples(evaluated)
    tasks = {name.partition(".")[0] for name in summary.scores}
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "evaluation": {
            "software": {"name": "mtnet", "version": __version__},
            "notice": evaluated.model.intended_use,
            "model": _model(evaluated.model),
            "split": evaluated.split,
            "samples": len(main),
            "aside": len(evaluated.samples) - len(main),
            "groups": len({sample.group for sample in main}),
            "without_truth": evaluated.without_truth,
            "refused": [{"id": one.id, "reason": one.reason} for one in evaluated.refused],
            "sources": [
                {
                    "name": source.name,
                    "title": source.title,
                    "licence": source.licence,
                    "terms": source.terms,
                    "split_by": source.split_by,
                    "samples": sum(sample.source == source.name for sample in main),
                }
                for source in manifest.sources
                if any(sample.source == source.name for sample in main)
            ],
            "notes": list(evaluated.notes),
            "options": dict(evaluated.options),
            "rules": {
                name: text for name, text in RULES.items() if name not in _RULE_OF_TASK or _RULE_OF_TASK[name] in tasks
            },
        },
        **nested(summary.scores),
        "details": details(main),
    }
    if summary.by_source:
        document["by_source"] = {name: nested(scores) for name, scores in summary.by_source.items()}
    if summary.with_conflicts:
        document["with_label_conflict"] = nested(summary.with_conflicts)
    if summary.comparison is not None:
        document["comparison"] = _comparison(summary.comparison)
    if summary.baselines:
        document["baselines"] = {name: _comparison(one) for name, one in summary.baselines.items()}
    return document


def nested(scores: Scores) -> dict[str, Any]:
    """Scores by full name as objects in objects."""
    tree: dict[str, Any] = {}
    for name, score in scores.items():
        *path, last = name.split(".")
        place = tree
        for part in path:
            place = place.setdefault(part, {})
        place[last] = _score(score)
    return tree


def details(samples: list[SampleRecord]) -> dict[str, Any]:
    """Counts that are no scores."""
    told: dict[str, Any] = {}
    masks = [note for note in notes_of(samples, "segmentation") if note is not None]
    if masks:
        wanted = [note["true_positive"] + note["false_negative"] > 0 for note in masks]
        drawn = [note["true_positive"] + note["false_positive"] > 0 for note in masks]
        told["segmentation"] = {
            "images": len(masks),
            "truth_empty": wanted.count(False),
            "both_empty": sum(not w and not d for w, d in zip(wanted, drawn, strict=True)),
            "only_truth_empty": sum(d and not w for w, d in zip(wanted, drawn, strict=True)),
            "only_answer_empty": sum(w and not d for w, d in zip(wanted, drawn, strict=True)),
        }
    boxes = [note for note in notes_of(samples, "detection") if note is not None]
    if boxes:
        told["detection"] = {
            "images": len(boxes),
            "images_without_lesions": sum(not note["objects"] for note in boxes),
            "lesions": sum(note["objects"] for note in boxes),
            "lesions_with_dice": sum(len(note["dice_of_found"]) for note in boxes),
        }
    classes = [note for note in notes_of(samples, "classification") if note is not None and "target" in note]
    if classes:
        names, _, probability, target = classification.arrays(classes)
        table = classification.confusion(target, probability.argmax(axis=1), np.ones(len(target)), len(names))
        told["classification"] = {"classes": names, "confusion_of_truth_by_answer": table.astype(int).tolist()}
    return told


def schema() -> dict[str, Any]:
    """The published JSON Schema (draft-07) of ``metrics.json``."""
    text = resources.files("mtnet.evaluation").joinpath("schema", f"metrics-{SCHEMA_VERSION}.json").read_text("utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


def write_metrics(document: Mapping[str, Any], path: Path) -> None:
    """Write ``metrics.json``, checked against its schema.

    Raises:
        jsonschema.ValidationError: it breaks the schema.
    """
    from jsonschema import Draft7Validator

    Draft7Validator(schema()).validate(document)
    _write_json(document, path)


def write_operating_points(evaluated: Evaluated, path: Path) -> None:
    """Write ``operating_points.json``."""
    _write_json({"schema_version": SCHEMA_VERSION, **operating_points(evaluated)}, path)


def write_samples(evaluated: Evaluated, path: Path) -> None:
    """Write ``samples.csv``: a row a sample, a column a number that was noted of it; lists are left to the records."""
    rows = [
        {"id": s.id, "source": s.source, "group": s.group, "aside": int(s.aside), **dict(_flat(s.notes))}
        for s in evaluated.samples
    ]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def _flat(notes: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in notes.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        elif not isinstance(value, list):
            yield f"{before}{name}", value


def _score(score: Score) -> dict[str, Any]:
    told: dict[str, Any] = {
        "value": score.value,
        "ci95": None if score.ci95 is None else list(score.ci95),
        "n": score.n,
        "groups": score.groups,
        "better": score.better,
    }
    return told | {"unit": score.unit} if score.unit else told


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "model": _model(comparison.model),
        "samples": comparison.samples,
        "differences": {
            name: {"here": _score(one.here), "other": _score(one.other), "difference": _score(one.difference)}
            for name, one in comparison.differences.items()
        },
    }


def _model(model: ModelInfo) -> dict[str, str]:
    return {
        "name": model.name,
        "version": model.version,
        "weights_sha256": model.weights_sha256,
        "training_data": model.training_data,
        "weights_licence": model.weights_licence,
    }


def _write_json(document: Mapping[str, Any], path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
