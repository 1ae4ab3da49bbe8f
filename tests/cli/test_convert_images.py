"""``mtnet convert`` and ``mtnet scan`` on 2D images, cines and videos."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImages
from pydicom.dataset import Dataset

from mtnet.cli.main import main
from mtnet.io.image2d import read_picture
from tests.cli.test_convert import names, run, summary
from tests.io.test_dicom_images import GREY, RGB, region, write_object
from tests.io.test_video import write_video


def report(out: Path, name: str) -> dict[str, object]:
    content: dict[str, object] = json.loads((out / f"{name}.json").read_text())
    return content


def test_a_folder_of_pictures_becomes_lossless_pngs_with_reports(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    PillowImages.fromarray(GREY).save(tmp_path / "in" / "a.png")
    PillowImages.fromarray(RGB).save(tmp_path / "in" / "b.bmp")
    (tmp_path / "in" / "c.jpg").write_bytes(b"\xff\xd8 broken")
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert names(tmp_path / "out") == ["convert.json", "image-0.json", "image-0.png", "image-1.json", "image-1.png"]
    one, two, bad = summary(tmp_path / "out")["series"]
    assert (one["image_file"], one["file"], one["kind"], one["channels"]) == ("a.png", "image-0.png", "image", 1)
    assert (two["file"], two["shape"], two["spacing_mm"]) == ("image-1.png", [40, 24], None)
    assert bad["file"] is None and bad["refusals"]
    np.testing.assert_array_equal(np.asarray(PillowImages.open(tmp_path / "out" / "image-1.png")), RGB)
    found = report(tmp_path / "out", "image-0")
    assert "pixel_spacing_unknown" in json.dumps(found["report"]) and found["file"] == "image-0.png"


def test_dicom_images_and_cines_become_files_with_spacing_and_times(tmp_path: Path) -> None:
    regions = {"SequenceOfUltrasoundRegions": [region((0, 0, 39, 23), (0.02, 0.03))]}
    single = write_object(tmp_path / "in" / "a.dcm", RGB, "RGB", **regions)
    write_object(tmp_path / "in" / "b.dcm", np.stack([GREY] * 3), "MONOCHROME2", frames=3, FrameTime=40)
    assert run(tmp_path / "in", tmp_path / "out") == 0
    image, cine = sorted(summary(tmp_path / "out")["series"], key=lambda entry: str(entry["kind"]), reverse=True)
    assert (image["file"], image["sop_instance_uid"]) == ("image-0.png", single.sop_instance_uid)
    assert image["spacing_mm"] == pytest.approx([0.2, 0.3])
    assert (cine["file"], cine["frames"]) == ("cine-0", 3)
    listed = report(tmp_path / "out", "cine-0")["frames"]
    assert listed == [{"file": f"cine-0/frame-{n:05d}.png", "time_ms": 40.0 * n} for n in range(3)]
    np.testing.assert_array_equal(read_picture(tmp_path / "out" / "cine-0" / "frame-00002.png").array[0], GREY.T)
    (again,) = (item for item in [run(tmp_path / "in" / "a.dcm", tmp_path / "out")])
    assert again == 0 and names(tmp_path / "out") == ["convert.json", "image-0.json", "image-0.png"]


def test_one_broken_image_does_not_keep_its_neighbours_from_being_written(tmp_path: Path) -> None:
    shared = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4"}
    write_object(tmp_path / "in" / "a.dcm", RGB, "RGB", **shared)
    write_object(tmp_path / "in" / "b.dcm", RGB[::-1].copy(), "RGB", **shared)
    whole = (tmp_path / "in" / "b.dcm").read_bytes()
    (tmp_path / "in" / "b.dcm").write_bytes(whole[:-500])
    assert run(tmp_path / "in", tmp_path / "out") == 0
    entries = summary(tmp_path / "out")["series"]
    assert [entry["file"] for entry in entries].count(None) == 1
    (bad,) = (entry for entry in entries if entry["file"] is None)
    assert "truncated_pixels" in [item["code"] for item in bad["refusals"]]


def test_a_video_becomes_numbered_frames_and_a_broken_one_nothing(tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="mtnet[video] is not installed")
    (tmp_path / "in").mkdir()
    path = write_video(tmp_path / "in" / "a.mkv", "FFV1", count=4)
    (tmp_path / "in" / "b.mkv").write_bytes(path.read_bytes()[:-200])
    assert run(tmp_path / "in", tmp_path / "out") == 0
    good, bad = summary(tmp_path / "out")["series"]
    assert (good["file"], good["frames"], good["kind"]) == ("cine-0", 4, "cine")
    assert [item["code"] for item in bad["refusals"]] == ["video_cut_short"]
    assert len(names(tmp_path / "out" / "cine-0")) == 4
    assert names(tmp_path / "out") == ["cine-0", "cine-0.json", "convert.json"]


def test_files_of_others_in_the_place_of_images_stay(tmp_path: Path) -> None:
    PillowImages.fromarray(GREY).save(tmp_path / "a.png")
    out = tmp_path / "out"
    out.mkdir()
    (out / "image-7.png").write_bytes(b"mine")
    with pytest.raises(ValueError, match="not written by mtnet convert"):
        run(tmp_path / "a.png", out)
    (out / "image-7.png").unlink()
    (out / "cine-0").mkdir()
    (out / "cine-0" / "notes.txt").write_text("mine")
    (out / "cine-0.json").write_text('{"written_by": "mtnet convert"}')
    with pytest.raises(ValueError, match=r"notes\.txt was not written"):
        run(tmp_path / "a.png", out)
    assert (out / "cine-0" / "notes.txt").read_text() == "mine"


def test_scan_lists_pictures_and_videos_with_kind_size_and_findings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    PillowImages.fromarray(RGB).save(tmp_path / "a.png")
    write_video(tmp_path / "b.avi", "FFV1", count=4)
    (tmp_path / "c.tif").write_bytes(b"II*\0")
    assert main(["scan", str(tmp_path), "--json"]) == 0
    studies = json.loads(capsys.readouterr().out)["studies"]
    found = [(study["image_file"], study["image_kind"], study["image_shape"]) for study in studies]
    assert found == [("a.png", "image", [40, 24]), ("b.avi", "cine", [64, 48, 4]), ("c.tif", "image", None)]
    assert studies[0]["findings"][0]["code"] == "pixel_spacing_unknown"
    assert studies[2]["findings"][0]["severity"] == "refused"
    assert main(["scan", str(tmp_path)]) == 0
    assert "image file a.png (image, 40 x 24)" in capsys.readouterr().out


def test_pictures_beside_volumes_or_dicom_are_passed_over(tmp_path: Path) -> None:
    import SimpleITK

    from mtnet.io.scan import scan

    PillowImages.fromarray(RGB).save(tmp_path / "overlay.png")
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((4, 5, 6), np.int16)), str(tmp_path / "a.nii.gz"))
    (study,) = scan(tmp_path)
    assert study.image_path == tmp_path / "a.nii.gz" and "foreign_files" in study.report.codes
    write_object(tmp_path / "b.dcm", RGB, "RGB")
    (study,) = scan(tmp_path)
    assert study.image_path is None


def test_patient_data_of_a_capture_reach_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    item = Dataset()
    item.PatientID = "SECRET-ID"
    write_object(tmp_path / "in" / "a.dcm", RGB, "RGB", PatientName="Nobody^Real", OtherPatientIDsSequence=[item])
    run(tmp_path / "in", tmp_path / "out")
    printed = capsys.readouterr()
    texts = [printed.out, printed.err, *(path.read_text() for path in (tmp_path / "out").glob("*.json"))]
    assert not any(secret in text for text in texts for secret in ("Nobody", "SECRET-ID"))
