from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from tests.bundles import write_tiny_bundle
from tests.cli.test_infer import findings, run, write
from tests.hosts.orthanc import Orthanc, running_orthanc

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")


@pytest.fixture(scope="module", name="archive")
def _archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc"), user="reader", password="open-sesame") as archive:
        yield archive


def test_a_study_on_a_server_is_answered_as_the_same_study_in_a_folder(
    archive: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    write(tmp_path / "in")
    archive.upload(tmp_path / "in")
    header = pydicom.dcmread(next((tmp_path / "in").iterdir()))
    url = f"dicomweb+{archive.dicomweb}/studies/{header.StudyInstanceUID}"
    monkeypatch.setenv("MTNET_DICOMWEB_USER", "reader")
    monkeypatch.setenv("MTNET_DICOMWEB_PASSWORD", "open-sesame")
    assert run(tmp_path / "in", tmp_path / "folder", "--bundle", bundle) == 0
    assert run(url, tmp_path / "study", "--bundle", bundle) == 0
    assert run(f"{url}/series/{header.SeriesInstanceUID}", tmp_path / "series", "--bundle", bundle) == 0
    expected = findings(tmp_path / "folder")
    names = {file["name"]: file["sha256"] for file in expected["files"]}
    for out in (tmp_path / "study", tmp_path / "series"):
        document = findings(out)
        assert document["lesions"] == expected["lesions"]
        assert document["source"]["series_instance_uid"] == header.SeriesInstanceUID
        got = {file["name"]: file["sha256"] for file in document["files"]}
        assert got.keys() == names.keys()
        for name in ("segmentation.nii.gz", "lesions.nii.gz"):
            assert got[name] == names[name]
    capsys.readouterr()
    monkeypatch.setenv("MTNET_DICOMWEB_PASSWORD", "guessed-word")
    assert run(url, tmp_path / "refused", "--bundle", bundle) == 1
    shown = capsys.readouterr()
    assert "HTTP 401" in shown.err and "guessed-word" not in json.dumps(shown)
    assert not (tmp_path / "refused").exists()
