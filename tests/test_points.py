"""A network of points through the whole chain: where it is asked, what it is told of, and what is refused."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from mtnet.points import Points, asked, points_at, points_of_findings
from mtnet.predictor import Predictor, ReadOptions
from mtnet.results import read_findings_json, write_findings_json
from mtnet.structures import Findings, Geometry, ModelInfo, Point, RefusedError, Source
from mtnet.study_folder import answer_studies
from mtnet.systems import res_mtnet
from tests.builders import write_ct_series
from tests.bundles import BallSystem, ball_predictor, blob_predictor, write_tiny_bundle
from tests.test_study_folder import check_complete

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")

SMALL, LARGE = (30.5, -12.0, -20.0), (-20.0, 24.0, 4.0)
TURNED = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def two_balls(p: np.ndarray) -> np.ndarray:
    """A ball of 6 mm and one of 12 mm in air."""
    small, large = (np.linalg.norm(p - np.array(place), axis=-1) for place in (SMALL, LARGE))
    return np.where((small <= 3) | (large <= 6), 300.0, -900.0)


def write_study(folder: Path, **options: Any) -> Path:
    how = {"values": two_balls, "origin_lps_mm": (-67.0, -62.0, -30.0), **options}
    write_ct_series(folder, shape=(96, 90, 30), spacing_mm=(1.4, 1.4, 2.0), **how)
    return folder


def ask(path: Path, *places: tuple[float, float, float], predictor: Predictor | None = None) -> Findings:
    return (predictor or ball_predictor()).run(path, ReadOptions(points=points_at(places)))


def refusal(path: Path, points: Points | None) -> tuple[str, str]:
    with pytest.raises(RefusedError) as refused:
        ball_predictor().run(path, ReadOptions(points=points))
    (line,) = refused.value.lines
    return line.code, line.message


@pytest.mark.parametrize("direction", [np.eye(3), TURNED, np.diag([-1.0, 1.0, -1.0])])
def test_each_place_is_measured_where_it_lies_whatever_the_grid(tmp_path: Path, direction: np.ndarray) -> None:
    origin = -direction @ (np.array([48, 45, 15]) * [1.4, 1.4, 2.0])
    write_study(tmp_path / "in", direction_lps=direction, origin_lps_mm=origin.tolist())
    found = ask(tmp_path / "in", SMALL, LARGE)
    assert [lesion.centre_lps_mm for lesion in found.lesions] == [SMALL, LARGE]
    measured = [lesion.measured["diameter_mm"].value for lesion in found.lesions]
    assert measured == pytest.approx([6.0, 12.0], abs=0.8)
    assert [lesion.label for lesion in found.lesions] == ["low_reader_suspicion", "high_reader_suspicion"]
    for lesion in found.lesions:
        mask = found.lesion_map.array[0] == lesion.number
        off_index = np.argwhere(mask).mean(axis=0) - found.geometry.lps_mm_to_index(lesion.centre_lps_mm)
        assert (np.abs(off_index) <= 0.5).all()
        # What was drawn lies on the bright ball that was measured.
        assert (two_balls(found.geometry.index_to_lps_mm(np.argwhere(mask))) > 0).mean() > 0.8


def test_places_go_through_the_network_in_batches_with_the_same_answers(tmp_path: Path) -> None:
    write_study(tmp_path / "in")
    places = [SMALL, LARGE, (0.0, 0.0, 0.0), SMALL, LARGE]
    single, several = ball_predictor(1), ball_predictor(3)
    one, many = (ask(tmp_path / "in", *places, predictor=predictor) for predictor in (single, several))
    assert (single.network.batches, several.network.batches) == ([1] * 5, [3, 2])
    assert [lesion.measured for lesion in one.lesions] == [lesion.measured for lesion in many.lesions]


def test_the_middle_of_a_crop_is_its_place(tmp_path: Path) -> None:
    crop = {"shape": (40, 36, 12), "spacing_mm": (0.8, 0.8, 2.0), "origin_lps_mm": (15.0, -26.0, -31.0)}
    write_ct_series(tmp_path / "in", values=two_balls, **crop)
    found = ball_predictor().run(tmp_path / "in")
    (lesion,) = found.lesions
    assert lesion.centre_lps_mm == pytest.approx((15 + 0.8 * 19.5, -26 + 0.8 * 17.5, -31 + 2 * 5.5))
    assert lesion.measured["diameter_mm"].value == pytest.approx(6.0, abs=0.6)
    assert "middle_of_crop" in found.report.codes and found.options["places"] == "middle of the crop"


def test_a_study_without_a_place_is_refused_with_what_to_do(tmp_path: Path) -> None:
    code, message = refusal(write_study(tmp_path / "in"), None)
    assert code == "no_place_given"
    assert "--at x,y,z" in message and "--lesions" in message and "134.4 x 126 x 60 mm" in message


def test_a_place_outside_is_refused_with_what_the_image_spans(tmp_path: Path) -> None:
    code, message = refusal(write_study(tmp_path / "in"), points_at([SMALL, (200.0, 0.0, 0.0)]))
    assert code == "place_outside"
    assert message.startswith("Place 2 (200.0, 0.0, 0.0)") and "x -67.7 to 66.7" in message


def test_a_field_that_reaches_out_is_flagged(tmp_path: Path) -> None:
    found = ask(write_study(tmp_path / "in"), SMALL, (60.0, 0.0, 0.0))
    (line,) = [line for line in found.report if line.code == "field_reaches_outside"]
    assert line.severity == "flagged" and "around place 2 reaches 4.3 mm out" in line.message
    with pytest.raises(RefusedError, match="field_reaches_outside"):
        ball_predictor().run(tmp_path / "in", ReadOptions(points=points_at([(60.0, 0.0, 0.0)]), strict=True))


def test_places_are_for_networks_of_points_and_for_one_study(tmp_path: Path) -> None:
    write_study(tmp_path / "in" / "a")
    options = ReadOptions(points=points_at([SMALL]))
    with pytest.raises(ValueError, match="toy looks at all of an image"):
        blob_predictor().run(tmp_path / "in", options)
    write_study(tmp_path / "in" / "b", study="other", series="other", frame="other")
    assert refusal(tmp_path / "in", points_at([SMALL]))[0] == "several_studies"
    with pytest.raises(RefusedError, match="places lie in one"):
        list(answer_studies(ball_predictor(), tmp_path / "in", tmp_path / "out", options))
    assert not (tmp_path / "out").exists()


def test_a_network_of_points_gives_global_outputs_of_a_volume() -> None:
    model = ModelInfo("toy", "1", "ab" * 32, "nothing")
    system = BallSystem()
    system.outputs = (dataclasses.replace(res_mtnet.DIAMETER, kind="dense", strides=(1,)),)
    with pytest.raises(ValueError, match="its outputs diameter are not"):
        Predictor(system, res_mtnet.preprocessing(), res_mtnet.inferer(), model)


def earlier(folder: Path, study: Path) -> Path:
    """The findings of the tiny chest-CT bundle on a study: random weights find something."""
    predictor = Predictor.from_bundle(write_tiny_bundle(folder / "bundle"), device="cpu")
    (outcome,) = answer_studies(predictor, study, folder / "found")
    assert outcome.written is not None and outcome.written.findings.lesions
    return folder / "found" / "findings.json"


def test_the_lesions_of_an_earlier_run_are_measured_and_keep_their_tracking_uids(tmp_path: Path) -> None:
    study = write_study(tmp_path / "in")
    write_study(tmp_path / "in2", study="other", series="other", frame="other")
    file = earlier(tmp_path, study)
    before = read_findings_json(file).lesions
    options = ReadOptions(points=points_of_findings(file))
    (outcome,) = answer_studies(ball_predictor(), study, tmp_path / "out", options)
    document = check_complete(outcome.folder)
    assert [lesion["tracking_uid"] for lesion in document["lesions"]] == [lesion.tracking_uid for lesion in before]
    for lesion, found in zip(document["lesions"], before, strict=True):
        assert lesion["centre_lps_mm"] == pytest.approx(found.centre_lps_mm, abs=1e-4)
    assert document["options"]["places"] == "lesions of an earlier run"
    assert refusal(tmp_path / "in2", points_of_findings(file))[0] == "lesions_of_another_study"


def test_of_several_studies_the_one_of_the_lesions_is_answered(tmp_path: Path) -> None:
    study = write_study(tmp_path / "in" / "a")
    file = earlier(tmp_path, study)
    write_study(tmp_path / "in" / "b", study="other", series="other", frame="other")
    (outcome,) = answer_studies(
        ball_predictor(), tmp_path / "in", tmp_path / "out", ReadOptions(points=points_of_findings(file))
    )
    assert outcome.folder == tmp_path / "out" and outcome.written is not None


def findings_file(path: Path, lesions: Any, **source: str) -> Path:
    geometry = Geometry.from_parts((10, 10, 10), (1, 1, 1))
    write_findings_json(Findings(geometry, Source(**source), ModelInfo("a", "1", "", "nothing"), lesions), path)
    return path


def test_an_earlier_run_that_found_nothing_leaves_nothing_to_measure(tmp_path: Path) -> None:
    file = findings_file(tmp_path / "findings.json", (), file_name="a.nii.gz")
    assert refusal(write_study(tmp_path / "in"), points_of_findings(file))[0] == "no_lesions_given"


def test_what_is_asked_is_places_or_lesions(tmp_path: Path) -> None:
    assert asked(None, None) is None
    assert asked([(1, 2, 3)], None) == Points((Point((1.0, 2.0, 3.0)),))
    with pytest.raises(ValueError, match="both given"):
        asked([(1, 2, 3)], tmp_path / "findings.json")
    with pytest.raises(FileNotFoundError, match="--lesions"):
        asked(None, tmp_path / "findings.json")
    for wrong in ([(1, 2)], ["abc"], [(1, 2, float("nan"))]):
        with pytest.raises(ValueError, match="three"):
            asked(wrong, None)
    (tmp_path / "findings.json").write_text(json.dumps({"schema_version": "0.1"}))
    with pytest.raises(ValueError, match=r"findings\.json has schema_version '0\.1'"):
        asked(None, tmp_path / "findings.json")


def test_real_crops_of_nodules_are_taken_as_they_are(data_dir: Path, tmp_path: Path) -> None:
    with (data_dir / "lidc_voi" / "index.csv").open() as stream:
        rows = list(csv.DictReader(stream))[::197]
    for row in rows:
        with np.load(data_dir / "lidc_voi" / row["file"]) as crop:
            nibabel.save(nibabel.Nifti1Image(crop["image"], crop["affine"]), tmp_path / "crop.nii.gz")
            inside = crop["mask"] > 0
        found = ball_predictor().run(tmp_path / "crop.nii.gz")
        (lesion,) = found.lesions
        np.testing.assert_allclose(
            found.geometry.lps_mm_to_index(lesion.centre_lps_mm), (np.array(inside.shape) - 1) / 2, atol=1e-6
        )
        assert "field_reaches_outside" not in found.report.codes
        # What is bright in the field is the nodule and what it touches.
        assert found.lesion_map.array[0][inside].any()
