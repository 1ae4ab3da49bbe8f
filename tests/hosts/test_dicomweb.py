from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import RLELossless

from mtnet.hosts.dicomweb import DicomWeb, DicomWebError, check_uid, parse_study_url
from tests.builders import WrittenSeries, write_ct_series
from tests.hosts.orthanc import Orthanc, running_orthanc

USER, PASSWORD = "reader", "open-sesame"

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")


@pytest.fixture(scope="module", name="archive")
def _archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc"), user=USER, password=PASSWORD) as archive:
        yield archive


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTNET_DICOMWEB_USER", USER)
    monkeypatch.setenv("MTNET_DICOMWEB_PASSWORD", PASSWORD)
    monkeypatch.delenv("MTNET_DICOMWEB_TOKEN", raising=False)


def compress(dataset: pydicom.Dataset, _: int) -> None:
    dataset.compress(RLELossless, generate_instance_uid=False)


def by_uid(paths: list[Path]) -> dict[str, pydicom.FileDataset]:
    return {str(one.SOPInstanceUID): one for one in map(pydicom.dcmread, paths)}


def check_same(fetched: list[Path], stored: list[Path]) -> None:
    one, other = by_uid(fetched), by_uid(stored)
    assert one == other
    assert {u: d.file_meta.TransferSyntaxUID for u, d in one.items()} == {
        u: d.file_meta.TransferSyntaxUID for u, d in other.items()
    }


@pytest.fixture(scope="module", name="study")
def _study(archive: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, WrittenSeries, WrittenSeries]:
    folder = tmp_path_factory.mktemp("study")
    plain = write_ct_series(folder / "a", series="a")
    packed = write_ct_series(folder / "b", series="b", shape=(12, 10, 3), edit=compress)
    archive.upload(folder)
    return folder, plain, packed


def study_uid(folder: Path) -> str:
    return str(pydicom.dcmread(next(folder.rglob("*.dcm"))).StudyInstanceUID)


def test_a_study_is_fetched_as_it_is_stored_and_a_series_alone(
    archive: Orthanc, study: tuple[Path, WrittenSeries, WrittenSeries], tmp_path: Path
) -> None:
    folder, plain, packed = study
    uid, web = study_uid(folder), DicomWeb(archive.dicomweb)
    assert sorted(web.find_series(uid)) == sorted([plain.series_uid, packed.series_uid])
    check_same(web.fetch_study(uid, tmp_path / "all"), sorted(folder.rglob("*.dcm")))
    fetched = web.fetch_series(uid, packed.series_uid, tmp_path / "one")
    check_same(fetched, sorted((folder / "b").iterdir()))
    assert {path.stem for path in fetched} == set(web.find_instances(uid, packed.series_uid))
    with pytest.raises(FileExistsError, match="not empty"):
        web.fetch_study(uid, tmp_path / "all")


def test_a_query_finds_every_study_that_matches(archive: Orthanc, tmp_path: Path) -> None:
    for n in range(5):
        write_ct_series(tmp_path / str(n), study=f"found {n}", series=f"found {n}", shape=(4, 4, 1))
    archive.upload(tmp_path)
    web = DicomWeb(archive.dicomweb)
    found = web.find_studies({"ModalitiesInStudy": "CT"})
    assert {study_uid(tmp_path / str(n)) for n in range(5)} <= set(found) and len(found) == len(set(found))
    assert web.find_studies({"ModalitiesInStudy": "MG"}) == []


@pytest.mark.parametrize("knows_offset", [True, False])
def test_a_query_is_paged_to_its_end(knows_offset: bool) -> None:
    def page(path: str) -> list[object]:
        start = int(path.partition("offset=")[2] or 0) if knows_offset else 0
        return [{"0020000D": {"vr": "UI", "Value": [f"1.2.{n}"]}} for n in range(start, min(start + 2, 5))]

    with stub(200, page) as (url, seen):
        found = DicomWeb(url).find_studies({})
    assert found == [f"1.2.{n}" for n in range(5 if knows_offset else 2)]
    assert len(seen) == (4 if knows_offset else 2)


def test_an_instance_that_the_server_leaves_out_leaves_no_folder(
    archive: Orthanc,
    study: tuple[Path, WrittenSeries, WrittenSeries],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, plain, _ = study
    web = DicomWeb(archive.dicomweb)
    held = web.find_instances(study_uid(folder), plain.series_uid)
    monkeypatch.setattr(web, "find_instances", lambda *_: [*held, "1.2.3"])
    with pytest.raises(DicomWebError, match=f"left out 1 of the {len(held) + 1} instances"):
        web.fetch_series(study_uid(folder), plain.series_uid, tmp_path / "in" / "one")
    assert list((tmp_path / "in").iterdir()) == []


def test_what_is_stored_is_held_once_however_often_it_is_stored(archive: Orthanc, tmp_path: Path) -> None:
    write_ct_series(tmp_path / "new", study="new", series="new", shape=(4, 4, 2))
    files = sorted((tmp_path / "new").iterdir())
    web = DicomWeb(archive.dicomweb)
    web.store(files)
    web.store(files)
    check_same(web.fetch_study(study_uid(tmp_path / "new"), tmp_path / "back"), files)
    (tmp_path / "notes.txt").write_text("no DICOM")
    with pytest.raises(ValueError, match=r"notes\.txt is no DICOM file"):
        web.store([tmp_path / "notes.txt"])


def test_a_wrong_password_is_told_without_it(archive: Orthanc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTNET_DICOMWEB_PASSWORD", "guessed-word")
    with pytest.raises(DicomWebError, match=r"HTTP 401\. Set MTNET_DICOMWEB_USER") as caught:
        DicomWeb(archive.dicomweb).find_studies({"PatientName": "Nobody*"})
    assert not any(secret in str(caught.value) for secret in ("guessed-word", "Nobody", USER))


def test_a_study_or_series_that_is_not_there_is_told(archive: Orthanc, tmp_path: Path) -> None:
    web = DicomWeb(archive.dicomweb)
    with pytest.raises(DicomWebError, match=r"holds no study 1\.2\.3"):
        web.fetch_study("1.2.3", tmp_path / "in")
    with pytest.raises(DicomWebError, match=r"holds no series 1\.2\.4 in study 1\.2\.3"):
        web.fetch_series("1.2.3", "1.2.4", tmp_path / "in")
    assert list(tmp_path.iterdir()) == []


@contextmanager
def stub(status: int, body: object, content_type: str = "application/dicom+json") -> Iterator[tuple[str, list[str]]]:
    """A server that gives one answer to everything; its URL, and the authorization of every request."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            seen.append(str(self.headers["Authorization"]))
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            content = json.dumps(body(self.path) if callable(body) else body).encode()
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = answer  # noqa: N815 - names that http.server asks for

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/dicom-web", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def failed(code: int) -> dict[str, object]:
    item = {"00081155": {"vr": "UI", "Value": ["1.2.3"]}, "00081197": {"vr": "US", "Value": [code]}}
    return {"00081198": {"vr": "SQ", "Value": [item]}}


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (202, failed(0xC122), "does not take this transfer syntax, failure reason C122H"),
        (409, failed(0xA700), "out of resources, failure reason A700H"),
        (409, {}, "HTTP 409"),
        (507, {}, "HTTP 507"),
    ],
)
def test_what_a_server_does_not_store_is_told_by_file_and_reason(
    tmp_path: Path, status: int, body: object, told: str
) -> None:
    write_ct_series(tmp_path, shape=(4, 4, 1))
    (file,) = tmp_path.iterdir()
    with stub(status, body) as (url, _), pytest.raises(DicomWebError) as caught:
        DicomWeb(url).store([file])
    assert told in str(caught.value) and file.name in str(caught.value)


def test_an_answer_that_is_no_dicomweb_is_told(tmp_path: Path) -> None:
    with stub(200, [{"0020000D": {"vr": "UI", "Value": ["../../etc"]}}]) as (url, _):
        with pytest.raises(DicomWebError, match="not as DICOMweb has it"):
            DicomWeb(url).find_studies({})
        with pytest.raises(DicomWebError, match="not as DICOMweb has it"):
            DicomWeb(url).fetch_series("1.2", "1.3", tmp_path / "in")


def test_a_token_is_sent_as_a_token_and_nothing_is_sent_where_nothing_is_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password something\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with stub(200, []) as (url, seen):
        monkeypatch.setenv("MTNET_DICOMWEB_TOKEN", "abc")
        with pytest.raises(ValueError, match="one or the other"):
            DicomWeb(url)
        monkeypatch.delenv("MTNET_DICOMWEB_PASSWORD")
        monkeypatch.delenv("MTNET_DICOMWEB_USER")
        DicomWeb(url).find_studies({})
        monkeypatch.delenv("MTNET_DICOMWEB_TOKEN")
        DicomWeb(url).find_studies({})
    assert seen == ["Bearer abc", "None"]


def test_credentials_that_would_go_over_a_network_as_they_are_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for url in ("https://archive/dicom-web", "http://127.0.0.1:1/dicom-web"):
        DicomWeb(url)
    assert caplog.text == ""
    DicomWeb("http://archive/dicom-web")
    assert "archive go over the network as they are" in caplog.text and PASSWORD not in caplog.text
    caplog.clear()
    monkeypatch.delenv("MTNET_DICOMWEB_USER")
    monkeypatch.delenv("MTNET_DICOMWEB_PASSWORD")
    DicomWeb("http://archive/dicom-web")
    assert caplog.text == ""


def test_half_of_the_credentials_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MTNET_DICOMWEB_PASSWORD")
    with pytest.raises(ValueError, match="Only one of MTNET_DICOMWEB_USER"):
        DicomWeb("http://127.0.0.1/dicom-web")


def test_a_server_that_is_away_is_told_without_the_query() -> None:
    with stub(200, []) as (url, _):
        pass
    with pytest.raises(DicomWebError, match="cannot be reached") as caught:
        DicomWeb(url).find_studies({"PatientName": "Nobody"})
    assert "Nobody" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "..", "1..2", "1.2/../3", "1.2.", ".1", "1.2 ", "1.2\n", "a.b", "1" * 65])
def test_a_uid_that_could_lead_elsewhere_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no DICOM UID"):
        check_uid(text)


def test_a_url_tells_server_study_and_series() -> None:
    web, study, series = parse_study_url("dicomweb+https://host:8443/a/dicom-web/studies/1.2.3/series/1.2.4")
    assert (web.url, study, series) == ("https://host:8443/a/dicom-web", "1.2.3", "1.2.4")
    assert parse_study_url("dicomweb+http://host/dicom-web/studies/1.2.3/")[1:] == ("1.2.3", None)


@pytest.mark.parametrize(
    "text",
    [
        "http://host/dicom-web/studies/1.2.3",
        "dicomweb+http://host/dicom-web",
        "dicomweb+http://host/dicom-web/studies/..",
        "dicomweb+http://host/dicom-web/studies/1.2/series/../../3",
        "dicomweb+http://host/dicom-web/studies/1.2/instances/1.3",
        "dicomweb+http://user:open-sesame@host/dicom-web/studies/1.2",
        "dicomweb+http:///dicom-web/studies/1.2",
        "dicomweb+http://host/dicom-web?a=b/studies/1.2",
    ],
)
def test_a_url_of_no_study_is_refused_without_what_may_be_secret_in_it(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_study_url(text)
    assert "open-sesame" not in str(caught.value)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dicomweb_client", None)
    with pytest.raises(ValueError, match=r"pip install 'mtnet\[dicomweb\]'"):
        DicomWeb("http://127.0.0.1/dicom-web")
