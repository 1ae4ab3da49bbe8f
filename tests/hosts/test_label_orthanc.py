"""MONAI Label on an archive: real series from a real Orthanc, read by our loader, labels back as DICOM SEG."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from mtnet.io.read import read_volume
from mtnet.predictor import Predictor
from mtnet.results import findings_to_dict, write_dicom_seg
from mtnet.structures import Findings
from tests.bundles import SHIPPED, write_tiny_bundle
from tests.hosts.label_server import BUNDLES, NEEDS_SERVER, Server, assert_alike, label_of, running_server
from tests.hosts.orthanc import Orthanc, running_orthanc
from tests.results.judges import errors_of
from tests.results.test_dicom_seg import masks_of

pytestmark = [
    *NEEDS_SERVER,
    pytest.mark.study,
    pytest.mark.xdist_group("label-orthanc"),
    # Set by pydicom for odd values that the real study holds.
    pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning"),
]

NAME = "chest_ct_multitask"


@dataclass(frozen=True)
class Archive:
    """A server on an archive, and the folder of each series by its UID."""

    server: Server
    orthanc: Orthanc
    series: dict[str, Path]
    kept: dict[str, Findings] = field(default_factory=dict)

    def segmentations(self, algorithm_type: str) -> list[pydicom.Dataset]:
        """Every SEG that the archive holds whose first segment was made so."""
        ids = [one["ID"] for one in self.orthanc.instances()]
        files = [pydicom.dcmread(io.BytesIO(self.orthanc.rest(f"/instances/{uid}/file"))) for uid in ids]
        segs = [file for file in files if file.Modality == "SEG"]
        return [seg for seg in segs if seg.SegmentSequence[0].SegmentAlgorithmType == algorithm_type]

    def findings(self, uid: str) -> Findings:
        """What ``mtnet infer`` finds with the weights that the server has at first."""
        if uid not in self.kept:
            self.kept[uid] = Predictor.from_bundle(self.server.bundle, device="cpu").run(self.series[uid])
        return self.kept[uid]


@pytest.fixture(scope="module", name="archive")
def _archive(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Iterator[Archive]:
    folder = tmp_path_factory.mktemp("archive")
    # Few of what random weights take for lesions: each is measured on the scan's own voxels.
    bundle = write_tiny_bundle(folder / NAME, score_bias=-2.15, region="lung_field")
    metadata = bundle / "configs" / "metadata.json"
    domain = json.loads((SHIPPED / "configs" / "metadata.json").read_text())["input_domain"]
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), "input_domain": domain}))
    train = bundle / "configs" / "train.json"
    train.write_text(json.dumps({**json.loads(train.read_text()), **BUNDLES[NAME][1]}))
    folders = sorted(path for path in (data_dir / "chest_ct_study").glob("Lung_Dx-A0001/*/*") if path.is_dir())
    series = {str(pydicom.dcmread(next(path.glob("*.dcm")), stop_before_pixels=True).SeriesInstanceUID): path
              for path in folders}  # fmt: skip
    secrets = {"user": "label", "password": "only-here"}
    names = {f"MTNET_DICOMWEB_{name.upper()}": value for name, value in secrets.items()}
    with running_orthanc(folder / "orthanc", **secrets) as orthanc:
        orthanc.upload(*folders)
        with running_server(folder, bundle, orthanc.dicomweb, "mtnet", **names) as server:
            yield Archive(server, orthanc, series)
            assert secrets["password"] not in server.log.read_text(), "no password in a log"


def test_series_of_an_archive_are_images(archive: Archive) -> None:
    info = archive.server.json("GET", "info/")
    assert info["datastore"]["total"] == len(archive.series) == 2
    assert archive.server.json("POST", "activelearning/first")["id"] in archive.series


def test_an_answer_is_that_of_mtnet_infer_on_the_files(archive: Archive, tmp_path: Path) -> None:
    uid = sorted(archive.series)[0]
    answer = archive.server.infer(f"{NAME}_segmentation", uid)
    findings = archive.findings(uid)
    assert findings.label_map is not None and findings.lesions
    values, affine = label_of(answer, tmp_path)
    np.testing.assert_array_equal(values, findings.label_map.array[0])
    np.testing.assert_allclose(affine, findings.geometry.affine_ras, atol=1e-4)
    document = findings_to_dict(findings)
    assert_alike(answer.told["lesions"], document["lesions"])
    assert answer.told["image_classes"] == document["image_classes"]
    kept = next(archive.server.bundle.parents[1].glob(f"archive/*/{uid}"))
    assert {path.suffix for path in kept.iterdir()} == {".dcm"}, "as stored: no converter was asked"


def test_an_answer_comes_as_dicom_seg_and_goes_to_the_archive_where_asked(archive: Archive, tmp_path: Path) -> None:
    uid = sorted(archive.series)[0]
    kept = {"save_label": True, "label_tag": "final"}
    answer = archive.server.infer(f"{NAME}_segmentation", uid, result_extension=".dcm", **kept)
    (tmp_path / "answer.dcm").write_bytes(answer.content)
    assert errors_of(tmp_path / "answer.dcm", "Segmentation") == []
    findings = archive.findings(uid)
    assert write_dicom_seg(findings, tmp_path / "expected.dcm").written
    got, expected = (pydicom.dcmread(tmp_path / name) for name in ("answer.dcm", "expected.dcm"))
    (stored,) = archive.segmentations("AUTOMATIC")
    assert stored.SOPInstanceUID == got.SOPInstanceUID
    told = [[(s.SegmentLabel, s.SegmentDescription) for s in seg.SegmentSequence] for seg in (got, expected)]
    assert told[0] == told[1]
    # Two versions of highdicom put the frames in two orders.
    masks = [masks_of(seg) for seg in (got, expected)]
    assert masks[0].keys() == masks[1].keys()
    for segment, frames in masks[0].items():
        assert frames.keys() == masks[1][segment].keys()
        assert all(np.array_equal(frame, masks[1][segment][place]) for place, frame in frames.items())
    assert str(got.ReferencedSeriesSequence[0].SeriesInstanceUID) == uid


def test_a_final_label_goes_to_the_archive_as_dicom_seg_with_its_names(archive: Archive, tmp_path: Path) -> None:
    uid, other = sorted(archive.series)
    affine = read_volume(archive.series[uid]).volume.geometry.affine_ras
    drawn = np.zeros((512, 512, 64), np.uint8)
    drawn[150:170, 200:230, 30:33] = 2
    nibabel.save(nibabel.Nifti1Image(drawn, affine), tmp_path / "label.nii.gz")
    status, reason = _refused(archive.server, uid, tmp_path / "label.nii.gz")
    assert status == 422 and "1 (nodule)" in reason, "a value without a name is refused"
    assert not archive.segmentations("MANUAL")

    # As 3D Slicer saves it: values count its own segments.
    archive.server.save_label(uid, tmp_path / "label.nii.gz", label_info=[{"name": "lung"}, {"name": "nodule"}])
    (seg,) = archive.segmentations("MANUAL")
    seg.save_as(tmp_path / "stored.dcm")
    assert errors_of(tmp_path / "stored.dcm", "Segmentation") == []
    (segment,) = seg.SegmentSequence
    assert (segment.SegmentLabel, segment.SegmentAlgorithmType) == ("nodule", "MANUAL")
    assert str(seg.ReferencedSeriesSequence[0].SeriesInstanceUID) == uid
    assert np.count_nonzero(seg.pixel_array) == np.count_nonzero(drawn)
    places = [float(frame.PlanePositionSequence[0].ImagePositionPatient[2])
              for frame in seg.PerFrameFunctionalGroupsSequence]  # fmt: skip
    expected = nibabel.affines.apply_affine(affine, [[0, 0, k] for k in (30, 31, 32)])[:, 2]
    np.testing.assert_allclose(sorted(places), sorted(expected), atol=1e-3)
    assert archive.server.json("GET", "info/")["datastore"]["completed"] == 1
    assert archive.server.json("POST", "activelearning/uncertainty")["id"] == other, "the one without a label"

    # As OHIF sends it: the voxels alone.
    np.ravel(drawn // 2, order="F").tofile(tmp_path / "label.bin")
    archive.server.save_label(other, tmp_path / "label.bin")
    (raw,) = [one for one in archive.segmentations("MANUAL") if one.SOPInstanceUID != seg.SOPInstanceUID]
    assert raw.SegmentSequence[0].SegmentLabel == "nodule"
    np.testing.assert_array_equal(np.sort(raw.pixel_array.sum((1, 2))), np.sort(seg.pixel_array.sum((1, 2))))
    assert {tuple(f.PlanePositionSequence[0].ImagePositionPatient) for f in raw.PerFrameFunctionalGroupsSequence} == {
        tuple(f.PlanePositionSequence[0].ImagePositionPatient) for f in seg.PerFrameFunctionalGroupsSequence
    }

    before = archive.server.train()
    assert (archive.server.bundle / "models" / "model.pt").read_bytes() != before, "it learns from the label"


def test_an_unknown_series_is_named(archive: Archive) -> None:
    status, reason = archive.server.refusal(f"{NAME}_boxes", "1.2.3")
    assert status == 404 and "1.2.3" in reason
    assert archive.server.refusal(f"{NAME}_boxes", "../../etc")[0] == 404


def _refused(server: Server, image: str, file: Path) -> tuple[int, str]:
    with pytest.raises(AssertionError) as refusal:
        server.save_label(image, file)
    status, _, reason = str(refusal.value).partition(": ")
    return int(status), reason
