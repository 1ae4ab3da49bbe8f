"""A study that the bundle is not made for, from file to exit code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from mtnet.bundle import Bundle, BundleError
from mtnet.cli.main import main
from mtnet.hosts.monai_bundle import StudyRun
from mtnet.inference.input_check import check_image, check_lungs
from mtnet.inference.region import Region, find_lungs
from mtnet.io import load, scan
from mtnet.predictor import Predictor, ReadOptions
from mtnet.structures import InputDomain, RefusedError, Source
from mtnet.systems import chest_ct
from tests.builders import write_ct_series
from tests.bundles import SHIPPED, blob_predictor, write_tiny_bundle

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")

SHAPE, SPACING_MM = (72, 48, 44), (5.0, 5.5, 6.0)
DECLARED = json.loads((SHIPPED / "configs" / "metadata.json").read_text(encoding="utf-8"))["input_domain"]
THICK_TOO = {**DECLARED, "slice_thickness_mm": {"flag_above": 6.0, "refuse_above": 8.0}}


def chest(points_lps_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """HU of a trunk with two lungs, in air."""

    def inside(centre: tuple[float, ...], radii: tuple[float, ...]) -> NDArray[np.bool_]:
        return np.asarray((((points_lps_mm - centre) / radii) ** 2).sum(axis=-1) <= 1)

    lungs = inside((68, 0, 0), (50, 75, 105)) | inside((-68, 0, 0), (50, 75, 105))
    return np.where(lungs, -850.0, np.where(inside((0, 0, 0), (150, 105, 1000)), 40.0, -1000.0))


def trunk(points_lps_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(chest(points_lps_mm) > -900, 40.0, -1000.0)


def write(folder: Path, values: Any = chest, shape: tuple[int, int, int] = SHAPE, **options: Any) -> str:
    origin = [-(n - 1) / 2 * mm for n, mm in zip(SHAPE, SPACING_MM, strict=True)]
    return write_ct_series(
        folder, shape=shape, spacing_mm=SPACING_MM, origin_lps_mm=origin, values=values, **options
    ).series_uid


def declare(bundle: Path, domain: Mapping[str, Any] | None) -> Path:
    file = bundle / "configs" / "metadata.json"
    metadata = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**metadata, "input_domain": domain}), encoding="utf-8")
    return bundle


@pytest.fixture(scope="module", name="bundle")
def _bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny", score_bias=-3.0, spacing_mm=[12.0] * 3)
    return declare(made, THICK_TOO)


def infer(*arguments: object) -> int:
    return main(["infer", *map(str, arguments), "--device", "cpu"])


def report(out: Path) -> dict[str, str]:
    return {line["code"]: line["severity"] for line in json.loads((out / "findings.json").read_text())["report"]}


def test_a_chest_is_answered_and_the_report_says_what_was_judged(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in")
    assert infer(tmp_path / "in", tmp_path / "out", "--bundle", bundle) == 0
    assert {"input_checked": "note", "body_part_judged": "note"}.items() <= report(tmp_path / "out").items()
    assert "flagged" not in capsys.readouterr().out


@pytest.mark.parametrize("region", ["whole", "lung_field"])
def test_an_image_without_lungs_is_refused_before_the_network_runs(
    tmp_path: Path, region: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = blob_predictor()
    predictor.domain = InputDomain(modalities=("CT",), values="HU", organ="lungs")
    predictor.inferer.region = Region(region, chest_ct.HU_WINDOW)

    def never(*_: object) -> None:
        raise AssertionError("the network ran")

    monkeypatch.setattr(type(predictor.network), "forward", never)
    write(tmp_path / "in", trunk)
    with pytest.raises(RefusedError, match="no lungs in the image"):
        predictor.run(tmp_path / "in")
    with pytest.raises(AssertionError, match="the network ran"):
        predictor.run(tmp_path / "in", ReadOptions(allow_outside=True))


def test_a_refusal_is_exit_code_1_says_how_to_go_on_and_leaves_no_results_of_before(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "chest")
    write(tmp_path / "trunk", trunk)
    out = tmp_path / "out"
    assert infer(tmp_path / "chest", out, "--bundle", bundle) == 0
    capsys.readouterr()
    assert infer(tmp_path / "trunk", out, "--bundle", bundle) == 1
    told = capsys.readouterr().err
    assert "refused: There are no lungs" in told and "--allow-outside" in told and "Traceback" not in told
    assert not out.exists() or not list(out.iterdir())
    assert infer(tmp_path / "trunk", out, "--bundle", bundle, "--allow-outside") == 0
    assert "flagged: There are no lungs" in capsys.readouterr().out
    assert report(out)["no_lungs"] == "flagged"


def test_a_refused_study_leaves_the_others_answered(bundle: Path, tmp_path: Path) -> None:
    for name, values in (("a", chest), ("b", trunk), ("c", chest)):
        write(tmp_path / "in" / name, values, study=name, series=name)
    assert infer(tmp_path / "in", tmp_path / "out", "--bundle", bundle) == 1
    assert len(list((tmp_path / "out").glob("*/findings.json"))) == 2


def test_a_part_of_a_chest_is_flagged_and_refused_by_strict(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in", shape=(72, 48, 20))
    assert infer(tmp_path / "in", tmp_path / "out", "--bundle", bundle) == 0
    assert "flagged: The image does not hold all of the lungs" in capsys.readouterr().out
    assert report(tmp_path / "out")["lungs_cut_off"] == "flagged"
    assert infer(tmp_path / "in", tmp_path / "strict", "--bundle", bundle, "--strict") == 1
    assert "lungs_cut_off" in capsys.readouterr().err
    assert infer(tmp_path / "in", tmp_path / "both", "--bundle", bundle, "--strict", "--allow-outside") == 1
    assert "Give one" in capsys.readouterr().err


def test_headers_are_judged_before_anything_is_computed(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def as_mr(dataset: Any, _: int) -> None:
        dataset.SOPClassUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.4", "MR"
        del dataset.RescaleType

    def prone(dataset: Any, _: int) -> None:
        dataset.PatientPosition, dataset.ContrastBolusAgent, dataset.BodyPartExamined = "HFP", "NONE", "ABDOMEN"

    uid = write(tmp_path / "mr", edit=as_mr)
    assert infer(tmp_path / "mr", tmp_path / "out", "--bundle", bundle, "--series", uid) == 1
    assert "Modality (0008,0060) is MR; the network is made for CT" in capsys.readouterr().err
    write(tmp_path / "few", shape=(72, 48, 7))
    few = next(iter(scan(tmp_path / "few"))).series[0].series_instance_uid
    assert infer(tmp_path / "few", tmp_path / "out", "--bundle", bundle, "--series", few) == 1
    assert "7 slice(s); the network is made for at least 8" in capsys.readouterr().err
    write(tmp_path / "prone", edit=prone)
    assert infer(tmp_path / "prone", tmp_path / "out", "--bundle", bundle) == 0
    found = report(tmp_path / "out")
    assert (found["patient_position_outside"], found["body_part_outside"]) == ("flagged", "flagged")
    shown = json.loads((tmp_path / "out" / "findings.json").read_text())["report"]
    assert any("no contrast agent named" in line["message"] for line in shown)


def test_a_nifti_of_hu_is_taken_for_ct_and_one_of_other_values_is_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), axis=-1)
    hu = chest((grid - (np.array(SHAPE) - 1) / 2) * SPACING_MM)
    affine = np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1.0])
    for name, values in (("hu", hu), ("stored", hu + 1024)):
        nibabel.save(nibabel.Nifti1Image(values.astype(np.int16), affine), tmp_path / f"{name}.nii.gz")
    assert infer(tmp_path / "hu.nii.gz", tmp_path / "out", "--bundle", bundle) == 0
    assert {"modality_judged", "body_part_judged"} <= set(report(tmp_path / "out"))
    assert infer(tmp_path / "stored.nii.gz", tmp_path / "no", "--bundle", bundle) == 1
    assert "do not look like HU" in capsys.readouterr().err


def test_a_bundle_that_declares_nothing_answers_everything_and_says_so(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny", spacing_mm=[12.0] * 3)
    assert Bundle.read(bundle).input_domain() is None
    write(tmp_path / "in", trunk)
    findings = Predictor.from_bundle(bundle, device="cpu").run(tmp_path / "in")
    assert "domain_not_declared" in findings.report.codes


def test_monais_run_checks_as_the_command_line_does(bundle: Path, tmp_path: Path) -> None:
    parts = Bundle.read(bundle)
    run = StudyRun(str(bundle), *(parts.build(part) for part in ("network_def", "preprocessing", "inferer")))
    write(tmp_path / "in", trunk)
    with pytest.raises(RefusedError, match="no_lungs"):
        run(str(tmp_path / "in"), str(tmp_path / "out"))
    assert not (tmp_path / "out" / "findings.json").exists()


@pytest.mark.parametrize(
    ("domain", "named"),
    [
        ([], "input_domain is"),
        ({"modality": ["CT"]}, "input_domain#modality is not known"),
        ({"modalities": "CT"}, "input_domain#modalities is 'CT'"),
        ({"modalities": ["CT", 3]}, "input_domain#modalities"),
        ({"slices": 8}, "input_domain#slices is 8"),
        ({"slices": {"at_least": 8}}, "input_domain#slices#at_least is not known"),
        ({"slices": {"refuse_below": "8"}}, "input_domain#slices#refuse_below is '8'"),
        ({"lung_volume_ml": {"flag_above": 5, "refuse_above": 4}}, "input_domain#lung_volume_ml#flag_above is 5"),
        ({"organ": "liver"}, "input_domain#organ is 'liver'"),
        ({"verdicts": {"no_lungs": "forbidden"}}, "input_domain#verdicts of 'no_lungs'"),
        ({"verdicts": {"no_lung": "note"}}, "input_domain#verdicts has 'no_lung'"),
    ],
)
def test_a_declaration_that_is_not_valid_is_an_error_that_names_the_field(
    tmp_path: Path, domain: Any, named: str
) -> None:
    bundle = declare(write_tiny_bundle(tmp_path / "tiny"), domain)
    with pytest.raises(BundleError, match=r"metadata\.json: ") as caught:
        Predictor.from_bundle(bundle, device="cpu")
    assert named in str(caught.value)


# What a radiologist would say of each volume: no lungs, no CT, noise; or that it holds a part of the lungs.
SAID = {
    "ct_chest_duplicates": {"slices_outside", "lungs_cut_off"},
    "ct_chest_missing_slices": {"slices_outside", "lungs_cut_off"},
    "ct_chest_overlapping": {"slices_outside", "lungs_cut_off"},
    "ct_with_dicom_seg": {"slices_outside", "lungs_cut_off"},
    "ct_chest_single_slice": {"slices_outside", "no_lungs"},
    "ct_gap_ge": {"slices_outside", "values_not_hu"},
    "ct_reformat_sagittal_non_square": {"slices_outside", "no_lungs"},
    "ct_localizer_kernels_dose_philips": {"slices_outside", "no_lungs"},
    "ct_tilt_philips_minus18": {"slices_outside", "no_lungs"},
    "ct_tilt_variable_spacing_ge": {"slices_outside", "thickness_outside", "no_lungs"},
    "ct_two_studies_one_folder": {"slices_outside", "no_lungs"},
    "mr_jpeg_lossless_fragments": {"slices_outside", "modality_outside", "no_lungs"},
    "mr_two_orientations": {"slices_outside", "modality_outside", "no_lungs"},
}


@pytest.mark.study
@pytest.mark.parametrize("name", SAID)
def test_real_volumes_are_judged_as_a_radiologist_would(name: str, data_dir: Path) -> None:
    domain = Bundle.read(SHIPPED).input_domain()
    assert domain is not None
    judged = 0
    for study in scan(data_dir / "dicom_robustness" / name):
        for series, stack in ((one, stack) for one in study.series for stack in one.stacks):
            if stack.kind != "volume":
                continue
            volume = load(stack, series, repair=True)
            source = Source(series=series, stack=stack)
            lungs = find_lungs(volume.array[0], volume.geometry)
            lines = (*check_image(domain, volume, source), *check_lungs(domain, lungs, source))
            codes = {line.code for line in lines if line.severity != "note"}
            # Noise has no lungs to judge.
            assert codes - {"lungs_cut_off"} == SAID[name] if name == "ct_gap_ge" else codes == SAID[name]
            judged += 1
    assert judged


@pytest.mark.study
def test_both_series_of_the_real_chest_study_are_within_and_the_absent_tag_is_noted(data_dir: Path) -> None:
    domain = Bundle.read(SHIPPED).input_domain()
    assert domain is not None
    (study,) = scan(data_dir / "chest_ct_study" / "Lung_Dx-A0001")
    assert len(study.series) == 2
    for series in study.series:
        source = Source(series=series, stack=series.stacks[0])
        volume = load(series.stacks[0], series)
        lungs = find_lungs(volume.array[0], volume.geometry)
        lines = (*check_image(domain, volume, source), *check_lungs(domain, lungs, source))
        assert {line.severity for line in lines} == {"note"}
        assert "body_part_judged" in {line.code for line in lines}
        assert 4500 < lungs.volume_ml < 6000
