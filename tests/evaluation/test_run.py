"""Networks whose answers are known, over small manifests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mtnet.evaluation.pictures import WorstMasks
from mtnet.evaluation.records import Evaluated, read_records, write_records
from mtnet.evaluation.run import chosen, evaluate
from mtnet.evaluation.summary import Scores, scores_of, summarise
from mtnet.evaluation.tasks import known_presence, tasks_of, value_key
from mtnet.io.nifti_out import write_nifti
from mtnet.predictor import Predictor
from mtnet.sources.manifest import Sample
from mtnet.structures import Geometry, OutputSpec, Volume
from tests.bundles import BOX_VOXELS, blob_predictor
from tests.evaluation.manifests import manifest_of, picture, pictures
from tests.planes import save, spot, spot_predictor


def scores(predictor: Predictor, evaluated: Evaluated) -> Scores:
    return scores_of(evaluated.samples, tasks_of(predictor.network.outputs), draws=50)


def test_a_network_that_is_right_has_perfect_scores(tmp_path: Path) -> None:
    predictor = spot_predictor()
    samples = [replace(s, values={"bright": float(bool(s.masks))}) for s in pictures(tmp_path)]
    evaluated = evaluate(predictor, manifest_of(samples))
    found = scores(predictor, evaluated)
    for name in (
        *("segmentation.dice", "segmentation.dice_pooled", "segmentation.empty_kept_empty", "segmentation.nsd_px"),
        *("detection.ap50", "detection.ap50_95", "detection.sensitivity_at_1_fp", "detection.cpm"),
        *("detection.sensitivity", "detection.precision", "detection.dice_of_found"),
        *("classification.bright.auroc", "classification.bright.accuracy"),
    ):
        assert found[name].value == pytest.approx(1.0), name
    assert found["segmentation.hd95_px"].value == found["detection.false_an_image"].value == 0.0
    assert found["segmentation.dice"].n == 4 and found["segmentation.dice_with_lesion"].n == 3
    assert evaluated.refused == () and evaluated.notes == ()


def test_a_network_that_is_wrong_by_a_known_part_has_the_score_of_it(tmp_path: Path) -> None:
    """The picture shows a rectangle of 16 x 14, the truth is 16 x 28 around it: Dice 2/3, IoU 1/2."""
    sample = picture(tmp_path, "a", ((10, 6), (26, 20)))
    mask = save(tmp_path / "other.png", (spot((64, 48), (10, 6), (26, 34)) > 100).astype(np.uint8) * 255)
    sample = replace(sample, masks=(mask,), boxes=((9.5, 5.5, 25.5, 33.5),))
    predictor = spot_predictor()
    found = scores(predictor, evaluate(predictor, manifest_of([sample])))
    assert found["segmentation.dice"].value == pytest.approx(2 / 3)
    assert found["segmentation.iou"].value == pytest.approx(0.5)
    assert found["detection.dice_of_found"].value == pytest.approx(2 / 3)
    assert found["detection.ap50"].value == pytest.approx(1.0) and found["detection.ap50_95"].value == pytest.approx(
        0.1
    )
    assert found["segmentation.dice"].ci95 is None


def test_what_is_drawn_in_an_excluded_box_counts_neither_as_right_nor_as_wrong(tmp_path: Path) -> None:
    sample = picture(tmp_path, "a", ((10, 6), (26, 20)))
    unasked = replace(sample, masks=(), boxes=(), excluded_boxes=((9.5, 5.5, 25.5, 19.5),))
    partly = replace(sample, excluded_boxes=((9.5, 5.5, 17.5, 19.5),))
    predictor = spot_predictor()
    for one in (unasked, partly):
        found = scores(predictor, evaluate(predictor, manifest_of([one])))
        assert found["segmentation.dice"].value == 1.0
    wrong = replace(unasked, excluded_boxes=())
    assert scores(predictor, evaluate(predictor, manifest_of([wrong])))["segmentation.dice"].value == 0.0


def test_scores_on_drawn_or_composed_images_are_called_synthetic(tmp_path: Path) -> None:
    predictor, manifest = spot_predictor(), manifest_of(pictures(tmp_path))
    composed = replace(manifest, sources=(replace(manifest.sources[0], layout="composed_ct"),))
    (note,) = set(evaluate(predictor, composed).notes) - set(evaluate(predictor, manifest).notes)
    assert note.startswith("spots is synthetic") and "no scores on patients" in note


def test_volumes_are_scored_in_millimetres(tmp_path: Path) -> None:
    grid = Geometry.from_parts((40, 36, 32), (1.5, 1.5, 1.5), (10, -20, 30), np.diag([-1.0, -1.0, 1.0]))
    places = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1)
    ball = np.linalg.norm(places - np.array([17, 15, 13]), axis=-1) <= 3
    image, mask = tmp_path / "a.nii.gz", tmp_path / "a_mask.nii.gz"
    write_nifti(Volume(np.where(ball, 300, -1000).astype(np.int16)[None], grid, "CT"), image)
    write_nifti(Volume(ball.astype(np.uint8)[None], grid, "SEG"), mask)
    half = BOX_VOXELS / 2
    box = (17 - half, 15 - half, 13 - half, 17 + half, 15 + half, 13 + half)
    sample = Sample("spots/a", "spots", "spots:a", image, "test", 0, (mask,), (box,))
    predictor = blob_predictor()
    found = scores(predictor, evaluate(predictor, manifest_of([sample])))
    assert found["segmentation.dice"].value is not None and found["segmentation.dice"].value > 0.9
    assert found["segmentation.hd95_mm"].value == pytest.approx(0.0, abs=1.6)
    assert found["detection.ap50"].value == pytest.approx(1.0) and found["detection.cpm"].value == 1.0
    assert found["detection.dice_of_found"].value == found["segmentation.dice"].value


def test_images_in_two_classes_stand_aside_and_their_scores_beside(tmp_path: Path) -> None:
    samples = pictures(tmp_path)
    conflict = picture(tmp_path, "c", ((4, 4), (30, 30)), split="train", flags=("label_conflict",))
    other_fold = replace(conflict, id="spots/d", group="spots:d", fold=3)
    manifest = manifest_of([*samples, conflict, other_fold])
    assert [(s.id, aside) for s, aside in chosen(manifest, "test")][-1] == ("spots/c", True)
    predictor = spot_predictor()
    evaluated = evaluate(predictor, manifest)
    summary = summarise(evaluated, tasks_of(predictor.network.outputs), draws=20)
    assert summary.scores["segmentation.dice"].n == 4
    assert summary.with_conflicts["segmentation.dice"].n == 5
    assert len(chosen(manifest, "all")) == 6


def test_samples_count_for_what_they_have(tmp_path: Path) -> None:
    samples = pictures(tmp_path)
    samples[0] = replace(samples[0], masks=None)
    samples[1] = replace(samples[1], boxes=None)
    samples[2] = replace(samples[2], boxes=None, masks=None)
    predictor = spot_predictor()
    evaluated = evaluate(predictor, manifest_of(samples))
    found = scores(predictor, evaluated)
    assert found["segmentation.dice"].n == 2 and found["detection.ap50"].n == 2
    assert evaluated.without_truth == 1 and len(evaluated.samples) == 3
    assert any("segmentation is scored on 2 of 4" in note for note in evaluated.notes)
    assert any("classification is not scored" in note for note in evaluated.notes)


def test_an_image_that_the_network_is_not_made_for_is_refused_by_name_and_counts_nowhere(tmp_path: Path) -> None:
    samples = pictures(tmp_path)
    colour = save(tmp_path / "colour.png", spot((64, 48), (8, 6), (24, 20), samples=3))
    samples[0] = replace(samples[0], image=colour)
    predictor = spot_predictor(colour="grey")
    evaluated = evaluate(predictor, manifest_of(samples))
    assert [one.id for one in evaluated.refused] == ["spots/p0"]
    assert scores(predictor, evaluated)["segmentation.dice"].n == 3
    with pytest.raises(ValueError, match=r"None of the 1 images was answered.*spots/p0"):
        evaluate(predictor, manifest_of(samples[:1]))


def test_a_mask_of_another_size_is_refused_by_name(tmp_path: Path) -> None:
    samples = pictures(tmp_path)
    samples[1] = replace(samples[1], masks=(save(tmp_path / "small.png", np.full((20, 20), 255, np.uint8)),))
    evaluated = evaluate(spot_predictor(), manifest_of(samples))
    assert evaluated.refused[0].id == "spots/p1" and "20 x 20 x 1 voxels" in evaluated.refused[0].reason


def test_missing_files_are_listed_before_anything_is_run(tmp_path: Path) -> None:
    samples = pictures(tmp_path)
    samples[0].image.unlink()
    samples[1].masks[0].unlink()  # type: ignore[index]
    predictor = spot_predictor()
    with pytest.raises(FileNotFoundError, match=r"2 file\(s\) that do not exist(.|\n)*p0.png(.|\n)*p1_mask.png"):
        evaluate(predictor, manifest_of(samples))
    assert predictor.network.batches == []  # type: ignore[comparison-overlap]


def test_a_manifest_without_any_truth_for_the_bundle_is_named_as_such(tmp_path: Path) -> None:
    samples = [
        replace(s, masks=None, boxes=None, image_class=None, values={"weight_kg": 70.0}) for s in pictures(tmp_path)
    ]
    with pytest.raises(ValueError, match=r"segmentation, detection, classification.*holds values \(weight_kg\)"):
        evaluate(spot_predictor(), manifest_of(samples))


def test_an_empty_split_and_an_unknown_source_are_refused(tmp_path: Path) -> None:
    manifest = manifest_of(pictures(tmp_path))
    with pytest.raises(ValueError, match="no sample of split 'val'; it has test"):
        evaluate(spot_predictor(), manifest, "val")
    with pytest.raises(ValueError, match="no source cats; it has spots"):
        evaluate(spot_predictor(), manifest, foreign=["cats"])


def test_records_survive_their_file_and_say_so_when_they_are_none(tmp_path: Path) -> None:
    predictor = spot_predictor()
    evaluated = evaluate(predictor, manifest_of(pictures(tmp_path)))
    write_records(evaluated, tmp_path / "records.json")
    again = read_records(tmp_path / "records.json")
    assert scores(predictor, again) == scores(predictor, evaluated) and again.model == evaluated.model
    (tmp_path / "records.json").write_text("{}")
    with pytest.raises(ValueError, match="no record of mtnet evaluate"):
        read_records(tmp_path / "records.json")
    with pytest.raises(FileNotFoundError, match="earlier mtnet evaluate"):
        read_records(tmp_path / "nothing.json")


def test_two_networks_are_compared_on_the_samples_that_both_have_answered(tmp_path: Path) -> None:
    predictor = spot_predictor()
    here = evaluate(predictor, manifest_of(pictures(tmp_path, 6)))
    worse = []
    for sample in here.samples[1:]:
        mask = sample.notes["segmentation"]
        worse.append(replace(sample, notes={**sample.notes, "segmentation": {**mask, "dice": mask["dice"] - 0.25}}))
    comparison = summarise(
        here, tasks_of(predictor.network.outputs), replace(here, samples=tuple(worse)), draws=50
    ).comparison
    assert comparison is not None and comparison.samples == 5
    told = comparison.differences["segmentation.dice"]
    assert told.difference.value == pytest.approx(0.25) and told.difference.ci95 == pytest.approx((0.25, 0.25))
    assert told.here.n == told.other.n == 5
    assert comparison.differences["segmentation.iou"].difference.value == 0.0
    with pytest.raises(ValueError, match="answered none of these samples"):
        summarise(here, tasks_of(predictor.network.outputs), replace(here, samples=()))


def test_the_worst_masks_are_kept_as_pictures_worst_first(tmp_path: Path) -> None:
    samples = pictures(tmp_path, 5)
    other = save(tmp_path / "other.png", (spot((64, 48), (40, 30), (50, 40)) > 100).astype(np.uint8) * 255)
    half = save(tmp_path / "half.png", (spot((64, 48), (12, 8), (20, 22)) > 100).astype(np.uint8) * 255)
    samples[3], samples[1] = replace(samples[3], masks=(other,)), replace(samples[1], masks=(half,))
    worst = WorstMasks(most=2)
    evaluate(spot_predictor(), manifest_of(samples), worst=worst)
    shown = worst.pictures()
    assert list(shown) == ["spots/p3", "spots/p1"]
    assert all(png.startswith(b"\x89PNG") for png in shown.values())


def test_measured_values_are_looked_for_under_their_name_and_unit() -> None:
    assert value_key(OutputSpec("diameter", "global", units="mm")) == "diameter_mm"
    assert value_key(OutputSpec("reader_rating", "global", units="rating 1 to 5")) == "reader_rating"
    assert value_key(OutputSpec("share", "global")) == "share"


def test_two_outputs_of_one_task_have_a_place_each() -> None:
    labelled = spot_predictor().network.outputs[2]
    paths = [task.path for task in tasks_of([labelled, replace(labelled, name="second")])]
    assert paths == ["classification", "classification.second"]


def test_classes_that_do_not_exclude_each_other_are_known_by_value_by_count_and_by_class(tmp_path: Path) -> None:
    sample = picture(tmp_path, "a", None, values={"nodules": 3.0, "subsolid_nodule": 0.0})
    names = ["nodule", "subsolid_nodule", "effusion"]
    assert known_presence(sample, names) == {"nodule": True, "subsolid_nodule": False}
    assert known_presence(replace(sample, image_class="effusion"), names) == {
        **{"nodule": True, "subsolid_nodule": False, "effusion": True},
    }
    plain = replace(sample, values={})
    assert known_presence(plain, names) == known_presence(replace(plain, image_class="benign"), names) == {}
    assert known_presence(replace(plain, image_class="normal"), names) == dict.fromkeys(names, False)
