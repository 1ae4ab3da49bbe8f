from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from mtnet.bundle import BundleError
from mtnet.predictor import Predictor, ReadOptions
from mtnet.results import read_findings_json, write_results
from mtnet.structures import Findings, Geometry, RefusedError
from mtnet.systems import chest_ct
from tests.builders import RAMP_HU_PER_MM, ramp_hu, write_ct_series
from tests.bundles import blob_predictor, write_tiny_bundle
from tests.io.test_load import signed_permutations

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")

BLOB_RADIUS_MM = 5.0
OBLIQUE = np.linalg.qr(np.array([[1.0, 0.3, 0.1], [-0.2, 1.0, 0.4], [0.1, -0.3, 1.0]]))[0]


@pytest.fixture(scope="module", name="bundle")
def _bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


def chest_like(points_lps_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Different everywhere, within the HU window."""
    return np.clip(ramp_hu(points_lps_mm) * 0.5 - 300, -1000, 400)


def write_chest(folder: Path, **options: object) -> Path:
    write_ct_series(folder, shape=(24, 20, 9), spacing_mm=(2.5, 2.5, 6.0), values=chest_like, **options)  # type: ignore[arg-type]
    return folder


def same(one: Findings, two: Findings) -> bool:
    maps = [(getattr(f, name).array for f in (one, two)) for name in ("label_map", "lesion_map", "reconstruction")]
    return (
        one.lesions == two.lesions
        and one.image_classes == two.image_classes
        and one.options == two.options
        and one.report == two.report
        and all(np.array_equal(*pair) for pair in maps)
    )


def test_the_steps_compose_to_run_and_a_stream_gives_the_same(bundle: Path, tmp_path: Path) -> None:
    write_chest(tmp_path / "in" / "a", study="a")
    predictor = Predictor.from_bundle(bundle, device="cpu")
    case = predictor.read(tmp_path / "in" / "a")
    stepwise = predictor.finish(case, predictor.infer(case))
    assert stepwise.lesions, "random weights must find something, or nothing is compared"
    assert same(stepwise, predictor.run(tmp_path / "in" / "a"))
    (streamed,) = predictor.stream(tmp_path / "in" / "a")
    assert same(stepwise, streamed)
    assert [cost.stage for cost in stepwise.costs] == ["scan", "read", "preprocess", "network", "decode"]


def test_run_refuses_several_studies_and_stream_answers_each(bundle: Path, tmp_path: Path) -> None:
    for name in "ab":
        write_chest(tmp_path / "in" / name, study=name, series=name)
    predictor = Predictor.from_bundle(bundle, device="cpu")
    with pytest.raises(RefusedError, match=r"2 studies.*several_studies"):
        predictor.run(tmp_path / "in")
    found = list(predictor.stream(tmp_path / "in"))
    assert len({f.source.study_instance_uid for f in found}) == 2


def test_fewer_tasks_give_fewer_outputs_with_the_same_bits(bundle: Path, tmp_path: Path) -> None:
    path = write_chest(tmp_path / "in")
    everything = Predictor.from_bundle(bundle, device="cpu").run(path)
    dense = Predictor.from_bundle(bundle, device="cpu", tasks=["reconstruction", "segmentation"]).run(path)
    assert (dense.lesions, dense.image_classes, dense.lesion_map) == ((), (), None)
    assert dense.label_map is not None and everything.label_map is not None
    np.testing.assert_array_equal(dense.label_map.array, everything.label_map.array)
    assert dense.reconstruction is not None and everything.reconstruction is not None
    np.testing.assert_array_equal(dense.reconstruction.array, everything.reconstruction.array)
    assert dense.reconstruction_error == everything.reconstruction_error
    assert dense.options["outputs"] == "pred,reconstruction"
    classes = Predictor.from_bundle(bundle, device="cpu", tasks=["classification"]).run(path)
    assert classes.image_classes == everything.image_classes and classes.label_map is None
    boxes = Predictor.from_bundle(bundle, device="cpu", tasks=["detection"]).run(path)
    assert [(x.score, x.box_index, x.class_probabilities) for x in boxes.lesions] == [
        (x.score, x.box_index, x.class_probabilities) for x in everything.lesions
    ]
    assert boxes.lesion_map is None and all(x.volume_mm3 is None for x in boxes.lesions)


@pytest.mark.parametrize("tasks", [["segmentation", "measuring"], [], [""]])
def test_an_unknown_task_is_refused_with_those_there_are(bundle: Path, tasks: list[str]) -> None:
    with pytest.raises(BundleError, match="this bundle has segmentation, detection, classification, reconstruction"):
        Predictor.from_bundle(bundle, device="cpu", tasks=tasks)


def test_fast_changes_overlap_and_precision_and_says_so(bundle: Path, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("mtnet.inference.precision.fast_precision", lambda _device, _runtime: "bfloat16")
    overlapping = write_tiny_bundle(tmp_path / "overlapping", overlap=0.5)
    path = write_chest(tmp_path / "in")
    slow = Predictor.from_bundle(overlapping, device="cpu").run(path)
    fast = Predictor.from_bundle(overlapping, device="cpu", fast=True).run(path)
    assert (slow.options["overlap"], slow.options["precision"]) == ("0.5", "float32")
    assert (fast.options["overlap"], fast.options["precision"]) == ("0", "bfloat16")


def test_a_device_that_is_not_there_is_an_error_that_says_what_to_do(bundle: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no CUDA device here; use --device cpu"):
        Predictor.from_bundle(bundle, device="cuda")
    assert Predictor.from_bundle(bundle, device="auto").device == "cpu"
    with pytest.raises(ValueError, match="device is 'gpu'; expected auto"):
        Predictor.from_bundle(bundle, device="gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"1 CUDA device\(s\) here"):
        Predictor.from_bundle(bundle, device="cuda:1")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_an_image_file_is_answered_as_the_series_is_but_without_a_seg(tmp_path: Path, suffix: str) -> None:
    blob = np.array([14.0, 16.0, 11.0])
    write_ct_series(
        tmp_path / "in",
        shape=(24, 20, 9),
        spacing_mm=(1.5, 1.5, 3.0),
        origin_lps_mm=(0.0, 0.0, 0.0),
        values=lambda p: np.where(np.linalg.norm(p - blob, axis=-1) <= BLOB_RADIUS_MM, 300.0, -800.0),
    )
    predictor = blob_predictor()
    series = predictor.read(tmp_path / "in")
    image = SimpleITK.GetImageFromArray(series.volume.array[0].transpose())
    geometry = series.volume.geometry
    image.SetSpacing(geometry.spacing_mm)
    image.SetOrigin(geometry.origin_lps_mm)
    image.SetDirection(geometry.direction_lps.flatten().tolist())
    file = tmp_path / f"image{suffix}"
    SimpleITK.WriteImage(image, str(file))
    case = predictor.read(file)
    findings = predictor.finish(case, predictor.infer(case))
    assert findings.source.file_name == file.name and not findings.source.series_instance_uid
    assert findings.geometry.almost_equal(geometry)
    (ours,), (theirs,) = findings.lesions, predictor.finish(series, predictor.infer(series)).lesions
    np.testing.assert_allclose(ours.centre_lps_mm, theirs.centre_lps_mm, atol=1e-3)
    assert ours.mask_voxels == theirs.mask_voxels
    done = write_results(findings, case.volume, tmp_path / "out")
    assert not done.dicom.seg.written and "DICOM" in done.dicom.seg.reason
    assert not (tmp_path / "out" / "segmentation.dcm").exists()


def test_a_repaired_series_is_answered_on_the_even_grid_and_says_so(bundle: Path, tmp_path: Path) -> None:
    path = write_chest(tmp_path / "in", slice_offsets_mm=[0, 4, 8, 12, 15, 18, 22, 26, 30, 34])
    predictor = Predictor.from_bundle(bundle, device="cpu")
    findings = predictor.run(path)
    assert "variable_spacing" in findings.report.codes
    assert findings.options["repaired"] == "yes"
    assert predictor.run(write_chest(tmp_path / "even")).options["repaired"] == "no"
    steps = findings.geometry.spacing_mm
    assert findings.geometry.shape[2] * steps[2] == pytest.approx(34 + steps[2], abs=steps[2] / 2)
    with pytest.raises(RefusedError, match="variable_spacing"):
        predictor.run(path, ReadOptions(strict=True))


def test_weights_that_do_not_fit_are_refused(bundle: Path, tmp_path: Path) -> None:
    other = write_tiny_bundle(tmp_path / "other")
    config = (other / "configs" / "inference.json").read_text()
    (other / "configs" / "inference.json").write_text(config.replace('"vgg13"', '"resnet18"'))
    with pytest.raises(ValueError, match="do not fit the network"):
        Predictor.from_bundle(other, device="cpu")
    (bundle_weights := other / "models" / "model.pt").write_bytes(b"damaged")
    with pytest.raises(BundleError, match="damaged or was"):
        Predictor.from_bundle(other, device="cpu")
    bundle_weights.unlink()
    with pytest.raises(BundleError, match="no weights"):
        Predictor.from_bundle(other, device="cpu")


def test_a_trusted_bundle_may_hold_expressions_and_gives_the_same_answers(bundle: Path, tmp_path: Path) -> None:
    path = write_chest(tmp_path / "in")
    program = write_tiny_bundle(tmp_path / "program", spacing_mm="$[2.0 * 3] * 3")
    with pytest.raises(BundleError, match="expressions"):
        Predictor.from_bundle(program, device="cpu")
    trusted = Predictor.from_bundle(program, device="cpu", trust_bundle=True, tasks=["segmentation", "detection"])
    wanted = Predictor.from_bundle(bundle, device="cpu", tasks=["segmentation", "detection"])
    one, two = trusted.run(path), wanted.run(path)
    assert one.lesions == two.lesions and one.options == two.options
    assert one.label_map is not None and two.label_map is not None
    np.testing.assert_array_equal(one.label_map.array, two.label_map.array)


@pytest.mark.parametrize("spacing_mm", [(1.2, 1.0, 2.0), (0.9, 0.8, 5.0)])
@pytest.mark.parametrize("index", range(48))
def test_preprocessing_keeps_every_voxel_where_it_is(index: int, spacing_mm: tuple[float, float, float]) -> None:
    check_ramp(signed_permutations()[index], spacing_mm)


def test_preprocessing_keeps_oblique_voxels_where_they_are() -> None:
    check_ramp(OBLIQUE, (1.2, 1.0, 3.0))


def check_ramp(direction: NDArray[np.float64], spacing_mm: tuple[float, float, float]) -> None:
    """A linear image survives linear resampling, so each voxel must still tell the place that the affine gives it."""
    shape = (14, 16, 9)
    grid = Geometry.from_parts(shape, spacing_mm, direction_lps=direction)
    middle = grid.index_to_lps_mm((np.array(shape) - 1) / 2)
    grid = Geometry.from_parts(shape, spacing_mm, 40 * np.ones(3) - middle, direction)
    offset = -300 - 40 * float(RAMP_HU_PER_MM.sum())
    points = grid.index_to_lps_mm(np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1))
    values = ramp_hu(points) + offset
    low, high = chest_ct.HU_WINDOW
    assert low < values.min() and values.max() < high
    image = MetaTensor(torch.as_tensor(values, dtype=torch.float32), affine=torch.as_tensor(grid.affine_ras))
    prepared = chest_ct.preprocessing(load=False)({"image": image})["image"]

    after = Geometry.from_ras(prepared.shape[1:], prepared.affine.numpy())
    np.testing.assert_allclose(after.spacing_mm, chest_ct.SPACING_MM, rtol=1e-4)
    assert np.abs(after.direction_lps - np.eye(3)).max() < (0.5 if direction is OBLIQUE else 1e-6)
    points = after.index_to_lps_mm(np.stack(np.meshgrid(*map(np.arange, after.shape), indexing="ij"), axis=-1))
    inside = grid.lps_mm_to_index(points)
    interior = ((inside >= 0) & (inside <= np.array(shape) - 1)).all(axis=-1)
    assert interior.mean() > 0.6
    seen = prepared[0].numpy() * (high - low) + low
    assert np.abs(seen - (ramp_hu(points) + offset))[interior].max() < 0.5, "a tenth of a millimetre is 0.5 HU"
    # All of the image is still there.
    corners = np.array([grid.index_to_lps_mm(np.array(c) * (np.array(shape) - 1)) for c in np.ndindex(2, 2, 2)])
    reach = after.lps_mm_to_index(corners)
    assert (reach > -1.01).all() and (reach < np.array(after.shape) + 0.01).all()


ORIENTATIONS: dict[str, NDArray[np.float64]] = {
    "axial": np.eye(3),
    "axial from the head": np.diag([1.0, 1.0, -1.0]),
    "flipped": np.diag([-1.0, -1.0, 1.0]),
    "coronal": np.eye(3)[:, [0, 2, 1]] * [1, 1, -1],
    "sagittal": np.eye(3)[:, [1, 2, 0]],
    "oblique": OBLIQUE,
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_a_blob_comes_back_from_where_it_was_planted_in_every_file(name: str, tmp_path: Path) -> None:
    blob = np.array([13.0, -7.0, 22.0])
    spacing = (1.1, 0.9, 2.0)
    shape = (36, 40, 20)
    direction = ORIENTATIONS[name]
    at = np.array([15.3, 22.8, 8.4])
    origin = blob - direction @ (at * spacing)
    written = write_ct_series(
        tmp_path / "in",
        shape=shape,
        spacing_mm=spacing,
        direction_lps=direction,
        origin_lps_mm=origin.tolist(),
        values=lambda p: np.where(np.linalg.norm(p - blob, axis=-1) <= BLOB_RADIUS_MM, 300.0, -800.0),
    )
    predictor = blob_predictor()
    case = predictor.read(tmp_path / "in", ReadOptions(series_uid=written.series_uid))
    findings = predictor.finish(case, predictor.infer(case))
    (lesion,) = findings.lesions
    np.testing.assert_allclose(lesion.centre_lps_mm, blob, atol=0.5)
    box = np.array(lesion.box_lps_mm).reshape(2, 3)
    np.testing.assert_allclose(box.mean(axis=0), blob, atol=max(spacing))
    # Interpolation rounds a ball of few voxels off; what is wrong is a lesion of another size.
    drawn_mm3 = 4 / 3 * np.pi * BLOB_RADIUS_MM**3
    assert lesion.volume_mm3 == pytest.approx(drawn_mm3, rel=0.25)

    done = write_results(findings, case.volume, tmp_path / "out")
    assert done.dicom.seg.written
    for centroid in (
        centroid_of_nifti(tmp_path / "out" / "segmentation.nii.gz"),
        centroid_of_nifti(tmp_path / "out" / "lesions.nii.gz"),
        centroid_of_seg(tmp_path / "out" / "segmentation.dcm"),
        read_findings_json(tmp_path / "out" / "findings.json").lesions[0].centre_lps_mm,
    ):
        np.testing.assert_allclose(centroid, lesion.centre_lps_mm, atol=1e-2)


def centroid_of_nifti(path: Path) -> Sequence[float]:
    image = nibabel.load(path)
    where = np.argwhere(np.asarray(image.dataobj) > 0)
    ras = nibabel.affines.apply_affine(image.affine, where.mean(axis=0))
    return ras * np.array([-1.0, -1.0, 1.0])  # type: ignore[no-any-return]


def centroid_of_seg(path: Path) -> Sequence[float]:
    volume = highdicom.seg.segread(str(path)).get_volume(combine_segments=True, skip_overlap_checks=True)
    return volume.map_indices_to_reference(np.argwhere(volume.array > 0).mean(axis=0)[None])[0]  # type: ignore[no-any-return]


def test_two_blobs_are_two_lesions_numbered_alike_in_the_map(tmp_path: Path) -> None:
    centres = np.array([[10.0, 10.0, 10.0], [45.0, 24.0, 26.0]])
    write_ct_series(
        tmp_path / "in",
        shape=(56, 36, 18),
        spacing_mm=(1.0, 1.0, 2.0),
        origin_lps_mm=(0.0, 0.0, 0.0),
        values=lambda p: np.where((np.linalg.norm(p[..., None, :] - centres, axis=-1) <= 5).any(axis=-1), 300, -800),
    )
    findings = blob_predictor(window=16).run(tmp_path / "in")
    assert len(findings.lesions) == 2 and findings.lesion_map is not None
    for lesion in findings.lesions:
        index = np.rint(findings.geometry.lps_mm_to_index(lesion.centre_lps_mm)).astype(int)
        assert findings.lesion_map.array[0][tuple(index)] == lesion.number
        assert np.linalg.norm(centres - lesion.centre_lps_mm, axis=1).min() < 0.5


def test_nothing_bright_is_no_lesion(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "in", shape=(20, 20, 9), values=lambda p: p[..., 0] * 0 - 800)
    findings = blob_predictor().run(tmp_path / "in")
    assert findings.lesions == () and findings.label_map is not None and not findings.label_map.array.any()
