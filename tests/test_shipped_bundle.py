"""The bundle as it ships, on the real study, on copies with drawn nodules in its lung, and on drawn chests."""

import json
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from mtnet.cli.main import main
from mtnet.evaluation.phantom_score import score_bundle
from mtnet.io import load, scan, select
from mtnet.phantoms import NoduleRequest
from mtnet.phantoms.dicom import write_implanted_series
from mtnet.phantoms.implant import implant_nodules
from mtnet.structures import Geometry
from tests.dcm2niix_judge import convert_with_dcm2niix, read_canonical, worst_distance_mm

BUNDLE = Path(__file__).parents[1] / "bundles" / "chest_ct_multitask"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.study,
    pytest.mark.xdist_group("shipped"),
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def study(data_dir: Path) -> Path:
    return data_dir / "chest_ct_study" / "Lung_Dx-A0001"


@pytest.fixture(scope="module")
def answered(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("real") / "out"
    assert main(["infer", str(study), str(out), "--bundle", str(BUNDLE)]) == 0
    return out


@pytest.fixture(scope="module")
def implanted(study: Path, tmp_path_factory: pytest.TempPathFactory):
    selection = select(scan(study))
    volume = load(selection.stack, selection.series)
    requests = [NoduleRequest(diameter_mm=d, texture="solid", place="parenchyma", form="smooth") for d in (12, 15, 18)]
    changed, truth = implant_nodules(volume, 11, requests)
    folder = tmp_path_factory.mktemp("implanted")
    write_implanted_series([instance.path for instance in selection.stack.instances], changed, folder / "study")
    assert main(["infer", str(folder / "study"), str(folder / "out"), "--bundle", str(BUNDLE)]) == 0
    return folder, truth, volume.geometry


def test_the_soft_kernel_is_taken_and_the_reason_told(answered: Path) -> None:
    findings = json.loads((answered / "findings.json").read_text())
    taken = [choice for choice in findings["source"]["series_choices"] if choice["taken"]]
    assert len(taken) == 1
    assert "kernel B (soft)" in taken[0]["reason"]
    passed = [choice for choice in findings["source"]["series_choices"] if not choice["taken"]]
    assert "kernel L" in passed[0]["reason"]


def test_every_nifti_lies_where_dcm2niix_puts_the_series(answered: Path, study: Path, tmp_path: Path) -> None:
    uid = json.loads((answered / "findings.json").read_text())["source"]["series_instance_uid"]
    judged = next(one for one in convert_with_dcm2niix(study, tmp_path / "judge") if one.name.startswith(uid))
    for file in answered.glob("*.nii.gz"):
        assert worst_distance_mm(read_canonical(file), judged) < 1e-3, file.name


def test_the_results_say_what_the_weights_were_trained_on(answered: Path) -> None:
    findings = json.loads((answered / "findings.json").read_text())
    assert findings["model"]["training_data"] == "drawn data and LIDC-IDRI nodules"
    assert "not a medical device" in findings["notice"].lower()


def test_nodules_drawn_into_the_real_lung_are_found_to_within_a_voxel(implanted) -> None:
    folder, truth, geometry = implanted
    lesions = json.loads((folder / "out" / "findings.json").read_text())["lesions"]
    for nodule in truth:
        wanted = geometry.lps_mm_to_index(nodule.centre_lps_mm)
        away = [np.abs(geometry.lps_mm_to_index(lesion["centre_lps_mm"]) - wanted).max() for lesion in lesions]
        assert min(away, default=np.inf) < 1.0, f"{nodule.diameter_mm:.1f} mm at {nodule.centre_lps_mm}: {away}"


def test_the_seg_of_found_nodules_has_no_error_for_dciodvfy(implanted) -> None:
    folder, _, _ = implanted
    seg = folder / "out" / "segmentation.dcm"
    told = subprocess.run(["dciodvfy", str(seg)], capture_output=True, text=True, check=False)
    assert "Error" not in told.stderr + told.stdout, told.stderr


def test_seg_nifti_and_json_agree_on_every_lesions_centre(implanted) -> None:
    folder, _, _ = implanted
    lesions = json.loads((folder / "out" / "findings.json").read_text())["lesions"]
    image = nibabel.load(folder / "out" / "lesions.nii.gz")
    grid = Geometry.from_ras(image.shape, image.affine)
    numbers = np.asarray(image.dataobj)
    seg = pydicom.dcmread(folder / "out" / "segmentation.dcm")
    by_tracking = {str(s.TrackingUID): int(s.SegmentNumber) for s in seg.SegmentSequence}
    frames = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    for lesion in lesions:
        if not lesion["mask_voxels"]:
            continue
        centre = grid.index_to_lps_mm(np.argwhere(numbers == lesion["number"]).mean(axis=0))
        assert np.allclose(centre, lesion["centre_lps_mm"], atol=1e-3)
        number, points = by_tracking[lesion["tracking_uid"]], []
        for frame, content in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
            if content.SegmentIdentificationSequence[0].ReferencedSegmentNumber != number:
                continue
            position = np.array(content.PlanePositionSequence[0].ImagePositionPatient, float)
            shared = seg.SharedFunctionalGroupsSequence[0]
            cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
            spacing = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, float)
            rows, columns = np.nonzero(frame)
            points.append(
                position + columns[:, None] * spacing[1] * cosines[0] + rows[:, None] * spacing[0] * cosines[1]
            )
        assert np.allclose(np.concatenate(points).mean(axis=0), lesion["centre_lps_mm"], atol=1e-3)


def test_the_network_finds_more_drawn_nodules_than_a_plain_threshold_does() -> None:
    score = score_bundle(BUNDLE, 2)
    assert score.sensitivity > score.baseline_sensitivity
    assert score.sensitivity >= 0.8
    assert score.false_boxes_a_scan <= 1.0
