"""What is fitted on validation images and stored beside the weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtnet.bundle import Bundle
from mtnet.cli import main
from mtnet.evaluation.calibrate import calibration_of, fitted_temperature, unseen_scores
from mtnet.evaluation.records import Evaluated, SampleRecord
from mtnet.inference.calibration import Calibration, calibration_file, read_calibration, write_calibration
from mtnet.predictor import Predictor, ReadOptions
from mtnet.results.findings_json import read_findings_json, write_findings_json
from mtnet.sources.manifest import Sample
from mtnet.structures import Label, ModelInfo, OutputSpec, RefusedError
from tests.evaluation.manifests import picture, write
from tests.planes import save, write_flat_bundle

NAMES = ("a", "b", "c")
SPEC = OutputSpec("classification", "global", tuple(Label(n, name) for n, name in enumerate(NAMES)), (), "softmax")
MODEL = ModelInfo("toy", "1", "ab" * 32, "nothing")


def softmax(logits: Any) -> Any:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def notes_at(temperature: float, count: int = 3000) -> list[dict[str, Any]]:
    """Classes drawn from probabilities, and these told as by a network that is surer by the temperature."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (count, 3))
    true = softmax(logits)
    target = [rng.choice(3, p=row) for row in true]
    told = softmax(logits * temperature)
    return [
        {"target": NAMES[t], "probabilities": dict(zip(NAMES, row.tolist(), strict=True))}
        for t, row in zip(target, told, strict=True)
    ]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_by_which_a_network_is_too_sure_is_found(temperature: float) -> None:
    factor, told = fitted_temperature(notes_at(temperature))
    assert factor == pytest.approx(temperature, rel=0.08)
    assert told["nll_after"] <= told["nll_before"]
    if temperature != 1.0:
        assert told["ece_after"] < 0.4 * told["ece_before"]


def test_classes_that_do_not_exclude_each_other_share_one_temperature() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (2000, 2))
    present = rng.random((2000, 2)) < 1 / (1 + np.exp(-logits))
    told = 1 / (1 + np.exp(-2.5 * logits))
    notes = [
        {"present": {"x": bool(p[0]), "y": bool(p[1])}, "probabilities": {"x": float(v[0]), "y": float(v[1])}}
        for p, v in zip(present, told, strict=True)
    ]
    assert fitted_temperature(notes)[0] == pytest.approx(2.5, rel=0.1)


def evaluated_of(notes: list[dict[str, Any]]) -> Evaluated:
    samples = [
        SampleRecord(f"s/{n}", "s", f"s:{n}", "", False, {"classification": note}) for n, note in enumerate(notes)
    ]
    return Evaluated(MODEL, "val", tuple(samples))


def test_classes_that_all_samples_are_of_or_none_get_no_temperature_and_the_file_says_so() -> None:
    present = [{"present": {"x": True, "y": False}, "probabilities": {"x": 0.7, "y": 0.4}} for _ in range(30)]
    noted = evaluated_of(present)
    redrawn = [replace(s, notes={**s.notes, "reconstruction": {"error": 0.1}}) for s in noted.samples]
    sides = replace(SPEC, labels=(Label(0, "x"), Label(1, "y")), activation="sigmoid")
    found = calibration_of(replace(noted, samples=tuple(redrawn)), [sides])
    assert found.temperatures == {} and set(found.thresholds) == {"reconstruction"}
    assert found.fitted_on["without_temperature"] == {"classification": "every sample is x; no sample is y"}
    told_apart = [{**note, "present": {"x": True, "y": n % 3 == 0}} for n, note in enumerate(present)]
    assert calibration_of(evaluated_of(told_apart), [sides]).temperatures

    alike = [note for note in notes_at(1.0) if note["target"] == "b"][:30]
    with pytest.raises(ValueError, match="Nothing can be stored: 30 samples were scored, and 20 with a known class"):
        calibration_of(evaluated_of(alike), [SPEC])


def test_a_new_temperature_comes_on_top_of_the_one_in_force() -> None:
    evaluated = evaluated_of(notes_at(2.0))
    found = calibration_of(evaluated, [replace(SPEC, temperature=1.5)])
    assert found.temperatures["classification"] == pytest.approx(3.0, rel=0.08)


def test_operating_points_are_those_of_calibrated_scores() -> None:
    notes = notes_at(3.0)
    at_once = calibration_of(evaluated_of(notes_at(1.0)), [SPEC]).operating_points["classification"]["b"]["youden"]
    later = calibration_of(evaluated_of(notes), [SPEC]).operating_points["classification"]["b"]["youden"]
    # The network's ranking of one class against two others changes a little with the temperature, so scores agree.
    assert later["threshold"] == pytest.approx(at_once["threshold"], abs=0.05)


def test_an_output_pooled_by_noisy_or_keeps_its_temperature_and_few_samples_fit_nothing() -> None:
    with pytest.raises(ValueError, match="Nothing can be stored"):
        calibration_of(evaluated_of(notes_at(2.0)), [replace(SPEC, pooling="noisy_or")])
    with pytest.raises(ValueError, match="Nothing can be stored"):
        calibration_of(evaluated_of(notes_at(2.0, 10)), [SPEC])


def test_scores_of_unseen_groups_are_larger_than_those_of_seen_ones() -> None:
    from mtnet.inference.training_distance import FeatureModel

    features = np.random.default_rng(0).normal(size=(60, 200))
    unseen = unseen_scores(features, [str(n) for n in range(60)])
    assert unseen.mean() > FeatureModel.of(features).score(features).mean()


def test_a_calibration_survives_its_file_and_is_not_taken_for_other_weights(tmp_path: Path) -> None:
    weights = tmp_path / "model.pt"
    assert read_calibration(weights, "ab") is None
    made = Calibration("ab", {"pred": 1.5}, None, {"reconstruction": 12.5}, {"detection": {}}, {"split": "val"})
    assert write_calibration(made, weights) == calibration_file(weights)
    again = read_calibration(weights, "ab")
    assert again is not None and again.temperatures == {"pred": 1.5} and again.thresholds == {"reconstruction": 12.5}
    assert again.digest == made.digest and again.fitted_on == {"split": "val"}
    assert read_calibration(weights, "cd") is None
    calibration_file(weights).write_text("{}")
    with pytest.raises(ValueError, match="no calibration"):
        read_calibration(weights, "ab")


# --- the whole way: a bundle, its validation images, images like them and images unlike them


def noise(folder: Path, name: str, seed: int) -> Sample:
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 64)).astype(np.uint8)
    fields = {"group": f"noise:{name}", "split": "test", "fold": 0, "masks": ()}
    return Sample(id=f"noise/{name}", source="noise", image=save(folder / f"{name}.png", pixels), **fields)  # type: ignore[arg-type]


def alike(folder: Path, name: str, seed: int, split: str) -> Sample:
    rng = np.random.default_rng(seed)
    low, size = rng.integers(4, 20, 2), rng.integers(10, 24, 2)
    place = ((int(low[0]), int(low[1])), (int(low[0] + size[0]), int(low[1] + size[1])))
    image_class = ("nodule", "normal")[seed % 2]
    return picture(folder, name, place, split=split, fold=1, image_class=image_class)


@pytest.fixture(scope="module", name="stored")
def _stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("stored")
    bundle = write_flat_bundle(folder / "flat")
    samples = [alike(folder, f"v{n}", n, "val") for n in range(30)]
    samples += [alike(folder, f"t{n}", 100 + n, "test") for n in range(8)]
    samples += [noise(folder, f"n{n}", n) for n in range(5)]
    manifest = write(folder, samples)
    assert main.main(["evaluate", *map(str, (bundle, manifest, folder / "val")), "--split", "val", "--store"]) == 0
    return bundle, manifest, folder


def test_unlike_images_are_flagged_and_alike_ones_are_not(stored: tuple[Path, Path, Path]) -> None:
    bundle, manifest, folder = stored
    out = folder / "test"
    assert main.main(["evaluate", *map(str, (bundle, manifest, out)), "--foreign", "noise"]) == 0
    told = json.loads((out / "metrics.json").read_text())["training_distance"]
    assert told["features"]["auroc_foreign"]["value"] == 1.0 and told["features"]["auroc_foreign"]["n"] == 13
    assert told["features"]["flagged_foreign"]["value"] == 1.0
    assert told["features"]["flagged"]["value"] <= 0.25 and told["features"]["flagged"]["n"] == 8
    assert told["reconstruction"]["auroc_foreign"]["n"] == 13


def test_findings_tell_score_and_threshold_and_report_the_flag(stored: tuple[Path, Path, Path]) -> None:
    bundle, _, folder = stored
    predictor = Predictor.from_bundle(bundle, device="cpu")
    for name, unlike in (("v3", False), ("n0", True)):
        found = predictor.run(folder / f"{name}.png")
        write_findings_json(found, folder / f"{name}.json")
        assert read_findings_json(folder / f"{name}.json").training_distance == found.training_distance
        document = json.loads((folder / f"{name}.json").read_text())
        entry = next(one for one in document["training_distance"] if one["measure"] == "features")
        assert entry["unlike_training"] is unlike is (entry["score"] > entry["threshold"])
        flagged = [line for line in document["report"] if line["code"] == "unlike_training"]
        assert bool(flagged) is unlike and all(line["severity"] == "flagged" for line in flagged)
        assert document["schema_version"] == "1.4" and "calibration" in document["options"]
    with pytest.raises(RefusedError, match="unlike those that the network was trained for"):
        predictor.run(folder / "n1.png", ReadOptions(strict=True))


def test_the_stored_temperature_is_applied_to_class_scores(stored: tuple[Path, Path, Path], tmp_path: Path) -> None:
    bundle, _, folder = stored
    weights = Bundle.read(bundle).weights
    held = read_calibration(weights, Bundle.read(bundle).check_weights())
    assert held is not None and held.fitted_on["split"] == "val" and held.fitted_on["samples"] == 30
    image = folder / "t0.png"
    as_is = {c.name: c.probability for c in Predictor.from_bundle(bundle, device="cpu").run(image).image_classes}
    path = calibration_file(weights)
    text = path.read_text()
    try:
        path.unlink()
        raw = {c.name: c.probability for c in Predictor.from_bundle(bundle, device="cpu").run(image).image_classes}
    finally:
        path.write_text(text)
    for name, value in raw.items():
        logit = np.log(value / (1 - value)) / held.temperatures["classification"]
        assert as_is[name] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-5)


def test_mirrored_answers_are_asked_for_by_name_and_told_and_nothing_is_fitted_on_them(
    stored: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    bundle, manifest, folder = stored
    predictor = Predictor.from_bundle(bundle, device="cpu", mirror="ji")
    found = predictor.run(folder / "t0.png")
    assert found.options["mirrored"] == "ij" and found.training_distance
    asked = (str(bundle), str(manifest), str(tmp_path / "o"), "--split", "val", "--store", "--tta", "i")
    assert main.main(["evaluate", *asked]) != 0


def test_store_asks_for_the_validation_split(stored: tuple[Path, Path, Path], tmp_path: Path) -> None:
    bundle, manifest, _ = stored
    assert main.main(["evaluate", str(bundle), str(manifest), str(tmp_path / "o"), "--store"]) != 0
    assert not (tmp_path / "o").exists()
