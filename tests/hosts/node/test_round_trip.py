"""The whole way of a study through a hospital: DCMTK sends it, the node answers, Orthanc has the answers beside it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pydicom
import pytest

from mtnet.bundle import Bundle
from mtnet.hosts.dicomweb import DicomWeb
from mtnet.predictor import Predictor
from mtnet.study_folder import answer_studies
from tests.bundles import SHIPPED
from tests.hosts.node.nodes import TO_ARCHIVE, running, storescu, write_config
from tests.hosts.orthanc import running_orthanc

_OBJECTS = {"SEG": "segmentation.dcm", "SR": "report.dcm", "OT": "overlay.dcm"}


@pytest.fixture(scope="module", name="study")
def _study(data_dir: Path) -> list[Path]:
    return sorted((data_dir / "chest_ct_study").rglob("*.dcm"))


@pytest.mark.slow
@pytest.mark.study
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")
def test_the_real_study_comes_back_with_seg_sr_and_capture_as_infer_writes_them(tmp_path, data_dir, study):
    assert Bundle.read(SHIPPED).weights.is_file()
    with running_orthanc(tmp_path / "orthanc") as archive:
        config = write_config(tmp_path, SHIPPED, TO_ARCHIVE.format(port=archive.dicom_port), route='modality = "CT"')
        assert storescu(archive.dicom_port, *study, options=["-aec", "ORTHANC"]).returncode == 0
        with running(config) as node:
            assert (
                subprocess.run(["echoscu", "-aec", "MTNET", "127.0.0.1", str(node.port)], check=False).returncode == 0
            )
            assert storescu(node.port, *study).returncode == 0
            node.wait("delivered", limit_s=1200)
            assert node.stop() == 0
        uid = str(pydicom.dcmread(study[0], stop_before_pixels=True).StudyInstanceUID)
        back = [pydicom.dcmread(path) for path in DicomWeb(archive.dicomweb).fetch_study(uid, tmp_path / "back")]
    made = {one.Modality: one for one in back if one.Modality in _OBJECTS}
    assert len(back) == len(study) + len(made)
    assert made.keys() == _OBJECTS.keys()

    (outcome,) = answer_studies(
        Predictor.from_bundle(SHIPPED, device="cpu"), data_dir / "chest_ct_study", tmp_path / "o"
    )
    assert outcome.written is not None
    for modality, name in _OBJECTS.items():
        written = pydicom.dcmread(tmp_path / "o" / name)
        assert made[modality] == written
        path = tmp_path / f"{modality}.dcm"
        made[modality].save_as(path)
        told = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, timeout=120, check=False)
        assert not [line for line in (told.stdout + told.stderr).splitlines() if line.startswith("Error")]
