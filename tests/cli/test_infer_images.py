"""``mtnet infer`` with a bundle of single images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtnet.cli import main
from mtnet.results.findings_json import check_document
from tests.builders import write_ct_series
from tests.bundles import write_tiny_bundle
from tests.planes import PHOTO, US_MULTIFRAME, save, spot, write_dicom, write_flat_bundle
from tests.test_plane_folders import moving, write_video

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")


@pytest.fixture(scope="module", name="bundle")
def _bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flat_bundle(tmp_path_factory.mktemp("bundle") / "flat")


def run(*arguments: object) -> int:
    return main.main(["infer", *map(str, arguments), "--device", "cpu"])


def findings(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "findings.json").read_text())
    check_document(document)
    return document


def test_a_picture_gives_a_table_in_pixels(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "a.png", spot((101, 67), (30, 12), (54, 31)))
    assert run(path, tmp_path / "out", "--bundle", bundle) == 0
    shown = capsys.readouterr()
    document = findings(tmp_path / "out")
    assert document["lesions"], "random weights must find something here, or the table is not tested"
    assert "box (columns, rows)" in shown.out and "LPS" not in shown.out and " mm" not in shown.out
    assert {"segmentation.png", "lesions.png", "reconstruction.png", "overlay.png"} <= {
        file["name"] for file in document["files"]
    }
    assert shown.err == ""


def test_a_folder_with_a_colour_picture_answers_the_grey_one_and_says_why_not_the_other(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "in" / "a.png", spot((101, 67), (30, 12), (54, 31)))
    save(tmp_path / "in" / "b.png", spot((101, 67), (30, 12), (54, 31), samples=3))
    assert run(tmp_path / "in", tmp_path / "out", "--bundle", bundle) == 1
    assert "colour_outside" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["1"]


def test_a_cine_tells_how_long_its_frames_took(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.pad(moving(3), ((0, 0), (0, 1), (0, 1)))
    path = write_dicom(tmp_path / "in", pixels, US_MULTIFRAME, "US", FrameTime="40")
    assert run(path, tmp_path / "out", "--bundle", bundle, "--tasks", "segmentation,detection") == 0
    told = capsys.readouterr().out
    assert "3 frames; from pixels to findings median " in told and "95th percentile" in told
    assert findings(tmp_path / "out")["dicom_report"]["written"]


def test_a_video_of_colour_is_refused_by_a_bundle_of_grey_images(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(write_video(tmp_path / "a.mkv", 2), tmp_path / "out", "--bundle", bundle) == 1
    assert "colour_outside" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_volumes_and_images_are_refused_by_bundles_of_the_other(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ct_series(tmp_path / "ct", shape=(20, 22, 9), spacing_mm=(1.5, 1.5, 2.5))
    assert run(tmp_path / "ct", tmp_path / "out", "--bundle", bundle) == 1
    assert "the network takes single images and clips" in capsys.readouterr().err
    volumes = write_tiny_bundle(tmp_path / "volumes")
    picture = save(tmp_path / "a.png", spot((101, 67), (30, 12), (54, 31)))
    photo = write_dicom(tmp_path / "photo", spot((102, 67), (30, 12), (54, 31)), PHOTO, "XC")
    assert run(picture, tmp_path / "out", "--bundle", volumes) == 1
    assert "the network takes volumes" in capsys.readouterr().err
    assert run(photo, tmp_path / "out", "--bundle", volumes) == 1
    assert "refused" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
