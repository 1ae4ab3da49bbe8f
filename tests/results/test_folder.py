from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image

from mtnet.results import RESULT_FILES, read_findings_json, write_results
from mtnet.results.findings_json import check_document
from mtnet.structures import Findings, Volume
from tests.builders import write_ct_series
from tests.results.samples import ball, findings_on, geometry_of, stack_of


@pytest.fixture(name="study")
def _study(tmp_path: Path) -> tuple[Findings, Volume]:
    written = write_ct_series(tmp_path / "in", shape=(24, 20, 8))
    stack = stack_of(written.paths)
    geometry = geometry_of(stack)
    mask = ball(geometry, geometry.index_to_lps_mm([9, 8, 3]), 3.0)
    findings = findings_on(
        geometry, [mask], stack=stack, study_uid=written.study_uid, series_uid=written.series_uid, reconstruction=True
    )
    return findings, Volume(np.full((1, *geometry.shape), -700, np.int16), geometry, "CT")


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_every_answer_becomes_a_file_and_findings_json_is_the_last(
    study: tuple[Findings, Volume], tmp_path: Path
) -> None:
    done = write_results(*study, tmp_path / "deep" / "out")
    assert _names(tmp_path / "deep" / "out") == set(RESULT_FILES)
    assert done.files[-1].name == "findings.json"
    assert {path.name for path in done.files} == set(RESULT_FILES)
    times = {path.name: path.stat().st_mtime_ns for path in done.files}
    assert max(times, key=lambda name: times[name]) == "findings.json"


def test_findings_json_lists_the_files_with_their_hashes(study: tuple[Findings, Volume], tmp_path: Path) -> None:
    write_results(*study, tmp_path / "out")
    document = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert {f["name"] for f in document["files"]} == set(RESULT_FILES) - {"findings.json"}
    for file in document["files"]:
        assert hashlib.sha256((tmp_path / "out" / file["name"]).read_bytes()).hexdigest() == file["sha256"]
    assert document["dicom_seg"] == {
        "written": True,
        "reason": "",
        "segments": [{"segment_number": 1, "lesion_number": 1}],
    }


def test_no_lesion_makes_no_seg_and_the_json_says_why(study: tuple[Findings, Volume], tmp_path: Path) -> None:
    findings, volume = study
    assert findings.lesion_map is not None
    empty = Volume(np.zeros_like(findings.lesion_map.array), findings.geometry)
    done = write_results(dataclasses.replace(findings, lesions=(), lesion_map=empty), volume, tmp_path / "out")
    assert not done.dicom.seg.written and not (tmp_path / "out" / "segmentation.dcm").exists()
    document = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert document["dicom_seg"]["written"] is False and document["dicom_seg"]["reason"] == "no lesion was found"
    assert document["lesions"] == []


def test_a_dicom_object_that_cannot_be_made_is_told_and_keeps_nothing_else_from_being_written(
    study: tuple[Findings, Volume], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise TypeError("Nobody^At All")

    monkeypatch.setattr("mtnet.results.dicom_report.lesion_group", fail)
    done = write_results(*study, tmp_path / "out")
    assert _names(tmp_path / "out") == set(RESULT_FILES) - {"report.dcm"}
    document = json.loads((tmp_path / "out" / "findings.json").read_text())
    reason = "it cannot be made from the headers of the source (TypeError in fail)"
    assert document["dicom_report"] == {"written": False, "reason": reason}
    assert document["dicom_capture"] == {"written": True, "reason": ""} and done.dicom.seg.written


def test_what_a_writer_noticed_is_in_the_report(study: tuple[Findings, Volume], tmp_path: Path) -> None:
    findings, volume = study
    assert findings.source.stack is not None
    path = findings.source.stack.instances[0].path
    dataset = pydicom.dcmread(path)
    with pydicom.config.disable_value_validation():
        del dataset.PatientSex
        dataset.PatientSex = "unknown"
        dataset.save_as(path)
    done = write_results(findings, volume, tmp_path / "out")
    assert "source_module_left_out" in done.findings.report.codes
    assert read_findings_json(tmp_path / "out" / "findings.json").report == done.findings.report


def test_an_answer_that_was_not_given_makes_no_file(study: tuple[Findings, Volume], tmp_path: Path) -> None:
    findings, _ = study
    write_results(
        dataclasses.replace(findings, reconstruction=None), None, tmp_path / "out", dicom_seg=None, dicom_report=False
    )
    assert _names(tmp_path / "out") == {"findings.json", "segmentation.nii.gz", "lesions.nii.gz"}
    assert json.loads((tmp_path / "out" / "findings.json").read_text())["dicom_seg"]["reason"] == "not asked for"


def test_files_of_an_earlier_run_go_and_other_files_stay(study: tuple[Findings, Volume], tmp_path: Path) -> None:
    findings, volume = study
    out = tmp_path / "out"
    write_results(findings, volume, out)
    (out / "notes.txt").write_text("mine")
    (out / ".overlay.tmp-0123abcd.png").write_bytes(b"half")
    (out / ".segmentation.tmp-0123abcd.nii.gz").write_bytes(b"half")
    (out / ".overlay.tmp-mine.png").write_bytes(b"whole")
    (out / "other.dcm").write_bytes(b"of another writer")
    write_results(dataclasses.replace(findings, reconstruction=None), volume, out)
    assert _names(out) == (set(RESULT_FILES) - {"reconstruction.nii.gz"}) | {
        "notes.txt",
        ".overlay.tmp-mine.png",
        "other.dcm",
    }


def test_a_run_that_fails_leaves_no_findings_json_of_the_run_before(
    study: tuple[Findings, Volume], tmp_path: Path
) -> None:
    findings, volume = study
    out = tmp_path / "out"
    write_results(findings, volume, out)
    broken = dataclasses.replace(findings, reconstruction_error={"mean_absolute_error_hu": float("nan")})
    with pytest.raises(ValueError, match="mean_absolute_error_hu"):
        write_results(broken, volume, out)
    assert not (out / "findings.json").exists()
    assert not [name for name in _names(out) if name.startswith(".")]


def test_the_same_findings_make_the_same_folder(study: tuple[Findings, Volume], tmp_path: Path) -> None:
    write_results(*study, tmp_path / "a")
    write_results(*study, tmp_path / "b")
    for name in RESULT_FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_no_patient_data_but_uids_are_in_the_json(study: tuple[Findings, Volume], tmp_path: Path) -> None:
    write_results(*study, tmp_path / "out")
    text = (tmp_path / "out" / "findings.json").read_text()
    for secret in ("Nobody", "SECRET-ID", "20010203", "19000101", str(tmp_path)):
        assert secret not in text
    assert study[0].source.series_instance_uid in text


_WRITE_FOR_EVER = """
import dataclasses, itertools, sys
from pathlib import Path
import numpy as np
from mtnet.results import write_results
from mtnet.structures import Volume
from tests.results.samples import ball, findings_on, geometry_of, stack_of
stack = stack_of(sorted(Path(sys.argv[1]).iterdir()))
geometry = geometry_of(stack)
mask = ball(geometry, geometry.index_to_lps_mm([9, 8, 3]), 3.0)
findings = findings_on(geometry, [mask], stack=stack, study_uid="1.2", series_uid="1.2.3", reconstruction=True)
volume = Volume(np.full((1, *geometry.shape), -700, np.int16), geometry, "CT")
write_results(findings, volume, Path(sys.argv[2]) / "warm")
print("ready", flush=True)
for n in itertools.count():
    for again in range(2):
        write_results(findings, volume, Path(sys.argv[2]) / str(n))
"""


def _check_whole(path: Path) -> None:
    if path.suffix == ".gz":
        np.asarray(nibabel.load(path).dataobj)
    elif path.suffix == ".dcm":
        dataset = pydicom.dcmread(path)
        assert dataset.pixel_array.any() if "PixelData" in dataset else dataset.ContentSequence
    elif path.suffix == ".png":
        Image.open(path).load()
    else:
        document = json.loads(path.read_text())
        check_document(document)
        for file in document["files"]:
            found = hashlib.sha256((path.parent / file["name"]).read_bytes()).hexdigest()
            assert found == file["sha256"], f"{path.parent.name}/{file['name']}"


@pytest.mark.slow
def test_a_killed_run_leaves_only_whole_files(study: tuple[Findings, Volume], tmp_path: Path) -> None:
    rng = random.Random(6)
    unfinished = 0
    for attempt in range(4):
        out = tmp_path / f"out{attempt}"
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITE_FOR_EVER, str(tmp_path / "in"), str(out)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        try:
            assert process.stdout is not None and process.stdout.readline().strip() == "ready"
            time.sleep(rng.uniform(0.01, 0.5))
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        for folder in out.iterdir():
            seen = [path for path in folder.iterdir() if not path.name.startswith(".")]
            assert {path.name for path in seen} <= set(RESULT_FILES)
            for path in seen:
                _check_whole(path)
            unfinished += not (folder / "findings.json").exists()
    # Otherwise the moments were too kind to prove anything.
    assert unfinished >= 2
