"""What crops tell without being looked into."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from mtnet.evaluation import classification, crop_baselines, regression
from mtnet.evaluation.records import Evaluated, SampleRecord, joined
from mtnet.evaluation.summary import summarise
from mtnet.evaluation.tasks import Task
from mtnet.sources.manifest import Manifest, Sample
from mtnet.structures import ModelInfo
from tests.evaluation.manifests import manifest_of

NAMES = ("low", "high")
TASKS = (
    Task("classification", lambda _: True, lambda _: None, classification.metrics),
    Task("regression.diameter_mm", lambda _: True, lambda _: None, regression.metrics),
)


def crops(count: int = 200, *, cut: bool = True) -> Manifest:
    """Balls cut out with 10 mm around them in the plane; large ones are mostly of the second class."""
    rng = np.random.default_rng(0)
    samples = []
    for n in range(count):
        diameter, spacing, step = rng.uniform(4, 20), rng.uniform(0.5, 0.9), rng.choice([1.0, 2.5])
        values = {"diameter_mm": float(diameter)}
        if cut:
            edges = ((diameter + 20) / spacing, (diameter + 20) / spacing, diameter / step + 1)
            for axis, edge, mm in zip("ijk", edges, (spacing, spacing, step), strict=True):
                values |= {f"crop_voxels_{axis}": float(round(edge)), f"crop_spacing_{axis}_mm": float(mm)}
        name = NAMES[int(diameter + rng.normal(0, 3) > 11)] if n % 4 else None
        group = f"spots:{n // 2}"
        samples.append(Sample(f"spots/{n}", "spots", group, Path("a.nii"), "test", 0, image_class=name, values=values))
    return manifest_of(samples)


def guessed(manifest: Manifest) -> Evaluated:
    """A network that knows nothing."""
    records = []
    for sample in manifest.samples:
        notes = {"regression.diameter_mm": regression.record_of(sample.values["diameter_mm"], 12.0, "mm")}
        if sample.image_class:
            notes["classification"] = classification.record_of(sample.image_class, dict.fromkeys(NAMES, 0.5))
        records.append(SampleRecord(sample.id, sample.source, sample.group, "", notes=notes))
    return Evaluated(ModelInfo("guess", "1", "", "nothing"), "test", tuple(records))


def test_the_size_of_a_crop_tells_the_diameter_and_the_diameter_the_class() -> None:
    manifest = crops()
    here = guessed(manifest)
    summary = summarise(here, TASKS, baselines=crop_baselines.crop_baselines(here, manifest), draws=50)
    shape, diameter = (summary.baselines[name].differences for name in ("shape_only", "diameter_only"))
    assert shape["regression.diameter_mm.mae"].other.value is not None
    assert shape["regression.diameter_mm.mae"].other.value < 0.5 < 3 < shape["regression.diameter_mm.mae"].here.value
    known = [s for s in manifest.samples if s.image_class]
    judged = roc_auc_score([s.image_class == "high" for s in known], [s.values["diameter_mm"] for s in known])
    assert diameter["classification.auroc"].other.value == pytest.approx(judged)
    assert "regression.diameter_mm.mae" not in diameter
    told = shape["classification.auroc"]
    assert told.difference.ci95 is not None and told.difference.ci95[1] < 0 and told.difference.n == 150


def test_no_sample_is_told_by_what_was_fitted_to_its_own_fold() -> None:
    manifest = crops()
    folds = np.array([crop_baselines.fold_of(s.group) for s in manifest.samples])
    features = np.random.default_rng(1).normal(size=(len(folds), 3))
    target = np.random.default_rng(2).normal(size=len(folds)) + 10
    told = crop_baselines._out_of_fold(crop_baselines._least_squares, features, target, folds)
    changed = np.where(folds == 0, target * 5, target)
    again = crop_baselines._out_of_fold(crop_baselines._least_squares, features, changed, folds)
    assert np.allclose(told[folds == 0], again[folds == 0]) and not np.allclose(told[folds != 0], again[folds != 0])


def test_the_logistic_curve_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(120, 2))
    target = (features[:, 0] + rng.normal(size=120) > 0).astype(int)
    design = np.column_stack([np.ones(120), features])
    judge = LogisticRegression(C=1.0, tol=1e-8).fit(features, target).predict_proba(features)[:, 1]
    assert crop_baselines._logistic(design, target)(design) == pytest.approx(judge, abs=1e-5)


def test_images_that_were_not_cut_have_no_such_rows() -> None:
    manifest = crops(cut=False)
    assert crop_baselines.crop_baselines(guessed(manifest), manifest) == {}


def test_the_folds_of_a_cross_validation_are_joined_and_none_counts_twice() -> None:
    manifest = crops()
    whole = guessed(manifest)
    parts = [
        Evaluated(whole.model, "test", tuple(s for n, s in enumerate(whole.samples) if n % 3 == k)) for k in range(3)
    ]
    assert sorted(s.id for s in joined(parts[0], parts[1:]).samples) == sorted(s.id for s in whole.samples)
    with pytest.raises(ValueError, match="scored in two of the runs"):
        joined(parts[0], [parts[0]])
