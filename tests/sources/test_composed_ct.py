"""Cases composed of real nodules and of lung without any."""

import csv
from dataclasses import replace

import nibabel
import numpy as np
import pytest

from mtnet.io.image_files import load_image_file
from mtnet.io.read import read_volume
from mtnet.sources.folds import fold_of, split_of
from mtnet.sources.layout import Problems
from mtnet.sources.lung_grounds import Study, drawn_ground, real_studies
from mtnet.sources.manifest import joined, read_manifest, write_manifest
from mtnet.sources.prepare import Request, prepare

COARSE_MM = (3.0, 3.0, 5.0)
AFFINE = np.diag([-0.7, -0.7, 1.25, 1.0])


@pytest.fixture(scope="module")
def lidc(tmp_path_factory):
    """Balls of soft tissue in lung, of eight patients that fill all folds, in the layout of lidc_voi."""
    root = tmp_path_factory.mktemp("lidc")
    (root / "nodules").mkdir()
    rows, rng = [], np.random.default_rng(0)
    places = np.moveaxis(np.indices((56, 56, 20)), 0, -1) * [0.7, 0.7, 1.25]
    for n in range(16):
        radius = 3.0 + n / 8
        mask = np.linalg.norm(places - [19.0, 19.0, 12.0], axis=-1) <= radius
        image = np.where(mask, 20, -850) + rng.normal(0, 20, mask.shape)
        name = f"LIDC-IDRI-{n // 2:04}_R_{n}"
        np.savez_compressed(
            root / "nodules" / f"{name}.npz",
            image=image.astype(np.int16),
            mask=mask.astype(np.uint8),
            affine=AFFINE,
        )
        told = {"file": f"nodules/{name}.npz", "patient_id": name[:14], "coordX": 0, "coordY": 0, "coordZ": 0}
        rows.append({**told, "diameter_mm": 2 * radius, "Malignancy_value": 1 + n % 5})
    with (root / "index.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return root


def compose(lidc, folder, **options):
    return prepare(Request("composed_ct", lidc, folder / "m.json", spacing_mm=COARSE_MM, **options))


@pytest.fixture(scope="module")
def composed(lidc, tmp_path_factory):
    return compose(lidc, tmp_path_factory.mktemp("composed"), count=5)


def table_of(result):
    with result.manifest.sources[0].files["pasted"].open() as stream:
        return list(csv.DictReader(stream))


def test_a_case_has_nodules_of_its_own_fold_alone(composed):
    fold = {f"composed_ct_drawn/{row['case']}": set() for row in table_of(composed)}
    for row in table_of(composed):
        if row["from"].startswith("LIDC"):
            fold[f"composed_ct_drawn/{row['case']}"].add(fold_of(f"lidc_voi:{row['from'][:14]}"))
    assert {s.id: {s.fold} for s in composed.manifest.samples} == fold
    assert all(s.split == split_of(s.fold) for s in composed.manifest.samples)
    assert [s.split for s in composed.manifest.samples] == ["test", "val", "train", "train", "train"]


def test_mask_boxes_and_values_tell_the_same_nodules(composed):
    for sample in composed.manifest.samples:
        numbers = np.asarray(nibabel.load(sample.masks[0]).dataobj)
        image = load_image_file(sample.image)
        assert numbers.shape == image.geometry.shape
        assert set(np.unique(numbers)) == set(range(len(sample.boxes) + 1))
        assert sample.values["nodules"] == len(sample.boxes) > 0
        for number, box in enumerate(sample.boxes, start=1):
            voxels = np.argwhere(numbers == number)
            assert (*(voxels.min(axis=0) - 0.5), *(voxels.max(axis=0) + 0.5)) == box
            assert 1 <= sample.values[f"reader_rating_{number}"] <= 5
            longest = (np.ptp(voxels, axis=0) * COARSE_MM).max()
            assert abs(longest - sample.values[f"diameter_mm_{number}"]) < 2 * max(COARSE_MM)
            assert image.array[0][numbers == number].mean() > -600


def test_every_nodule_has_a_patch_of_healthy_lung_beside_it_that_shows_nothing(composed):
    for sample in composed.manifest.samples:
        rows = [row for row in table_of(composed) if sample.id.endswith(row["case"])]
        kinds = [row["kind"] for row in rows]
        assert kinds.count("healthy") == kinds.count("nodule") == len(sample.boxes)
        volume = load_image_file(sample.image)
        for row in rows:
            place = [float(row[f"{axis}_lps_mm"]) for axis in "xyz"]
            index = tuple(np.round(volume.geometry.lps_mm_to_index(place)).astype(int))
            assert (volume.array[0][index] > -600) == (row["kind"] == "nodule")


def test_the_same_request_composes_the_same_bytes(composed, lidc, tmp_path):
    again = compose(lidc, tmp_path, count=2)
    for one, other in zip(composed.manifest.samples, again.manifest.samples, strict=False):
        assert one.image.read_bytes() == other.image.read_bytes()
        assert one.masks[0].read_bytes() == other.masks[0].read_bytes()
        assert replace(one, image=other.image, masks=other.masks) == other


def test_the_manifest_calls_it_synthetic_and_can_be_joined_by_background(composed, tmp_path):
    manifest = composed.manifest
    assert manifest.sources[0].name == "composed_ct_drawn" and manifest.sources[0].split_by == "nodules"
    assert "synthetic" in manifest.sources[0].title
    assert all(sample.flags == ("synthetic",) for sample in manifest.samples)
    source = replace(manifest.sources[0], name="composed_ct_real")
    path = tmp_path / "m.json"
    write_manifest(joined(manifest, replace(manifest, sources=(source,), samples=())), path)
    assert read_manifest(path).samples == manifest.samples


def test_broken_crops_stop_the_composing_before_anything_is_written(lidc, tmp_path):
    root = tmp_path / "lidc"
    (root / "nodules").mkdir(parents=True)
    for path in (lidc / "nodules").iterdir():
        (root / "nodules" / path.name).write_bytes(path.read_bytes())
    (root / "index.csv").write_bytes((lidc / "index.csv").read_bytes())
    (root / "nodules" / "LIDC-IDRI-0000_R_0.npz").write_bytes(b"broken")
    stopped = compose(root, tmp_path, count=1)
    assert len(stopped.problems) == 1 and stopped.manifest.samples == ()
    assert not (tmp_path / "composed_ct_drawn_nifti").exists()
    assert len(compose(root, tmp_path, count=1, skip_broken=True).manifest.samples) == 1


def test_no_cases_and_a_fold_without_nodules_are_refused(lidc, tmp_path):
    with pytest.raises(ValueError, match="--count"):
        compose(lidc, tmp_path, count=0)
    root = tmp_path / "lidc"
    (root / "nodules").mkdir(parents=True)
    lines = (lidc / "index.csv").read_text().splitlines()
    (root / "index.csv").write_text("\n".join(lines[:3]) + "\n")
    for n in (0, 1):
        name = f"LIDC-IDRI-0000_R_{n}.npz"
        (root / "nodules" / name).write_bytes((lidc / "nodules" / name).read_bytes())
    with pytest.raises(ValueError, match="fold"):
        compose(root, tmp_path, count=1)


# --- a study's two lungs

BOX_MM = (60.0, -20.0, -30.0, 90.0, 10.0, 0.0)


@pytest.fixture(scope="module")
def study():
    """A drawn chest as a study with a lesion told in its left lung."""
    ground = drawn_ground(0, "train", COARSE_MM)
    return Study("one", ground.volume, (BOX_MM,), 0.0, ground.reach_mm, ground.room)


def places(ground, radius_mm=4.0):
    rng = np.random.default_rng(0)
    return np.array([ground.place(radius_mm, [], rng) for _ in range(40)])


def test_training_sees_the_left_side_alone_without_the_slices_of_the_lesion(study):
    ground = study.ground("train")
    grid, whole = ground.volume.geometry, study.volume.geometry
    ends = grid.box_index_to_lps_mm([-0.5] * 3 + [n - 0.5 for n in grid.shape])
    assert ends[0] >= -COARSE_MM[0] / 2
    assert ends[5] <= BOX_MM[2] + COARSE_MM[2] / 2 or ends[2] >= BOX_MM[5] - COARSE_MM[2] / 2
    low = np.round(whole.lps_mm_to_index(grid.index_to_lps_mm([0, 0, 0]))).astype(int)
    same = study.volume.array[0][tuple(slice(a, a + n) for a, n in zip(low, grid.shape, strict=True))]
    np.testing.assert_array_equal(ground.volume.array[0], same)
    found = places(ground)
    assert (found[:, 0] > 4).all() and ((found >= ends[:3]) & (found <= ends[3:])).all()
    assert ground.excluded_boxes == ()


def test_testing_sees_the_whole_study_with_nodules_on_the_right_and_the_lesion_excluded(study):
    ground = study.ground("test")
    assert ground.volume is study.volume
    assert (places(ground)[:, 0] < -4).all()
    (cube,) = ground.excluded_boxes
    told = study.volume.geometry.box_index_to_lps_mm(cube)
    centre, reach = (told[:3] + told[3:]) / 2, (told[3:] - told[:3]).mean() / 2
    corners = np.array([[BOX_MM[a], BOX_MM[b], BOX_MM[c]] for a in (0, 3) for b in (1, 4) for c in (2, 5)])
    assert (np.linalg.norm(corners - centre, axis=1) <= reach + 1e-3).all()


def test_a_place_is_refused_where_there_is_no_room(study):
    assert study.ground("test").place(200.0, [], np.random.default_rng(0)) is None


@pytest.mark.study
@pytest.mark.slow
@pytest.mark.xdist_group("real_sets")
def test_the_real_studys_tumour_and_test_lung_stay_out_of_what_is_trained_on(data_dir, lidc, tmp_path):
    background = data_dir / "chest_ct_study"
    result = compose(lidc, tmp_path, background=background, count=3)
    held = {s.split: s for s in result.manifest.samples}
    whole, _, cut = (load_image_file(held[split].image) for split in ("test", "val", "train"))
    study = real_studies(background, Problems())[0]
    before = study.volume.array[0]
    np.testing.assert_array_equal(before.shape, whole.array[0].shape)
    changed = whole.geometry.index_to_lps_mm(np.argwhere(before != whole.array[0]))
    assert len(changed) and changed[:, 0].max() < study.middle_mm
    (tumour,) = study.boxes_lps_mm
    ends = cut.geometry.box_index_to_lps_mm([-0.5] * 3 + [n - 0.5 for n in cut.geometry.shape])
    assert ends[0] >= study.middle_mm - cut.geometry.spacing_mm[0]
    assert ends[5] <= tumour[2] + cut.geometry.spacing_mm[2] or ends[2] >= tumour[5] - cut.geometry.spacing_mm[2]
    assert held["test"].excluded_boxes and not held["train"].excluded_boxes
    source = read_volume(next(background.rglob("*1-01.dcm")).parent).volume
    np.testing.assert_allclose(sorted(study.volume.geometry.spacing_mm), sorted(source.geometry.spacing_mm))
