from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image

from mtnet.predictor import ReadOptions
from mtnet.results import RESULT_FILES
from mtnet.results.findings_json import check_document
from mtnet.structures import RefusedError
from mtnet.study_folder import answer_studies
from tests.builders import WrittenSeries, write_ct_series
from tests.bundles import blob_predictor

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")


def blob_at(*centre_lps_mm: float) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    return lambda p: np.where(np.linalg.norm(p - np.array(centre_lps_mm), axis=-1) <= 5, 300.0, -800.0)


def write(folder: Path, **options: Any) -> WrittenSeries:
    return write_ct_series(
        folder,
        shape=(20, 22, 9),
        spacing_mm=(1.5, 1.5, 2.5),
        origin_lps_mm=(0.0, 0.0, 0.0),
        **{"values": blob_at(14, 15, 10), **options},
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def check_complete(folder: Path) -> dict[str, Any]:
    """The document of a complete folder: valid, and each file that it lists is there, with its hash."""
    document: dict[str, Any] = json.loads((folder / "findings.json").read_text())
    check_document(document)
    for file in document["files"]:
        assert hashlib.sha256((folder / file["name"]).read_bytes()).hexdigest() == file["sha256"], file["name"]
    return document


def check_whole(path: Path) -> None:
    """A file that its own reader reads to the end."""
    if path.suffix == ".gz":
        np.asarray(nibabel.load(path).dataobj)
    elif path.suffix == ".dcm":
        dataset = pydicom.dcmread(path)
        assert dataset.pixel_array.any() if "PixelData" in dataset else dataset.ContentSequence
    elif path.suffix == ".png":
        Image.open(path).load()
    else:
        check_document(json.loads(path.read_text()))


def test_one_study_is_written_to_the_folder_itself(tmp_path: Path) -> None:
    written = write(tmp_path / "in")
    (outcome,) = answer_studies(blob_predictor(), tmp_path / "in", tmp_path / "deep" / "out")
    assert outcome.folder == tmp_path / "deep" / "out" and outcome.written is not None
    document = check_complete(outcome.folder)
    assert names(outcome.folder) == set(RESULT_FILES) - {"reconstruction.nii.gz"}
    assert document["source"]["series_instance_uid"] == written.series_uid
    assert len(document["lesions"]) == 1
    assert [cost["stage"] for cost in document["costs"]] == ["read", "preprocess", "network", "decode", "write"]


def test_several_studies_get_a_folder_each_and_a_refused_one_leaves_the_others(tmp_path: Path) -> None:
    for name in "abc":
        broken = {"rescale": None} if name == "b" else {}
        write(tmp_path / "in" / name, study=name, series=name, **broken)
    outcomes = list(answer_studies(blob_predictor(), tmp_path / "in", tmp_path / "out"))
    assert [outcome.folder.name for outcome in outcomes] == ["1", "2", "3"]
    refused = [outcome for outcome in outcomes if outcome.written is None]
    assert len(refused) == 1
    assert any("rescale" in line.message.lower() for line in refused[0].refusal)
    answered = [outcome.folder for outcome in outcomes if outcome.written]
    uids = {check_complete(folder)["source"]["study_instance_uid"] for folder in answered}
    assert len(uids) == 2
    assert names(tmp_path / "out") == {folder.name for folder in answered}


def test_a_refused_study_does_not_keep_the_answers_of_an_earlier_one(tmp_path: Path) -> None:
    write(tmp_path / "good")
    write(tmp_path / "bad", rescale=None)
    out = tmp_path / "out"
    list(answer_studies(blob_predictor(), tmp_path / "good", out))
    (out / "notes.txt").write_text("mine")
    (outcome,) = answer_studies(blob_predictor(), tmp_path / "bad", out)
    assert outcome.written is None
    assert names(out) == {"notes.txt"}
    # Only what the caller asks for in so many words mends it.
    (outcome,) = answer_studies(blob_predictor(), tmp_path / "bad", out, ReadOptions(repair=True))
    assert outcome.written is not None and check_complete(out)["lesions"]


def test_a_series_is_answered_in_the_study_that_holds_it(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a", study="a", series="a")
    wanted = write(tmp_path / "in" / "b", study="b", series="b")
    options = ReadOptions(series_uid=wanted.series_uid)
    (outcome,) = answer_studies(blob_predictor(), tmp_path / "in", tmp_path / "out", options)
    assert outcome.folder == tmp_path / "out"
    assert check_complete(outcome.folder)["source"]["series_instance_uid"] == wanted.series_uid
    unknown = list(answer_studies(blob_predictor(), tmp_path / "in", tmp_path / "no", ReadOptions(series_uid="1.2.3")))
    assert [outcome.written for outcome in unknown] == [None, None]
    assert all(outcome.refusal[0].code == "series_not_found" for outcome in unknown)


def test_results_go_neither_into_a_file_nor_into_the_input(tmp_path: Path) -> None:
    write(tmp_path / "in")
    (tmp_path / "file").write_text("mine")
    for out, reason in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "in", "lies in the input"),
        (tmp_path / "in" / "out", "lies in the input"),
        (tmp_path / "in" / ".." / "in" / "out", "lies in the input"),
    ):
        with pytest.raises(ValueError, match=reason):
            list(answer_studies(blob_predictor(), tmp_path / "in", out))
    assert not (tmp_path / "in" / "out").exists()
    with pytest.raises(FileNotFoundError):
        list(answer_studies(blob_predictor(), tmp_path / "nowhere", tmp_path / "out"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(RefusedError):
        list(answer_studies(blob_predictor(), tmp_path / "empty", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_progress_is_told_for_every_study(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / "in" / name, study=name, series=name)
    told: list[tuple[int, int]] = []
    list(
        answer_studies(
            blob_predictor(window=16),
            tmp_path / "in",
            tmp_path / "out",
            progress=lambda done, total: told.append((done, total)),
        )
    )
    ends = [pair for pair in told if pair[0] == pair[1]]
    assert len(ends) == 2 and ends[0][1] > 1
    assert [done for done, _ in told] == 2 * list(range(1, ends[0][1] + 1))


# Forked from one process that has imported everything and answered once, so that every kill falls into the work.
_KILLED_AGAIN_AND_AGAIN = """
import itertools, os, random, signal, sys, time
from pathlib import Path
import torch
from mtnet.study_folder import answer_studies
from tests.bundles import blob_predictor
torch.set_num_threads(1)
source, out, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
predictor = blob_predictor()
for _ in range(2):
    start = time.monotonic()
    list(answer_studies(predictor, source, out / "warm"))
seconds = time.monotonic() - start
rng = random.Random(6)
for n in range(count):
    child = os.fork()
    if not child:
        for _ in itertools.count():
            list(answer_studies(predictor, source, out / str(n)))
    time.sleep(rng.uniform(0.1, 2.0) * seconds)
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
"""


@pytest.mark.slow
def test_a_process_killed_at_any_moment_leaves_only_whole_files(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / "in" / name, study=name, series=name)
    out = tmp_path / "out"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _KILLED_AGAIN_AND_AGAIN, str(tmp_path / "in"), str(out), "16"],
        check=True,
        cwd=Path(__file__).parents[1],
    )
    unfinished = []
    for folder in out.glob("*/*"):
        seen = {name for name in names(folder) if not name.startswith(".")}
        assert seen <= set(RESULT_FILES)
        for path in (folder / name for name in seen):
            check_whole(path)
        if "findings.json" in seen:
            listed = {file["name"] for file in check_complete(folder)["files"]}
            assert seen == {*listed, "findings.json"}
        else:
            unfinished.append(folder)
    # Otherwise the moments were too kind to prove anything.
    assert len(unfinished) >= 2
    # The next run clears up what was left.
    list(answer_studies(blob_predictor(), tmp_path / "in", unfinished[0].parent))
    for folder in unfinished[0].parent.iterdir():
        assert not [name for name in names(folder) if name.startswith(".")]
        check_complete(folder)
