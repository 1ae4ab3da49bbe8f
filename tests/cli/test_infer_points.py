"""``mtnet infer`` on nodules at given places: the real chest study, crops, and what is told where it cannot be done."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest

from mtnet.cli import main
from mtnet.predictor import Predictor
from tests.bundles import SHIPPED, write_random_bundle
from tests.results.judges import errors_of
from tests.test_study_folder import check_complete, names

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")

NODULES = SHIPPED.parent / "res_mtnet_nodule"
PLACES = ((-62.5, 110.0, -240.0), (20.0, 30.0, -300.5))


@pytest.fixture(scope="module", name="bundle")
def _bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_bundle("res_mtnet_nodule", tmp_path_factory.mktemp("bundle") / "res_mtnet_nodule")


@pytest.fixture(name="crop")
def _crop(tmp_path: Path) -> Path:
    hu = np.full((40, 40, 12), -850, np.int16)
    hu[14:26, 14:26, 3:9] = 40
    nibabel.save(nibabel.Nifti1Image(hu, np.diag([-0.8, -0.8, 1.5, 1.0])), tmp_path / "crop.nii.gz")
    return tmp_path / "crop.nii.gz"


def run(*arguments: object) -> int:
    return main.main(["infer", *map(str, arguments), "--device", "cpu"])


def document(folder: Path) -> dict[str, Any]:
    return check_complete(folder)


def content(item: pydicom.Dataset) -> list[tuple[str, Any]]:
    """Every named value of a structured report: numbers with their unit, codes by their meaning, and texts."""
    found: list[tuple[str, Any]] = []
    name = item.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in item else ""
    if item.ValueType == "NUM":
        value = item.MeasuredValueSequence[0]
        found.append((name, (float(value.NumericValue), value.MeasurementUnitsCodeSequence[0].CodeValue)))
    elif item.ValueType == "CODE":
        found.append((name, item.ConceptCodeSequence[0].CodeMeaning))
    elif item.ValueType == "TEXT":
        found.append((name, item.TextValue))
    for inner in item.get("ContentSequence", ()):
        found.extend(content(inner))
    return found


@pytest.mark.study
def test_two_places_of_the_real_study_give_every_file_and_dicom_without_errors(
    bundle: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = data_dir / "chest_ct_study" / "Lung_Dx-A0001"
    # The first begins with a minus, as places often do.
    places = [part for place in PLACES for part in ("--at", ",".join(map(str, place)))]
    assert run(study, tmp_path / "out", "--bundle", bundle, *places) == 0
    told = document(tmp_path / "out")
    assert names(tmp_path / "out") == {
        "findings.json",
        "segmentation.nii.gz",
        "lesions.nii.gz",
        "segmentation.dcm",
        "report.dcm",
        "overlay.png",
        "overlay.dcm",
    }
    assert [tuple(lesion["centre_lps_mm"]) for lesion in told["lesions"]] == list(PLACES)
    assert all(lesion["score"] is None and lesion["volume_mm3"] is None for lesion in told["lesions"])
    flagged = {line["code"] for line in told["report"] if line["severity"] == "flagged"}
    assert flagged == {"spacing_outside", "thickness_outside"}

    assert errors_of(tmp_path / "out" / "segmentation.dcm") == []
    assert errors_of(tmp_path / "out" / "report.dcm", "Comprehensive3DSR") == []
    seg = pydicom.dcmread(tmp_path / "out" / "segmentation.dcm")
    assert [s.TrackingUID for s in seg.SegmentSequence] == [lesion["tracking_uid"] for lesion in told["lesions"]]
    for segment in seg.SegmentSequence:
        assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Nodule"
        assert "drawn; its outline was not seen" in segment.SegmentDescription
    said = content(pydicom.dcmread(tmp_path / "out" / "report.dcm"))
    diameters = [round(lesion["measured"]["diameter_mm"]["value"], 4) for lesion in told["lesions"]]
    assert [round(v[0], 4) for name, v in said if name == "Diameter" and v[1] == "mm"] == diameters
    assert said.count(("Segment of the lesion", "Ball of the measured diameter, drawn")) == 2
    assert not {"Volume", "Long axis", "Short axis", "Detection score"} & {name for name, _ in said}
    assert ("Comment", "2 lesions were measured at given places; none was looked for.") in said

    lesions = nibabel.load(tmp_path / "out" / "lesions.nii.gz")
    for lesion, place in zip(told["lesions"], PLACES, strict=True):
        index = np.argwhere(np.asarray(lesions.dataobj) == lesion["number"]).mean(axis=0)
        wanted = np.linalg.solve(lesions.affine, [-place[0], -place[1], place[2], 1])[:3]
        assert (np.abs(index - wanted) <= 0.5).all()
    shown = capsys.readouterr().out
    assert "lesion 1: diameter_mm" in shown and "Masks are balls of the measured diameter, drawn" in shown


def test_a_crop_is_measured_in_its_middle(bundle: Path, crop: Path, tmp_path: Path) -> None:
    assert run(crop, tmp_path / "out", "--bundle", bundle) == 0
    told = document(tmp_path / "out")
    (lesion,) = told["lesions"]
    assert lesion["centre_lps_mm"] == pytest.approx([0.8 * 19.5, 0.8 * 19.5, 1.5 * 5.5])
    assert sum(lesion["class_probabilities"]["reader_suspicion"].values()) == pytest.approx(1, abs=1e-5)
    assert 1 < lesion["measured"]["diameter_mm"]["value"] < 30
    assert told["dicom_seg"]["reason"] == "the source is no DICOM series"


def test_real_crops_are_answered_also_where_hardly_a_voxel_is_soft_tissue(
    bundle: Path, data_dir: Path, tmp_path: Path
) -> None:
    predictor = Predictor.from_bundle(bundle, device="cpu")
    flagged = {}
    for name in ("LIDC-IDRI-0003_R_2", "LIDC-IDRI-0012_R_1"):
        with np.load(data_dir / "lidc_voi" / "nodules" / f"{name}.npz") as crop:
            nibabel.save(nibabel.Nifti1Image(crop["image"], crop["affine"]), tmp_path / f"{name}.nii.gz")
        found = predictor.run(tmp_path / f"{name}.nii.gz")
        assert len(found.lesions) == 1 and found.lesions[0].measured["diameter_mm"].value > 0
        flagged[name] = {line.code for line in found.report if line.severity == "flagged"}
    assert list(flagged.values()) == [set(), {"values_not_hu"}]


def test_tasks_leave_out_what_was_not_asked(bundle: Path, crop: Path, tmp_path: Path) -> None:
    assert run(crop, tmp_path / "classes", "--bundle", bundle, "--tasks", "classification") == 0
    (lesion,) = document(tmp_path / "classes")["lesions"]
    assert "measured" not in lesion and lesion["mask_component"] is None
    assert names(tmp_path / "classes") == {"findings.json", "overlay.png"}
    assert run(crop, tmp_path / "values", "--bundle", bundle, "--tasks", "regression") == 0
    (lesion,) = document(tmp_path / "values")["lesions"]
    assert set(lesion["measured"]) == {"diameter_mm", "reader_rating"} and lesion["class_probabilities"] == {}


@pytest.mark.parametrize("options", [{"spatial_dims": 3}, {"uncertainty": True}, {"interaction": "none"}])
def test_another_network_is_one_override(crop: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    other = write_random_bundle("res_mtnet_nodule", tmp_path / "bundle", **options)
    assert run(crop, tmp_path / "out", "--bundle", other) == 0
    (lesion,) = document(tmp_path / "out")["lesions"]
    sd = lesion["measured"]["diameter_mm"]["sd"]
    assert sd > 0 if "uncertainty" in options else sd is None
    (line,) = [line for line in document(tmp_path / "out")["report"] if line["code"] == "places"]
    assert ("32 x 32 x 32 mm" if "spatial_dims" in options else "22 x 22 x 3 mm") in line["message"]


def test_a_bundle_without_weights_says_so_and_answers_nothing(
    crop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(NODULES, bundle, ignore=shutil.ignore_patterns("models"))
    assert run(crop, tmp_path / "out", "--bundle", bundle) == 1
    assert "the bundle has no weights" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--at", "1,2"], "'1,2' is no place; expected X,Y,Z"),
        (["--at", "1,2,three"], "is no place"),
        (["--at", "1,2,3", "--lesions", "findings.json"], "not allowed with"),
    ],
)
def test_a_wrong_place_is_wrong_usage(
    arguments: list[str], told: str, bundle: Path, crop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(crop, tmp_path / "out", "--bundle", bundle, *arguments)
    assert ended.value.code == 2 and told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--at", "500,-2,3"], "Place 1 (500.0, -2.0, 3.0) lies outside of the image"),
        (["--at", "nan,2,3"], "three finite numbers"),
        (["--lesions", "nowhere.json"], "nowhere.json does not exist"),
    ],
)
def test_a_place_that_cannot_be_answered_is_refused_and_nothing_is_written(
    arguments: list[str], told: str, bundle: Path, crop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(crop, tmp_path / "out", "--bundle", bundle, *arguments) == 1
    shown = capsys.readouterr()
    assert told in shown.err and "Traceback" not in shown.err
    assert not (tmp_path / "out").exists()


def test_lesions_go_from_one_run_to_the_next(bundle: Path, crop: Path, tmp_path: Path) -> None:
    assert run(crop, tmp_path / "first", "--bundle", bundle, "--at", "15,16,7", "--at", "9,10,11") == 0
    findings = tmp_path / "first" / "findings.json"
    assert run(crop, tmp_path / "second", "--bundle", bundle, "--lesions", findings) == 0
    first, second = (json.loads((tmp_path / run / "findings.json").read_text()) for run in ("first", "second"))
    for key in ("tracking_uid", "centre_lps_mm", "measured"):
        assert [lesion[key] for lesion in first["lesions"]] == [lesion[key] for lesion in second["lesions"]]
