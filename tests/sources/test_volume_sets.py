"""The layouts of 3D sets, on small made ones with every fault."""

import csv
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from mtnet.io.image_files import load_image_file
from mtnet.sources.luna16 import read_findings
from mtnet.sources.lung_pet_ct_dx import SliceBox, join_slices
from mtnet.sources.masks import read_mask
from mtnet.sources.prepare import Request, prepare
from tests.sources import made


def prepared(layout, root, **options):
    return prepare(Request(layout, root, root.parent / "m.json", **options))


def samples_of(result):
    return {sample.id.partition("/")[2]: sample for sample in result.manifest.samples}


def reasons(result):
    return {problem.file.name: problem.reason for problem in result.problems}


# --- crops of LIDC

AFFINE = np.array([[-0.7, 0, 0, -20.0], [0, -0.8, 0, 30.0], [0, 0, 2.5, -100.0], [0, 0, 0, 1]])


def lidc(root, count=3):
    rng = np.random.default_rng(0)
    (root / "nodules").mkdir(parents=True)
    rows = []
    for n in range(count):
        image = rng.integers(-1000, 400, (12, 10, 5)).astype(np.int16)
        mask = np.zeros(image.shape, dtype=np.uint8)
        mask[3:7, 2:8, 1:3] = 1
        name = f"LIDC-IDRI-{n // 2:04}_R_{n}"
        np.savez_compressed(
            root / "nodules" / f"{name}.npz", image=image, mask=mask, affine=AFFINE, spacing=[0.7, 0.8, 2.5]
        )
        x, y, z = (-1, -1, 1) * (AFFINE @ [4.5, 4.5, 1.5, 1])[:3]
        told = {"file": f"nodules/{name}.npz", "patient_id": name[:14], "coordX": x, "coordY": y, "coordZ": z}
        rows.append({**told, "diameter_mm": 5.5 + n, "Malignancy_value": 2 + n, "Texture_value": 5})
    with (root / "index.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return root


def test_a_crop_becomes_nifti_with_the_same_voxels_at_the_same_place_in_the_patient(tmp_path):
    root = lidc(tmp_path / "lidc")
    result = prepared("lidc_voi", root)
    assert not (tmp_path / "lidc_voi_nifti").exists()
    result.write()
    sample = result.manifest.samples[0]
    held = np.load(root / "nodules" / "LIDC-IDRI-0000_R_0.npz")
    written = nibabel.load(sample.image)
    np.testing.assert_array_equal(np.asarray(written.dataobj), held["image"])
    np.testing.assert_allclose(written.affine, AFFINE, atol=1e-5)
    np.testing.assert_array_equal(read_mask(sample), held["mask"] > 0)
    centre = SimpleITK.ReadImage(str(sample.image)).TransformContinuousIndexToPhysicalPoint((4.5, 4.5, 1.5))
    np.testing.assert_allclose(sample.centre_lps_mm, centre, atol=1e-4)


def test_a_nodule_whose_place_in_the_table_is_not_in_its_crop_is_where_its_mask_is_and_flagged(tmp_path):
    root = lidc(tmp_path / "lidc")
    lines = (root / "index.csv").read_text().splitlines()
    told = lines[2].split(",")
    told[4] = str(float(told[4]) + 30)
    (root / "index.csv").write_text("\n".join([*lines[:2], ",".join(told), *lines[3:], ""]))
    found = prepared("lidc_voi", root).manifest.samples
    assert [sample.flags for sample in found] == [(), ("place_from_mask",), ()]
    np.testing.assert_allclose(found[1].centre_lps_mm, found[0].centre_lps_mm, atol=1e-3)


def test_a_crop_has_the_box_of_its_mask_in_index_space_and_in_the_patient(tmp_path):
    sample = prepared("lidc_voi", lidc(tmp_path / "lidc")).manifest.samples[0]
    assert sample.boxes == ((2.5, 1.5, 0.5, 6.5, 7.5, 2.5),)
    low, high = (-AFFINE @ [2.5, 1.5, 0.5, 1])[:2], (-AFFINE @ [6.5, 7.5, 2.5, 1])[:2]
    np.testing.assert_allclose(sample.boxes_lps_mm[0], [*low, -98.75, *high, -93.75], atol=1e-3)


def test_suspicion_is_high_above_3_low_below_and_none_at_3_and_the_group_is_the_patient(tmp_path):
    result = prepared("lidc_voi", lidc(tmp_path / "lidc"))
    found = list(result.manifest.samples)
    assert [s.image_class for s in found] == ["low_reader_suspicion", None, "high_reader_suspicion"]
    assert [s.values["reader_rating"] for s in found] == [2, 3, 4]
    assert found[0].values["diameter_mm"] == 5.5
    assert found[0].values["reader_texture"] == 5
    assert [s.group for s in found] == [f"lidc_voi:LIDC-IDRI-{n:04}" for n in (0, 0, 1)]
    assert all("label_conflict" not in s.flags for s in found)


def test_how_a_crop_was_cut_stands_under_names_that_start_with_crop(tmp_path):
    values = prepared("lidc_voi", lidc(tmp_path / "lidc")).manifest.samples[0].values
    assert {key: value for key, value in values.items() if key.startswith("crop_")} == {
        "crop_voxels_i": 12,
        "crop_voxels_j": 10,
        "crop_voxels_k": 5,
        "crop_spacing_i_mm": 0.7,
        "crop_spacing_j_mm": 0.8,
        "crop_spacing_k_mm": 2.5,
    }


def test_broken_crops_are_named(tmp_path):
    root = lidc(tmp_path / "lidc", 6)
    names = [f"LIDC-IDRI-{n // 2:04}_R_{n}.npz" for n in range(6)]
    nodules = root / "nodules"
    (nodules / names[0]).unlink()
    (nodules / names[1]).write_bytes((nodules / names[1]).read_bytes()[:300])
    image, mask = np.zeros((4, 4, 2), np.int16), np.ones((4, 4, 2), np.uint8)
    np.savez(nodules / names[2], image=image, mask=mask[:3], affine=AFFINE)
    np.savez(nodules / names[3], image=image, mask=0 * mask, affine=AFFINE)
    np.savez(nodules / names[4], image=image, affine=AFFINE)
    (nodules / "other.npz").write_bytes(b"x")
    result = prepared("lidc_voi", root)
    found = reasons(result)
    assert found[names[0]] == "missing: index.csv names it"
    assert found[names[1]].startswith("unreadable")
    assert "size mismatch" in found[names[2]]
    assert "its mask is empty" in found[names[3]]
    assert found[names[4]].startswith("unreadable")
    assert found["other.npz"].startswith("foreign file")
    assert [s.id for s in result.manifest.samples] == ["lidc_voi/LIDC-IDRI-0002_R_5"]


# --- LUNA16


def luna(root):
    rng = np.random.default_rng(1)
    for subset, name in ((0, "1.2.3"), (1, "1.2.4"), (7, "1.2.5")):
        made.volume(root / f"subset{subset}" / f"{name}.mhd", rng.integers(-1000, 400, (30, 28, 12)).astype(np.int16))
    (root / "annotations.csv").write_text(
        "seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2.3,-93.0,-72.0,60.0,7.0\n1.2.3,-90.0,-70.0,65.0,4.2\n1.2.9,0,0,0,9\n"
    )
    (root / "evaluationScript").mkdir()
    (root / "evaluationScript" / "annotations_excluded.csv").write_text(
        "seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2.4,-93.0,-72.0,60.0,-1\n"
    )
    (root / "candidates_V2.csv").write_text(
        "seriesuid,coordX,coordY,coordZ,class\n1.2.3,-93,-72,60,1\n1.2.3,-99,-72,60,0\n"
    )
    return root


def test_luna_nodules_become_boxes_around_their_centre(tmp_path):
    result = prepared("luna16", luna(tmp_path / "L"))
    assert result.problems == ()
    sample = samples_of(result)["1.2.3"]
    # (-93, -72, 60) lies 10 steps of 0.7, 10 of 0.8 and 4 of 2.5 mm from the first voxel.
    np.testing.assert_allclose(sample.boxes[0], [5, 5.625, 2.6, 15, 14.375, 5.4], atol=1e-4)
    np.testing.assert_allclose(sample.boxes_lps_mm[0], [-96.5, -75.5, 56.5, -89.5, -68.5, 63.5], atol=1e-3)
    assert len(sample.boxes) == 2 and sample.values == {"nodules": 2}
    assert sample.masks is None
    geometry = load_image_file(sample.image).geometry
    np.testing.assert_allclose(geometry.box_index_to_lps_mm(sample.boxes[0]), sample.boxes_lps_mm[0], atol=1e-3)


def test_luna_scans_without_nodules_have_none_and_excluded_findings_stand_apart(tmp_path):
    sample = samples_of(prepared("luna16", luna(tmp_path / "L")))["1.2.4"]
    assert sample.boxes == ()
    (box,) = sample.excluded_boxes
    # A finding without diameter counts as 10 mm wide.
    np.testing.assert_allclose(np.subtract(box[3:], box[:3]) * (0.7, 0.8, 2.5), 10, atol=1e-3)


def test_luna_candidates_are_named_as_a_file_of_the_source_and_can_be_read(tmp_path):
    source = prepared("luna16", luna(tmp_path / "L")).manifest.sources[0]
    found = read_findings(source.files["candidates"])
    assert [(c.centre_lps_mm, c.number) for c in found["1.2.3"]] == [((-93, -72, 60), 1), ((-99, -72, 60), 0)]


def test_lunas_subsets_are_its_official_folds(tmp_path):
    found = samples_of(prepared("luna16", luna(tmp_path / "L"), split_by="official"))
    assert {name: (s.fold, s.split) for name, s in found.items()} == {
        "1.2.3": (0, "test"),
        "1.2.4": (1, "val"),
        "1.2.5": (7, "train"),
    }


def test_a_luna_scan_cut_short_or_without_pixels_is_named(tmp_path):
    root = luna(tmp_path / "L")
    raw = root / "subset0" / "1.2.3.raw"
    raw.write_bytes(raw.read_bytes()[:-10])
    (root / "subset1" / "1.2.4.raw").unlink()
    (root / "subset7" / "1.2.5.mhd").write_text("nothing")
    found = reasons(prepared("luna16", root, split_by="groups"))
    assert "its header asks for" in found["1.2.3.raw"]
    assert found["1.2.4.mhd"].startswith(("missing", "unreadable"))
    assert "1.2.5.mhd" in found


def test_a_luna_table_without_numbers_is_refused_with_its_line(tmp_path):
    root = luna(tmp_path / "L")
    (root / "annotations.csv").write_text("seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2.3,a,0,0,1\n")
    with pytest.raises(ValueError, match=r"annotations\.csv, line 2"):
        prepared("luna16", root)


# --- chest CT with masks


def chests(root, images="images", masks="masks"):
    rng = np.random.default_rng(2)
    for n in range(2):
        values = np.zeros((12, 10, 8), dtype=np.uint8)
        values[2:5, 3:6, 1:4] = 1
        values[8:11, 1:3, 5:7] = n
        made.volume(root / images / f"ct_{n}.nii.gz", rng.integers(-1000, 400, values.shape).astype(np.int16))
        made.volume(root / masks / f"ct_{n}.nii.gz", values)
    return root


@pytest.mark.parametrize(("images", "masks"), [("images", "masks"), ("imagesTr", "labelsTr")])
def test_volumes_with_masks_get_a_box_for_each_component(tmp_path, images, masks):
    result = prepared("chest_ct_nifti", chests(tmp_path / "C", images, masks))
    assert result.problems == ()
    found = samples_of(result)
    assert found["ct_0"].boxes == ((1.5, 2.5, 0.5, 4.5, 5.5, 3.5),)
    assert len(found["ct_1"].boxes) == 2
    assert found["ct_0"].group == "c:ct_0"
    low = np.array([-100, -80, 50]) + np.array([1.5, 2.5, 0.5]) * (0.7, 0.8, 2.5)
    np.testing.assert_allclose(found["ct_0"].boxes_lps_mm[0][:3], low, atol=1e-3)


def test_a_mask_elsewhere_or_of_another_size_is_named(tmp_path):
    root = chests(tmp_path / "C")
    made.volume(root / "masks" / "ct_0.nii.gz", np.ones((12, 10, 8), np.uint8), origin=(-100, -80, 55))
    made.volume(root / "masks" / "ct_1.nii.gz", np.ones((12, 10, 7), np.uint8))
    result = prepared("chest_ct_nifti", root)
    assert [p.reason for p in result.problems] == [
        "its affine places it elsewhere than its image (by more than 0.1 mm)",
        "size mismatch: (12, 10, 7), its image (12, 10, 8)",
    ]


def test_volumes_of_one_patient_stay_together_by_groups_csv(tmp_path):
    root = chests(tmp_path / "C")
    (root / "groups.csv").write_text("image,group\nimages/ct_0.nii.gz,p1\nimages/ct_1.nii.gz,p1\n")
    assert {s.group for s in prepared("chest_ct_nifti", root).manifest.samples} == {"c:p1"}


# --- boxes of slices


def test_boxes_of_slices_that_overlap_become_one_box_that_holds_them_all():
    boxes = [SliceBox(3, (10, 10, 20, 20), "A"), SliceBox(4, (12, 9, 22, 20), "A"), SliceBox(5, (13, 10, 20, 24), "A")]
    assert join_slices(boxes) == [((10, 9, 2.5, 22, 24, 5.5), "A")]


def test_one_slice_without_a_box_does_not_end_a_lesion_but_two_do():
    boxes = [SliceBox(k, (0, 0, 5, 5), "A") for k in (1, 3, 6)]
    assert [box[2::3] for box, _ in join_slices(boxes)] == [(0.5, 3.5), (5.5, 6.5)]


def test_boxes_apart_or_of_another_label_are_lesions_of_their_own():
    boxes = [SliceBox(1, (0, 0, 5, 5), "A"), SliceBox(2, (20, 20, 25, 25), "A"), SliceBox(2, (0, 0, 5, 5), "B")]
    assert len(join_slices(boxes)) == 3


def test_two_lesions_side_by_side_keep_apart_and_each_box_goes_to_the_one_that_it_overlaps_most():
    boxes = [
        SliceBox(1, (0, 0, 10, 10), "A"),
        SliceBox(1, (9, 0, 20, 10), "A"),
        SliceBox(2, (8, 0, 19, 10), "A"),
        SliceBox(2, (0, 0, 9, 10), "A"),
    ]
    assert sorted(box for box, _ in join_slices(boxes)) == [(0, 0, 0.5, 10, 10, 2.5), (8, 0, 0.5, 20, 10, 2.5)]


def test_no_boxes_are_no_lesions():
    assert join_slices([]) == []


# --- drawn chests


def test_drawn_chests_are_on_disk_with_the_numbers_of_their_nodules(tmp_path):
    coarse = (4.0, 4.0, 5.0)
    result = prepared("phantom", tmp_path / "drawn", count=2, first_seed=3, spacing_mm=coarse)
    for sample in result.manifest.samples:
        volume = load_image_file(sample.image)
        assert len(sample.boxes) == sample.values["nodules"]
        if not sample.masks:
            continue
        numbers = np.asarray(nibabel.load(sample.masks[0]).dataobj)
        assert volume.geometry.shape == numbers.shape
        for number, box in enumerate(sample.boxes, start=1):
            voxels = np.argwhere(numbers == number)
            assert (voxels >= np.subtract(box[:3], 0.5)).all() and (voxels <= np.add(box[3:], 0.5)).all()
    assert [s.group for s in result.manifest.samples] == ["phantom:train_3", "phantom:train_4"]
    assert Path(result.manifest.samples[0].image).parent == tmp_path / "drawn"
