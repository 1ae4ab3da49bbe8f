from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pydicom
import pytest
from PIL import Image

from mtnet.hosts.batch.sources import content, find_inputs, fingerprint, in_shard
from mtnet.hosts.batch.tasks import Input, ItemOutcome, Outcome, Task
from mtnet.hosts.batch.worker import Start
from mtnet.hosts.dicomweb import DicomWeb
from mtnet.predictor import Predictor
from mtnet.results import findings_to_dict
from mtnet.sources import Manifest, write_manifest
from tests.bundles import write_tiny_bundle
from tests.hosts.batch.studies import InProcess, answer, batch, by_name, write_study
from tests.hosts.orthanc import Orthanc, running_orthanc
from tests.sources.test_manifest import SOURCE, sample

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")


def names(source: Path | str, **how: object) -> list[str]:
    return [one.name for one in find_inputs(str(source), **how)]  # type: ignore[arg-type]


def write_dicom(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(128) + b"DICM")


def write_picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def test_the_entries_of_a_folder_are_its_inputs(tmp_path: Path) -> None:
    write_dicom(tmp_path / "b" / "1")
    write_dicom(tmp_path / "a" / "deep" / "1")
    write_picture(tmp_path / "c.png")
    for name in ("scan.nii.gz", "study.zip", "notes.txt", ".hidden"):
        (tmp_path / name).touch()
    assert names(tmp_path) == ["a", "b", "c.png", "scan.nii.gz", "study.zip"]


def test_an_input_is_told_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dicom(tmp_path / "in" / "a" / "1")
    (tmp_path / "list.txt").write_text("in/a\n")
    monkeypatch.chdir(tmp_path)
    for source in ("in", "list.txt"):
        assert [one.where for one in find_inputs(source)] == [str(tmp_path / "in" / "a")]


def test_with_a_depth_studies_lie_in_folders_of_folders(tmp_path: Path) -> None:
    for name in ("p1/s1", "p1/s2", "p2/s1"):
        write_dicom(tmp_path / name / "1")
    assert names(tmp_path) == ["p1", "p2"]
    assert names(tmp_path, depth=2) == ["p1/s1", "p1/s2", "p2/s1"]


def test_a_folder_of_loose_dicom_files_is_one_input(tmp_path: Path) -> None:
    for name in ("1", "2.dcm"):
        write_dicom(tmp_path / name)
    assert names(tmp_path) == ["."]
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"2 DICOM file\(s\) lie beside 1 folder"):
        find_inputs(str(tmp_path))


def test_lists_and_manifests_name_paths_relative_to_themselves(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_dicom(tmp_path / "data" / name / "1")
    (tmp_path / "list.txt").write_text("# studies\ndata/a\n\ndata/b\n")
    (tmp_path / "list.csv").write_text("path,site\ndata/b,here\ndata/a,there\n")
    for name in ("list.txt", "list.csv"):
        assert names(tmp_path / name) == ["data/a", "data/b"]
        assert {Path(one.where) for one in find_inputs(str(tmp_path / name))} == {
            tmp_path / "data" / "a",
            tmp_path / "data" / "b",
        }


def test_a_manifest_gives_each_of_its_images_once(tmp_path: Path) -> None:
    samples = (sample(tmp_path), sample(tmp_path, "b"), sample(tmp_path, "c", image=tmp_path / "set" / "a.png"))
    write_manifest(Manifest((SOURCE,), samples), tmp_path / "manifest.json")
    found = find_inputs(str(tmp_path / "manifest.json"))
    assert [one.name for one in found] == ["set/a.png", "set/b.png"]
    assert [one.where for one in found] == [str(tmp_path / "set" / f"{name}.png") for name in "ab"]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("list.txt", "data/SECRET\n", "1 of the 1 paths in list.txt are not there"),
        ("list.csv", "file\na\n", "no column 'path'"),
        ("list.txt", "# nothing\n", "holds nothing to answer"),
    ],
)
def test_a_list_that_names_nothing_is_refused_without_its_names(
    tmp_path: Path, name: str, text: str, told: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=told) as caught:
        find_inputs(str(tmp_path / name))
    assert "SECRET" not in str(caught.value)


def test_a_list_of_uids_needs_a_server_and_holds_uids(tmp_path: Path) -> None:
    (tmp_path / "uids.txt").write_text("1.2.4\n1.2.3\n1.2.4\n")
    found = find_inputs(str(tmp_path / "uids.txt"), server="dicomweb+http://host/dicom-web/")
    assert [one.where for one in found] == [f"dicomweb+http://host/dicom-web/studies/1.2.{n}" for n in (3, 4)]
    (tmp_path / "uids.txt").write_text("../../etc\n")
    with pytest.raises(ValueError, match="no DICOM UID"):
        find_inputs(str(tmp_path / "uids.txt"), server="dicomweb+http://host/dicom-web")
    with pytest.raises(ValueError, match="--server"):
        find_inputs(str(tmp_path / "uids.txt"), server="http://host/dicom-web")


def test_a_query_by_what_is_no_attribute_is_refused_without_its_values() -> None:
    with pytest.raises(ValueError, match="asks for limit; expected attributes") as caught:
        find_inputs("dicomweb+http://127.0.0.1:9/dicom-web/studies?PatientName=SECRET&limit=5")
    assert "SECRET" not in str(caught.value)


def test_every_input_is_in_one_shard() -> None:
    inputs = [Input.of(str(n), str(n)) for n in range(200)]
    for count in (1, 2, 3, 7):
        parts = [{one.id for one in inputs if in_shard(one, (number, count))} for number in range(1, count + 1)]
        assert sum(len(part) for part in parts) == 200 and len(set.union(*parts)) == 200
        assert all(parts)


def test_content_is_of_names_and_bytes_and_a_fingerprint_of_sizes_and_times(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "deep").mkdir(parents=True)
        (tmp_path / folder / "deep" / "1").write_bytes(b"one")
        (tmp_path / folder / "2").write_bytes(b"two")
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert content(a) == content(b)
    before = fingerprint(a), content(a)
    os.utime(tmp_path / "a" / "2", (1, 1))
    assert fingerprint(a) != before[0] and content(a) == before[1]
    (tmp_path / "b" / "2").write_bytes(b"2wo")
    assert content(b) != before[1]
    (tmp_path / "a" / "2").rename(tmp_path / "a" / "3")
    assert content(a) != before[1]


@pytest.fixture(scope="module", name="archive")
def _archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    folder = tmp_path_factory.mktemp("orthanc")
    with running_orthanc(folder, user="reader", password="open-sesame") as archive:
        yield archive


@pytest.mark.slow
def test_studies_of_a_server_are_answered_as_those_in_folders_and_their_results_stored_there(
    archive: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTNET_DICOMWEB_USER", "reader")
    monkeypatch.setenv("MTNET_DICOMWEB_PASSWORD", "open-sesame")
    bundle = write_tiny_bundle(tmp_path / "bundle")
    uids = {}
    for seed in range(2):
        write_study(tmp_path / "in" / str(seed), seed)
        uids[str(seed)] = str(pydicom.dcmread(next((tmp_path / "in" / str(seed)).iterdir())).StudyInstanceUID)
    archive.upload(tmp_path / "in")
    root, web = f"dicomweb+{archive.dicomweb}", DicomWeb(archive.dicomweb)

    predictor = Predictor.from_bundle(bundle, device="cpu")
    out, query = tmp_path / "served", f"{root}/studies?ModalitiesInStudy=CT"
    done = batch(query, out, bundle, InProcess(predictor), store=web)
    served = by_name(done, out)
    assert done.unsent == {} and all(entry.stored for entry in done.entries.values())
    for name, uid in uids.items():
        one = answer(out / "studies" / served[f"{root}/studies/{uid}"].folder)
        expected = findings_to_dict(predictor.run(tmp_path / "in" / name))
        assert one["lesions"] == expected["lesions"] and one["image_classes"] == expected["image_classes"]
        stored = {path.read_bytes() for path in web.fetch_study(uid, tmp_path / "back" / name)}
        modalities = sorted(
            str(pydicom.dcmread(path, stop_before_pixels=True).Modality)
            for path in (tmp_path / "back" / name).iterdir()
        )
        assert len(stored) == 12 and modalities.count("CT") == 9 and {"SEG", "SR"} <= set(modalities)

    # What the batch stored in the studies does not make them other studies; a new instance does.
    again = InProcess(predictor)
    assert batch(query, out, bundle, again, store=web).done == 0 and again.given == []
    late = write_study(tmp_path / "late", 0, series="late", kernel="B70f").series_uid
    archive.upload(tmp_path / "late")
    batch(query, out, bundle, again, store=web)
    assert again.given == [f"{root}/studies/{uids['0']}"]
    assert batch(query, out, bundle, again, store=web).done == 0
    (entry,) = batch(f"{root}/studies/{uids['0']}/series/{late}", out, bundle, again).entries.values()
    assert answer(out / "studies" / entry.outcome.folder)["source"]["series_instance_uid"] == late


@pytest.mark.slow
def test_a_study_of_a_server_that_was_set_aside_stays_so_until_it_is_another(
    archive: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTNET_DICOMWEB_USER", "reader")
    monkeypatch.setenv("MTNET_DICOMWEB_PASSWORD", "open-sesame")
    write_study(tmp_path / "in", 7)
    archive.upload(tmp_path / "in")
    uid = str(pydicom.dcmread(next((tmp_path / "in").iterdir())).StudyInstanceUID)
    given: list[str] = []

    def killed(tasks: Iterable[Task], _: Start) -> Iterator[Outcome]:
        for task in tasks:
            given.append(task.input.id)
            item = ItemOutcome(0, "set_aside", "time_limit", "It took too long.")
            yield Outcome(task.input.id, task.seen, "", (item,))

    for _ in range(2):
        batch(f"dicomweb+{archive.dicomweb}/studies/{uid}", tmp_path / "out", tmp_path, killed)
    assert len(given) == 1
    write_study(tmp_path / "more", 7, series="more")
    archive.upload(tmp_path / "more")
    batch(f"dicomweb+{archive.dicomweb}/studies/{uid}", tmp_path / "out", tmp_path, killed)
    assert len(given) == 2
