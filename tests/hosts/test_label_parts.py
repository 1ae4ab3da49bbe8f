"""The parts of our MONAI Label app that need no MONAI Label: boxes, side files, signals, label files, drawn SEGs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch

from mtnet.answers import Answers
from mtnet.hosts.label.answerer import Answered, Answerer, read_options
from mtnet.hosts.label.drawn_seg import source_of, write_drawn_seg
from mtnet.hosts.label.label_files import label_extension, map_labels, write_label_map
from mtnet.hosts.label.markups import boxes_of_markups, write_markups
from mtnet.hosts.label.side_file import labelled_items, read_side_file
from mtnet.hosts.label.signals import Signals, contradictions, redraws, signals_of, tells_disagreement
from mtnet.hosts.label.start import environment, main
from mtnet.inference.plan import DenseOutput, Detections, Outputs
from mtnet.structures import (
    Findings,
    Geometry,
    ImageClass,
    Label,
    Lesion,
    Measured,
    ModelInfo,
    Plane,
    Source,
    TrainingDistance,
    Volume,
)
from mtnet.systems import breast_ultrasound, chest_ct, res_mtnet, unet_v2, yolo_med
from tests.builders import write_ct_series
from tests.bundles import write_tiny_bundle
from tests.results.judges import errors_of

MODEL = ModelInfo("toy", "1", "ab" * 32, "nothing")
CHEST = (chest_ct.SEGMENTATION, chest_ct.DETECTION, chest_ct.CLASSIFICATION, chest_ct.RECONSTRUCTION)
BREAST = (breast_ultrasound.SEGMENTATION, breast_ultrasound.CLASSIFICATION)
YOLO = (yolo_med.SEGMENTATION, yolo_med.DETECTION)
NODULE = (res_mtnet.CLASSIFICATION, res_mtnet.DIAMETER, res_mtnet.RATING)


def turned(degrees: float = 30.0) -> Geometry:
    """A grid that is turned about the patient's long axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return Geometry.from_parts((40, 30, 20), (0.8, 1.2, 2.5), (-12.0, 7.0, 30.0), [[c, -s, 0], [s, c, 0], [0, 0, 1]])


def lesion_at(geometry: Geometry, box: tuple[float, ...], number: int = 1, **more: object) -> Lesion:
    box_lps = tuple(geometry.box_index_to_lps_mm(box).tolist())
    middle = tuple(geometry.index_to_lps_mm((np.array(box[:3]) + box[3:]) / 2).tolist())
    told = {"label": "nodule", "score": 0.75, "tracking_uid": f"2.25.{number}", **more}
    return Lesion(number=number, box_index=box, box_lps_mm=box_lps, centre_lps_mm=middle, **told)  # type: ignore[arg-type]


def found(geometry: Geometry, *lesions: Lesion, **more: object) -> Findings:
    return Findings(geometry, Source(), MODEL, lesions=lesions, **more)  # type: ignore[arg-type]


def test_a_box_is_a_roi_in_lps_mm_and_comes_back_as_it_was(tmp_path: Path) -> None:
    geometry, box = turned(), (3.5, 4.5, 2.5, 10.5, 8.5, 6.5)
    write_markups(found(geometry, lesion_at(geometry, box)), tmp_path / "boxes.json")
    (roi,) = json.loads((tmp_path / "boxes.json").read_text())["markups"]
    assert (roi["type"], roi["coordinateSystem"], roi["coordinateUnits"]) == ("ROI", "LPS", "mm")
    np.testing.assert_allclose(roi["size"], np.array([7, 4, 4]) * geometry.spacing_mm, atol=1e-5)
    # As Slicer's schema has it: elements 0, 3, 6 are the box's first axis in the patient.
    first_face = np.array(roi["center"]) + np.array(roi["orientation"][0::3]) * roi["size"][0] / 2
    np.testing.assert_allclose(first_face, geometry.index_to_lps_mm([10.5, 6.5, 4.5]), atol=1e-4)
    np.testing.assert_allclose(boxes_of_markups([roi], geometry), [box], atol=1e-4)
    flipped = {**roi, "coordinateSystem": "RAS", "center": [-roi["center"][0], -roi["center"][1], roi["center"][2]]}
    flipped["orientation"] = (np.diag([-1.0, -1.0, 1.0]) @ np.reshape(roi["orientation"], (3, 3))).ravel().tolist()
    np.testing.assert_allclose(boxes_of_markups([flipped], geometry), [box], atol=1e-4)


@pytest.mark.parametrize(
    ("markup", "said"),
    [
        ({"type": "Fiducial", "center": [0, 0, 0], "size": [1, 1, 1]}, "no box"),
        ({"type": "ROI", "center": [0, 0, 0], "size": [1, 0, 1]}, "no box"),
        ({"type": "ROI", "center": [0, 0, 0]}, "'center' and 'size'"),
        ({"type": "ROI", "coordinateSystem": "XYZ", "center": [0, 0, 0], "size": [1, 1, 1]}, "LPS or RAS"),
    ],
)
def test_a_markup_that_is_no_box_is_refused(markup: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        boxes_of_markups([markup], turned())


def write_image(folder: Path) -> tuple[Path, Geometry]:
    geometry = turned()
    nibabel.save(nibabel.Nifti1Image(np.zeros(geometry.shape, np.int16), geometry.affine_ras), folder / "scan.nii.gz")
    return folder / "scan.nii.gz", geometry


def test_boxes_of_a_side_file_are_one_box_however_they_are_told(tmp_path: Path) -> None:
    image, geometry = write_image(tmp_path)
    geometry = Geometry.from_ras(geometry.shape, nibabel.load(image).affine)
    box = (3.5, 4.5, 2.5, 10.5, 8.5, 6.5)
    write_markups(found(geometry, lesion_at(geometry, box)), tmp_path / "boxes.json")
    markups = json.loads((tmp_path / "boxes.json").read_text())
    for told in ({"boxes_index": [list(box)]}, markups):
        (tmp_path / "side.json").write_text(json.dumps(told))
        read = read_side_file(tmp_path / "side.json", image, CHEST)
        np.testing.assert_allclose(read["boxes"], [box], atol=1e-3)
    world = geometry.box_index_to_lps_mm(box).tolist()
    (tmp_path / "side.json").write_text(json.dumps({"boxes_lps_mm": [world]}))
    (low,) = np.array(read_side_file(tmp_path / "side.json", image, CHEST)["boxes"])[:, :3]
    assert (low <= np.array(box[:3]) + 1e-3).all(), "of a turned grid the smallest box that holds it"
    (tmp_path / "side.json").write_text('{"markups": []}')
    assert read_side_file(tmp_path / "side.json", image, CHEST) == {"boxes": []}, "known to hold nothing"


@pytest.mark.parametrize(
    ("told", "specs", "said"),
    [
        ("[1]", YOLO, "expected an object"),
        ("{", YOLO, "no valid JSON"),
        ('{"boxes_index": [[1, 1, 5]]}', YOLO, "expected 4 numbers"),
        ('{"boxes_index": [[5, 1, 1, 5]]}', YOLO, "lows are not below"),
        ('{"boxes_index": [], "markups": []}', YOLO, "expected one of them"),
        ('{"boxes_index": []}', BREAST, "learns none"),
        ('{"class": "lump"}', BREAST, "benign, malignant, normal"),
        ('{"class": "nodule"}', CHEST, "learns no class"),
        ('{"colour": 1}', BREAST, "key.* colour"),
        ('{"at_lps_mm": [1, 2, 3]}', BREAST, "whole images"),
        ('{"at_lps_mm": [1, 2]}', NODULE, "3 numbers"),
        ('{"diameter_mm": "large"}', NODULE, "a number"),
    ],
)
def test_a_side_file_that_teaches_nothing_is_refused(
    told: str, specs: tuple[object, ...], said: str, tmp_path: Path
) -> None:
    from PIL import Image

    Image.new("RGB", (40, 30)).save(tmp_path / "picture.png")
    (tmp_path / "side.json").write_text(told)
    with pytest.raises(ValueError, match=said) as refused:
        read_side_file(tmp_path / "side.json", tmp_path / "picture.png", specs)  # type: ignore[arg-type]
    assert "side.json" in str(refused.value)


def test_masks_and_side_files_become_items_and_a_seg_alone_none(tmp_path: Path) -> None:
    for name in ("both.png", "mask.png", "seg.dcm"):
        (tmp_path / name).touch()
    (tmp_path / "both.json").write_text('{"class": "benign"}')
    (tmp_path / "side.json").write_text('{"class": "normal"}')
    labels = ("both.json", "mask.png", "side.json", "seg.dcm")
    items = labelled_items([{"image": f"{n}.jpg", "label": str(tmp_path / n)} for n in labels], BREAST)
    assert items == [
        {"image": "both.json.jpg", "label": str(tmp_path / "both.png"), "class": "benign"},
        {"image": "mask.png.jpg", "label": str(tmp_path / "mask.png")},
        {"image": "side.json.jpg", "class": "normal"},
    ]


def test_a_place_that_is_told_is_not_taken_from_a_drawing(tmp_path: Path) -> None:
    (tmp_path / "1.2.3.nii.gz").touch()
    (tmp_path / "1.2.3.json").write_text('{"at_lps_mm": [1, 2, 3], "diameter_mm": 8, "class": "low"}')
    label = res_mtnet.SUSPICION[0].name
    (tmp_path / "1.2.3.json").write_text(json.dumps({"at_lps_mm": [1, 2, 3], "diameter_mm": 8, "class": label}))
    (item,) = labelled_items([{"image": "scan", "label": str(tmp_path / "1.2.3.nii.gz")}], NODULE)
    assert item == {"image": "scan", "at_lps_mm": (1.0, 2.0, 3.0), "diameter_mm": 8.0, "class": label}


def boxes_of(*scores: float) -> Detections:
    n = len(scores)
    return Detections(torch.zeros(n, 6), torch.tensor(scores), torch.zeros(n, dtype=torch.long), {})


def answers_of(geometry: Geometry, *scores: float) -> Answers:
    mask = np.zeros((1, *geometry.shape), np.uint8)
    return Answers(Outputs({"pred": DenseOutput(mask)}, {"lesions": boxes_of(*scores)}, {}), geometry, None)


def classes_of(*probabilities: float) -> tuple[ImageClass, ...]:
    labels = chest_ct.CLASSIFICATION.labels
    return tuple(ImageClass("classification", la.name, p, 0.5) for la, p in zip(labels, probabilities, strict=True))


def test_doubtful_scores_are_less_sure_than_clear_ones() -> None:
    geometry = turned()

    def unsure(scores: tuple[float, ...], *classes: float) -> float:
        told = signals_of(CHEST, answers_of(geometry, *scores), found(geometry, image_classes=classes_of(*classes)))
        assert told.uncertainty is not None
        return told.uncertainty

    assert unsure((), 0.0, 0.0) == pytest.approx(0, abs=1e-6)
    assert unsure((0.99,), 0.99, 0.01) < unsure((0.5,), 0.99, 0.01) < unsure((0.5, 0.5), 0.5, 0.5) < 1
    assert unsure((0.5,), 0.5, 0.5) == pytest.approx((1 / 3 + 1) / 2)


def test_tasks_disagree_on_presence_place_and_rating() -> None:
    geometry = turned()
    mask = np.zeros((1, *geometry.shape), np.uint8)
    mask[0, 5:9, 5:9, 5:9] = 1
    owned = mask.astype(np.uint16)
    owned[0, 7:] = 0
    maps = {"label_map": Volume(mask, geometry), "lesion_map": Volume(owned, geometry)}
    lesion = lesion_at(geometry, (4.5, 4.5, 4.5, 6.5, 8.5, 8.5), mask_voxels=32)
    drawn = found(geometry, lesion, image_classes=classes_of(0.2, 0.1), **maps)
    answers = Answers(Outputs({"pred": DenseOutput(mask)}, {"lesions": boxes_of(0.9)}, {}), geometry, None)
    assert contradictions(CHEST, answers, drawn) == {"presence": pytest.approx(0.8), "place": pytest.approx(0.5)}
    agreed = found(geometry, image_classes=classes_of(0.0, 0.0))
    assert signals_of(CHEST, answers_of(geometry), agreed).disagreement == 0

    low, high = (label.name for label in res_mtnet.SUSPICION)
    told = {"class_probabilities": {res_mtnet.CLASSIFICATION.called: {low: 0.9, high: 0.1}}}
    rated = {"measured": {"reader_rating": Measured(5.0, "rating 1 to 5")}, "place_given": True, **told}
    at_place = found(geometry, lesion_at(geometry, (1, 1, 1, 2, 2, 2), **rated))
    nothing = Answers(Outputs({}, {}, {}), geometry, None)
    assert contradictions(NODULE, nothing, at_place) == {"rating": pytest.approx(0.9)}
    assert tells_disagreement(NODULE) and tells_disagreement(CHEST) and tells_disagreement(BREAST)
    assert not tells_disagreement((unet_v2.SEGMENTATION,))
    assert redraws(CHEST) and not redraws(BREAST)


def test_what_is_unlike_training_is_told_by_limits_and_else_by_redrawing() -> None:
    geometry, answers = turned(), answers_of(turned())
    redrawn = found(geometry, reconstruction_error={"mean_absolute_error_hu": 40.0})
    assert signals_of(CHEST, answers, redrawn).unlike_training == 40.0
    limits = (TrainingDistance("features", 1.2, 2.0), TrainingDistance("reconstruction", 40.0, 50.0))
    assert signals_of(CHEST, answers, replace(redrawn, training_distance=limits)).unlike_training == pytest.approx(0.8)
    assert signals_of(CHEST, answers, found(geometry)).unlike_training is None


def test_a_mask_of_a_picture_is_unsure_where_its_best_pixel_is() -> None:
    geometry = Geometry.from_parts((8, 6, 1), (1.0, 1.0, 1.0))

    def unsure(best: float) -> float:
        probabilities = np.full((1, 8, 6), 0.01, np.float32)
        probabilities[0, 3, 3] = best
        dense = DenseOutput(np.zeros((1, 8, 6), np.uint8), probabilities)
        answers = Answers(Outputs({"pred": dense}, {}, {}), geometry, None)
        told = signals_of((unet_v2.SEGMENTATION,), answers, found(geometry, plane=Plane()))
        assert told.uncertainty is not None
        return told.uncertainty

    assert unsure(0.01) < unsure(0.4) < 0.5


def answered(findings: Findings) -> Answered:
    return Answered(findings, Signals(None, None, None), np.zeros(0), None)


@pytest.mark.parametrize("end", [".nii.gz", ".nrrd", ".mha"])
def test_a_label_map_lies_where_the_image_lies_in_every_format(end: str, tmp_path: Path) -> None:
    geometry = turned()
    mask = np.zeros((1, *geometry.shape), np.uint8)
    mask[0, 10, 20, 5] = 1
    path = tmp_path / f"label{end}"
    assert write_label_map(answered(found(geometry, label_map=Volume(mask, geometry))), path) == ""
    image = sitk.ReadImage(str(path))
    assert image.GetSize() == geometry.shape and image.GetPixel(10, 20, 5) == 1
    place = image.TransformContinuousIndexToPhysicalPoint([10.0, 20.0, 5.0])
    np.testing.assert_allclose(place, geometry.index_to_lps_mm([10, 20, 5]), atol=1e-3)


def test_the_kind_of_label_file_follows_the_image_where_it_can() -> None:
    volume, picture = found(turned()), found(Geometry.from_parts((8, 6, 1), (1, 1, 1)), plane=Plane())
    assert label_extension(volume, Path("a.nrrd"), None) == ".nrrd"
    assert label_extension(volume, Path("1.2.3"), None) == ".nii.gz"
    assert label_extension(picture, Path("a.jpg"), None) == ".png"
    assert label_extension(volume, Path("a.nrrd"), ".dcm") == ".dcm"
    with pytest.raises(ValueError, match=r"\.png"):
        label_extension(picture, Path("a.jpg"), ".jpg")
    assert [label.name for label in map_labels(CHEST)] == ["nodule"]
    assert [label.value for label in map_labels(NODULE)] == [1, 2]


def test_a_drawn_label_map_is_a_seg_with_a_segment_a_label_by_its_name(tmp_path: Path) -> None:
    written = write_ct_series(tmp_path / "series", shape=(24, 20, 8), spacing_mm=(0.8, 0.9, 2.0))
    source = source_of(written.folder)
    labels = (Label(1, "liver"), Label(2, "nodule"), Label(3, "vessel"))
    values = np.zeros((24, 20, 8), np.uint8)
    values[3:6, 4:9, 2], values[10:12, 5, 3:5] = 2, 3
    affine = np.diag([-0.8, -0.9, 2.0, 1.0])
    affine[:3, 3] = [5.0, 4.0, -10.0]
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "label.nii.gz")
    made = write_drawn_seg(tmp_path / "label.nii.gz", source, labels, tmp_path / "seg.dcm")
    assert made is not None and made.segments == ("nodule", "vessel"), "an absent label shifts no name"
    assert errors_of(tmp_path / "seg.dcm") == []
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert [s.SegmentLabel for s in seg.SegmentSequence] == ["nodule", "vessel"]
    assert {s.SegmentAlgorithmType for s in seg.SegmentSequence} == {"MANUAL"}
    assert np.count_nonzero(seg.pixel_array) == np.count_nonzero(values)
    assert str(seg.ReferencedSeriesSequence[0].SeriesInstanceUID) == written.series_uid
    with pytest.raises(ValueError, match=r"value\(s\) 3"):
        write_drawn_seg(tmp_path / "label.nii.gz", source, labels[:2], tmp_path / "other.dcm")
    nibabel.save(nibabel.Nifti1Image(np.zeros_like(values), affine), tmp_path / "empty.nii.gz")
    assert write_drawn_seg(tmp_path / "empty.nii.gz", source, labels, tmp_path / "none.dcm") is None
    assert not (tmp_path / "other.dcm").exists() and not (tmp_path / "none.dcm").exists()


def test_an_image_passes_the_network_once_until_it_or_the_weights_change(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle", score_bias=-30.0)
    noise = np.random.default_rng(0).normal(0, 100, (24, 24, 24)).astype(np.float32)
    image = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(noise, np.diag([2.0, 2.0, 2.0, 1.0])), image)
    answerer = Answerer(bundle)
    first = answerer.answer(image)
    assert answerer.answer(image) is first and answerer.passes == 1
    assert first.features.ndim == 1 and first.features.std() > 0
    nibabel.save(nibabel.Nifti1Image(noise + 50, np.diag([2.0, 2.0, 2.0, 1.0])), image)
    assert answerer.answer(image) is not first and answerer.passes == 2
    other = write_tiny_bundle(tmp_path / "other", seed=1, score_bias=-30.0)
    for name in ("models/model.pt", "configs/metadata.json"):
        (bundle / name).write_bytes((other / name).read_bytes())
    assert answerer.answer(image).findings.model.weights_sha256 != first.findings.model.weights_sha256
    assert Answerer(bundle, cache_bytes=0).answer(image) is not None


def test_what_a_client_asks_for_is_read_or_refused() -> None:
    assert read_options({"device": "cpu", "allow_outside": True}).allow_outside
    points = read_options({"at_lps_mm": [1, 2, 3]}).points
    assert points is not None and points.places[0].lps_mm == (1.0, 2.0, 3.0)
    points = read_options({"at_lps_mm": [[1, 2, 3], [4, 5, 6]]}).points
    assert points is not None and len(points.places) == 2
    for wrong in ("here", [1, 2], [["x", 2, 3]], 7, []):
        with pytest.raises(ValueError, match="at_lps_mm"):
            read_options({"at_lps_mm": wrong})


def test_an_archive_is_for_our_app(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--app mtnet"):
        main(["--bundle", "chest_ct_multitask", "--studies", "http://127.0.0.1:1/dicom-web", "--app", "stock"])
    with pytest.raises(SystemExit, match="no such folder"):
        main(["--bundle", "chest_ct_multitask", "--studies", str(tmp_path / "none")])
    given = environment({"MTNET_DICOMWEB_USER": "a", "MTNET_DICOMWEB_PASSWORD": "b"})
    assert given["MONAI_LABEL_DICOMWEB_USERNAME"] == "a" and given["MONAI_LABEL_AUTO_UPDATE_SCORING"] == "false"
