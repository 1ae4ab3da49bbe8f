"""From images, clips and videos to folders of results, by the command line's one way."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from mtnet.clips import answer_clip
from mtnet.inference.cost import CostMeter
from mtnet.io.scan import scan
from mtnet.predictor import Predictor, ReadOptions
from mtnet.results import read_findings_json
from mtnet.structures import Frame
from mtnet.study_folder import StudyOutcome, WriteOptions, answer_studies
from tests.planes import PHOTO, US_MULTIFRAME, chain, save, spot, spot_predictor, write_dicom
from tests.results.judges import errors_of
from tests.test_study_folder import check_complete, names

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")
OBJECTS = {"segmentation.dcm": "Segmentation", "report.dcm": "Comprehensive3DSR", "overlay.dcm": "SCImage"}
SHAPE, LOW, HIGH = (101, 67), (30, 12), (54, 31)


def answer(path: Path, out: Path, predictor: Predictor | None = None) -> list[StudyOutcome]:
    return list(answer_studies(predictor or spot_predictor(), path, out))


def rows_first(path: Path) -> NDArray[Any]:
    with Image.open(path) as picture:
        return np.asarray(picture)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "frames.jsonl").read_text().splitlines()]


def moving(count: int) -> NDArray[np.uint8]:
    """``(frames, rows, columns)``: a bright rectangle that goes right by 4 columns a frame; none on frame 1."""
    frames = [spot(SHAPE, (10 + 4 * k, 12), (26 + 4 * k, 31)) for k in range(count)]
    frames[1][:] = 20
    return np.stack(frames)


def test_a_picture_gives_masks_as_pictures_an_overlay_and_findings_in_pixels(tmp_path: Path) -> None:
    path = save(tmp_path / "polyp.png", spot(SHAPE, LOW, HIGH, 3))
    answer(path, tmp_path / "out")
    document = check_complete(tmp_path / "out")
    assert names(tmp_path / "out") == {"findings.json", "segmentation.png", "lesions.png", "overlay.png"}
    mask = spot(SHAPE, LOW, HIGH) > 100
    for name in ("segmentation.png", "lesions.png"):
        np.testing.assert_array_equal(rows_first(tmp_path / "out" / name), mask)
    assert document["schema_version"] == "1.2" and document["source"]["file_name"] == "polyp.png"
    assert document["grid"] == {"shape_ijk": [*SHAPE, 1], "spacing_mm": None, "affine_lps_mm": None}
    assert document["plane"] == {"pixel_spacing_mm": None, "frames": 1, "frame_timings": None}
    (lesion,) = document["lesions"]
    assert lesion["box_lps_mm"] is None and lesion["centre_lps_mm"] is None and lesion["volume_mm3"] is None
    assert lesion["centre_index"] == [41.5, 21.0, 0.0] and lesion["frame"] == 0
    assert document["dicom_seg"]["reason"] and not document["dicom_report"]["written"]
    back = read_findings_json(tmp_path / "out" / "findings.json")
    assert back.lesions[0].measures == lesion["measures"] and back.plane is not None
    assert back.lesions[0].box_index == tuple(lesion["box_index"])


def test_a_dicom_image_gives_seg_report_and_capture_that_dciodvfy_takes(tmp_path: Path) -> None:
    source = write_dicom(tmp_path / "in" / "a", spot((102, 67), LOW, HIGH, 3), PHOTO, "XC")
    answer(source, tmp_path / "out", spot_predictor(chain((96, 128))))
    document = check_complete(tmp_path / "out")
    assert names(tmp_path / "out") >= {*OBJECTS, "overlay.png", "segmentation.png"}
    for name, iod in OBJECTS.items():
        assert errors_of(tmp_path / "out" / name, iod) == []
    seg = highdicom.seg.segread(str(tmp_path / "out" / "segmentation.dcm"))
    np.testing.assert_array_equal(seg.pixel_array > 0, rows_first(tmp_path / "out" / "lesions.png") > 0)
    assert document["source"]["sop_instance_uid"] == str(pydicom.dcmread(source).SOPInstanceUID)
    assert "SECRET" not in json.dumps(document) and "Nobody" not in json.dumps(document)


def test_a_folder_of_pictures_gets_a_folder_each_under_their_names(tmp_path: Path) -> None:
    for n, name in enumerate(("b.png", "a.jpg", "c.tif", "d.bmp")):
        save(tmp_path / "in" / name, spot(SHAPE, (LOW[0] + n, LOW[1]), HIGH))
    (tmp_path / "in" / "e.png").write_bytes(b"no picture")
    outcomes = answer(tmp_path / "in", tmp_path / "out")
    assert [outcome.written is None for outcome in outcomes] == [False, False, False, False, True]
    found = [check_complete(outcome.folder)["source"]["file_name"] for outcome in outcomes[:4]]
    assert found == ["a.jpg", "b.png", "c.tif", "d.bmp"]
    assert names(tmp_path / "out") == {"1", "2", "3", "4"}


def test_objects_of_other_modalities_are_passed_over_and_named(tmp_path: Path) -> None:
    write_dicom(tmp_path / "in" / "a", spot((102, 67), LOW, HIGH), PHOTO, "XC", uid="1.2.826.1.5.1")
    write_dicom(tmp_path / "in" / "b", moving(2)[0], US_MULTIFRAME.replace("3.1", "6.1"), "US", uid="1.2.826.1.5.2",
                SeriesInstanceUID="1.2.826.1.9")  # fmt: skip
    (outcome,) = answer(tmp_path / "in", tmp_path / "out", spot_predictor(modalities=("US",)))
    assert outcome.written is not None
    reasons = {c.series_instance_uid: c.reason for c in outcome.written.findings.source.choices}
    assert reasons["1.2.826.1.9"] == "image 1 of 1, 1 frame(s)" and "not of modality US" in reasons.values()


@pytest.mark.parametrize("batch", [1, 3])
def test_a_cine_is_answered_frame_by_frame_and_its_seg_names_the_frames(tmp_path: Path, batch: int) -> None:
    pixels = np.pad(moving(5), ((0, 0), (0, 1), (0, 1)))
    source = write_dicom(tmp_path / "in", pixels, US_MULTIFRAME, "US", FrameTime="40", FrameIncrementPointer=0x00181063)
    predictor = spot_predictor(batch=batch)
    answer(source, tmp_path / "out", predictor)
    document = check_complete(tmp_path / "out")
    assert {shape[0] for shape in predictor.network.batches} == ({1} if batch == 1 else {3, 2})
    assert sorted(lesion["frame"] for lesion in document["lesions"]) == [0, 2, 3, 4]
    for lesion in document["lesions"]:
        k = lesion["frame"]
        np.testing.assert_allclose(
            lesion["box_index"], [9.5 + 4 * k, 11.5, k - 0.5, 25.5 + 4 * k, 30.5, k + 0.5], atol=1e-3
        )
    assert document["plane"]["frames"] == document["plane"]["frame_timings"]["count"] == 5
    with Image.open(tmp_path / "out" / "segmentation.tif") as pages:
        np.testing.assert_array_equal([np.asarray(page) for page in ImageSequence.Iterator(pages)], pixels > 100)
    lines = lines_of(tmp_path / "out")
    assert [line["time_ms"] for line in lines] == [0, 40, 80, 120, 160]
    assert [len(line["lesions"]) for line in lines] == [1, 0, 1, 1, 1]
    assert all(line["image_classes"] and line["latency_ms"] > 0 for line in lines)
    for name, iod in OBJECTS.items():
        assert errors_of(tmp_path / "out" / name, iod) == []
    seg = pydicom.dcmread(tmp_path / "out" / "segmentation.dcm")
    told = [int(f.FrameContentSequence[0].TemporalPositionIndex) - 1 for f in seg.PerFrameFunctionalGroupsSequence]
    numbers = [
        int(f.SegmentIdentificationSequence[0].ReferencedSegmentNumber) for f in seg.PerFrameFunctionalGroupsSequence
    ]
    for frame, number, plane in zip(told, numbers, seg.pixel_array, strict=True):
        np.testing.assert_array_equal(plane > 0, pixels[frame] > 100)
        assert document["lesions"][number - 1]["frame"] == frame
    assert not list((tmp_path / "out").glob(".*"))


def write_video(path: Path, count: int) -> Path:
    cv2 = pytest.importorskip("cv2", reason="mtnet[video] is not installed")
    frames = moving(count)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"FFV1"), 25.0, (100, 66))
    for frame in frames:
        writer.write(np.repeat(frame[:66, :100, None], 3, axis=2))
    writer.release()
    return path


def test_a_video_gives_an_overlay_video_a_line_a_frame_and_how_long_they_took(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="mtnet[video] is not installed")
    path = write_video(tmp_path / "a.mkv", 6)
    answer(path, tmp_path / "out")
    document = check_complete(tmp_path / "out")
    assert names(tmp_path / "out") == {"findings.json", "frames.jsonl", "overlay.mp4", "overlay.png"}
    assert sorted(lesion["frame"] for lesion in document["lesions"]) == [0, 2, 3, 4, 5]
    timings = document["plane"]["frame_timings"]
    latencies = [line["latency_ms"] for line in lines_of(tmp_path / "out")]
    assert timings["count"] == 6 and timings["median_ms"] == pytest.approx(np.median(latencies), abs=0.01)
    assert timings["p95_ms"] == pytest.approx(np.percentile(latencies, 95), abs=0.01)
    capture = cv2.VideoCapture(str(tmp_path / "out" / "overlay.mp4"))
    shown = []
    while (read := capture.read())[0]:
        shown.append(read[1])
    assert len(shown) == 6 and capture.get(cv2.CAP_PROP_FPS) == pytest.approx(25)
    assert shown[0].shape[1] == 100 and shown[0].shape[0] > 66
    colours = [float(np.ptp(frame[:66, :100].astype(int), axis=2).max()) for frame in shown]
    assert colours[0] > 80 > colours[1], "only frames with a lesion have coloured marks"
    assert shown[0][66:].max() > 100, "what the weights may be used for stands below the image"


def test_a_clip_of_any_length_takes_the_memory_of_a_few_frames(tmp_path: Path) -> None:
    """Counted: the frames that are alive at once, and the lesions that are kept."""
    alive: set[int] = set()
    most = [0]

    class Source:
        """Frames without end, as ``Video`` gives them."""

        shape, spacing_mm, frame_count = SHAPE, None, None

        def __iter__(self) -> Any:
            for k in range(150):
                array = np.ascontiguousarray(spot(SHAPE, (10, 12), (26, 31 + k % 20)).T[None])
                alive.add(k)
                weakref.finalize(array, alive.discard, k)
                most[0] = max(most[0], len(alive))
                yield Frame(array, k, 40.0 * k)

    path = write_video(tmp_path / "a.mkv", 2)
    predictor = spot_predictor(batch=2)
    (item,) = predictor.items(scan(path))
    clip = predictor.read_item(item, ReadOptions(), CostMeter())
    object.__setattr__(clip, "frames", Source())
    written = answer_clip(predictor, clip, tmp_path / "out")  # type: ignore[arg-type]
    assert len(lines_of(tmp_path / "out")) == 150 and len(written.findings.lesions) == 150
    assert most[0] <= 6 + 2 * 2 + 2, "those of the overlay, two batches, and one ahead"


def test_a_clip_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    pixels = np.pad(moving(5), ((0, 0), (0, 1), (0, 1)))
    source = write_dicom(tmp_path / "in", pixels, US_MULTIFRAME, "US")
    answer(source, tmp_path / "out")
    source.write_bytes(source.read_bytes()[: -2 * 68 * 102])
    (outcome,) = answer(source, tmp_path / "out")
    assert outcome.written is None and outcome.refusal
    assert names(tmp_path / "out") == set()


def test_options_of_writing_reach_clips_and_images(tmp_path: Path) -> None:
    source = write_dicom(tmp_path / "in", spot((102, 67), LOW, HIGH), PHOTO, "XC")
    list(answer_studies(spot_predictor(), source, tmp_path / "out", write=WriteOptions(capture=False)))
    assert "overlay.dcm" not in names(tmp_path / "out")
