from __future__ import annotations

import functools
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtnet.cli import convert, main
from mtnet.predictor import Predictor
from mtnet.results.findings_json import check_document
from mtnet.structures import Geometry
from tests.builders import write_ct_series
from tests.bundles import write_tiny_bundle

DATA = Path(os.environ.get("MTNET_DATA", Path(__file__).parents[3] / "shared" / "data"))
ROBUSTNESS = DATA / "dicom_robustness"

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")


@pytest.fixture(scope="module", name="bundle")
def _bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


def write(folder: Path, **options: Any) -> str:
    shown = {"values": lambda p: np.sin(p / 9).prod(axis=-1) * 600 - 400, **options}
    return write_ct_series(folder, shape=(24, 20, 9), spacing_mm=(2.5, 2.5, 6.0), **shown).series_uid


def run(*arguments: object) -> int:
    return main.main(["infer", *map(str, arguments), "--device", "cpu"])


def findings(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "findings.json").read_text())
    check_document(document)
    return document


def test_a_study_gives_its_files_and_a_table_that_says_what_the_weights_are(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uid = write(tmp_path / "in")
    assert run(tmp_path / "in", tmp_path / "out", "--bundle", bundle) == 0
    shown = capsys.readouterr()
    document = findings(tmp_path / "out")
    assert document["lesions"], "random weights must find something here, or the table is not tested"
    for lesion in document["lesions"]:
        row = next(r for r in shown.out.splitlines() if r.split()[:2] == [str(lesion["number"]), lesion["label"]])
        assert f"{lesion['score']:.2f}" in row
        assert " ".join(f"{v:.1f}" for v in lesion["centre_lps_mm"]) in row
    assert f"series ...{uid[-8:]}: " in shown.out
    version = json.loads((bundle / "configs" / "metadata.json").read_text())["version"]
    assert f"chest_ct_multitask {version}, trained on drawn data" in shown.out
    assert "Research use only" in shown.out
    for name in ("classification: nodule", "reconstruction: mean_absolute_error_hu", "peak memory"):
        assert name in shown.out
    assert f"written to {tmp_path / 'out'}: segmentation.nii.gz" in shown.out
    assert shown.err == "", "progress is for terminals"
    for secret in ("Nobody", "SECRET-ID", "20010203", "19000101"):
        assert secret not in shown.out + json.dumps(document)


def test_a_refused_study_is_told_and_the_other_is_answered(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in" / "a", study="a", series="a")
    write(tmp_path / "in" / "b", study="b", series="b", rescale=None)
    assert run(tmp_path / "in", tmp_path / "out", "--bundle", bundle) == 1
    shown = capsys.readouterr()
    assert "refused: " in shown.err and "rescale_missing" in shown.err and "Traceback" not in shown.err
    (answered,) = (tmp_path / "out").iterdir()
    assert findings(answered)["lesions"] is not None
    assert run(tmp_path / "in", tmp_path / "mended", "--bundle", bundle, "--repair") == 0
    assert sorted(path.name for path in (tmp_path / "mended").iterdir()) == ["1", "2"]


def test_options_reach_the_network(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtnet.inference.precision.fast_precision", lambda _device, _runtime: "bfloat16")
    write(tmp_path / "in" / "a", series="a")
    wanted = write(tmp_path / "in" / "b", series="b", kernel="B70f")
    assert (
        run(
            tmp_path / "in",
            tmp_path / "out",
            "--bundle",
            bundle,
            "--tasks",
            "segmentation,classification",
            "--fast",
            "--series",
            wanted,
        )
        == 0
    )
    document = findings(tmp_path / "out")
    assert document["options"]["outputs"] == "pred,classification"
    assert (document["options"]["overlap"], document["options"]["precision"]) == ("0", "bfloat16")
    assert document["source"]["series_instance_uid"] == wanted
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "reconstruction.nii.gz" not in names and "lesions.nii.gz" not in names


def test_strict_refuses_what_would_be_repaired(bundle: Path, tmp_path: Path) -> None:
    write(tmp_path / "in", slice_offsets_mm=[0, 4, 8, 12, 15, 18, 22, 26, 30])
    assert run(tmp_path / "in", tmp_path / "out", "--bundle", bundle, "--strict") == 1
    assert not (tmp_path / "out").exists()
    assert run(tmp_path / "in", tmp_path / "out", "--bundle", bundle) == 0
    assert "variable_spacing" in [line["code"] for line in findings(tmp_path / "out")["report"]]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere", "out", "--bundle", "BUNDLE"], "nowhere does not exist"),
        (["in", "in/out", "--bundle", "BUNDLE"], "lies in the input"),
        (["in", "file", "--bundle", "BUNDLE"], "file is a file"),
        (["in", "out", "--bundle", "no-such"], "neither a bundle folder"),
        (["in", "out", "--bundle", "BUNDLE", "--tasks", "detection,counting"], "this bundle has segmentation"),
        (["empty", "out", "--bundle", "BUNDLE"], "nothing_found"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is_written(
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").write_text("nothing here")
    assert run(*(str(bundle) if part == "BUNDLE" else part for part in arguments)) == 1
    shown = capsys.readouterr()
    assert told in shown.err and "Traceback" not in shown.err
    assert not (tmp_path / "out").exists() and (tmp_path / "file").read_text() == "mine"


def test_a_terminal_sees_windows_go_by(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    write(tmp_path / "in")
    assert run(tmp_path / "in", tmp_path / "out", "--bundle", bundle) == 0
    assert "window" in terminal.getvalue()


def folders() -> list[str]:
    return sorted(path.name for path in ROBUSTNESS.iterdir() if path.is_dir()) if ROBUSTNESS.is_dir() else []


@pytest.fixture(scope="module", name="coarse")
def _coarse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("coarse") / "tiny", score_bias=-2.0, spacing_mm=[12.0] * 3)


@pytest.mark.slow
@pytest.mark.study
@pytest.mark.parametrize("name", folders())
def test_a_robustness_folder_is_answered_on_converts_grid_or_refused_in_words(
    coarse: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Predictor, "from_bundle", functools.cache(Predictor.from_bundle))
    assert main.main(["convert", str(ROBUSTNESS / name), str(tmp_path / "convert")]) in (0, 1)
    entries = json.loads((tmp_path / "convert" / convert.SUMMARY).read_text())["series"]
    grids: dict[str, list[Geometry]] = {}
    for entry in entries:
        # A bundle for volumes refuses what convert writes as images.
        if entry["file"] and entry.get("affine_lps"):
            geometry = Geometry(tuple(entry["shape"]), np.array(entry["affine_lps"]))
            grids.setdefault(entry["series_instance_uid"], []).append(geometry)
    capsys.readouterr()

    def check(out: Path, *more: str) -> int:
        code = run(ROBUSTNESS / name, out, "--bundle", coarse, *more)
        shown = capsys.readouterr()
        assert code in (0, 1) and "Traceback" not in shown.err
        documents = [findings(path.parent) for path in out.rglob("findings.json")]
        for document in documents:
            geometry = Geometry(document["grid"]["shape_ijk"], document["grid"]["affine_lps_mm"])
            assert any(geometry.almost_equal(grid) for grid in grids[document["source"]["series_instance_uid"]])
        assert code == 0 or shown.err.strip(), "a refusal says why"
        return len(documents)

    check(tmp_path / "by-rule")
    # The rule wants more slices than these folders have; asked for by name, what convert reads is answered.
    for number, uid in enumerate(grids):
        assert check(tmp_path / f"series-{number}", "--series", uid) == 1
