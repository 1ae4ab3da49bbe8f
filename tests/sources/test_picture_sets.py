"""The layouts of 2D sets, on small made ones with every fault."""

import json
import shutil

import pytest
from PIL import Image

from mtnet.sources.masks import read_mask
from mtnet.sources.prepare import Request, prepare
from tests.sources import made


def prepared(layout, root, **options):
    return prepare(Request(layout, root, root.parent / "m.json", **options))


def samples_of(result):
    return {sample.id: sample for sample in result.manifest.samples}


def reasons(result):
    return {problem.file.name: problem.reason for problem in result.problems}


# --- BUSI


def test_busi_joins_the_masks_of_an_image_and_knows_that_normal_ones_are_empty(tmp_path):
    result = prepared("busi", made.busi(tmp_path / "BUSI"))
    assert result.problems == ()
    found = samples_of(result)
    assert [*found] == ["busi/benign (1)", "busi/benign (10)", "busi/malignant (1)", "busi/normal (1)"]
    two = found["busi/benign (1)"]
    assert [path.name for path in two.masks] == ["benign (1)_mask.png", "benign (1)_mask_1.png"]
    assert read_mask(two)[5, 5] and read_mask(two)[29, 24]
    assert two.boxes == ((4.5, 4.5, 11.5, 9.5), (19.5, 14.5, 29.5, 24.5))
    normal = found["busi/normal (1)"]
    assert (normal.image_class, normal.masks, normal.boxes) == ("normal", (), ())


def test_busi_in_the_folder_that_its_archive_unpacks_into_is_found(tmp_path):
    made.busi(tmp_path / "set" / "Dataset_BUSI_with_GT")
    assert len(prepared("busi", tmp_path / "set").manifest.samples) == 4


def test_busi_names_every_broken_file_and_why(tmp_path):
    root = made.busi(tmp_path / "BUSI")
    (root / "benign" / "benign (10)_mask.png").unlink()
    (root / "malignant" / "notes.doc").write_text("x")
    made.mask(root / "malignant" / "malignant (9)_mask.png", (1, 1, 5, 5))
    picture = root / "malignant" / "malignant (1).png"
    picture.write_bytes(picture.read_bytes()[:200])
    made.mask(root / "normal" / "normal (1)_mask.png", size=(41, 30))
    made.picture(root / "stray.png", 9)
    found = reasons(prepared("busi", root))
    assert found["benign (10).png"].startswith("missing mask")
    assert found["notes.doc"].startswith("foreign file")
    assert found["malignant (9)_mask.png"].startswith("a mask without its image")
    assert found["malignant (1).png"].startswith("unreadable")
    assert found["normal (1)_mask.png"] == "size mismatch: 41 x 30, its image 40 x 30"
    assert found["stray.png"].startswith("foreign file")
    assert len(found) == 6


def test_files_that_systems_and_publishers_leave_are_no_foreign_files(tmp_path):
    root = made.busi(tmp_path / "BUSI")
    for name in (".DS_Store", "Thumbs.db", "._benign (1).png", "README.md", "LICENSE.txt", "ATTRIBUTION.txt"):
        (root / "benign" / name).write_text("x")
    assert prepared("busi", root).problems == ()


def test_one_picture_in_two_classes_trains_only_wherever_its_group_falls(tmp_path):
    root = made.busi(tmp_path / "BUSI")
    for n in range(20, 50):  # Many groups, so that some of them test.
        made.picture(root / "benign" / f"benign ({n}).png", n, mode="L")
        made.mask(root / "benign" / f"benign ({n})_mask.png", (3, 3, 9, 9))
        shutil.copy(root / "benign" / f"benign ({n}).png", root / "malignant" / f"malignant ({n}).png")
        made.mask(root / "malignant" / f"malignant ({n})_mask.png", (3, 3, 9, 9))
    found = samples_of(prepared("busi", root))
    twofold = [found[f"busi/{name} ({n})"] for n in range(20, 50) for name in ("benign", "malignant")]
    assert len({s.group for s in twofold}) == 30
    assert {s.split for s in twofold} == {"train"}
    assert {s.fold for s in twofold} >= {0, 1}
    assert all("label_conflict" in s.flags for s in twofold)
    assert "label_conflict" not in found["busi/normal (1)"].flags


def test_groups_csv_is_taken_with_its_marks(tmp_path):
    root = made.busi(tmp_path / "BUSI")
    (root / "groups.csv").write_text(
        "image,group,label_conflict,colour_overlay\n"
        "benign/benign (1).png,2,0,1\nbenign/benign (10).png,2,0,0\n"
        "malignant/malignant (1).png,7,1,0\nnormal/normal (1).png,8,0,0\n"
    )
    found = samples_of(prepared("busi", root))
    one, ten = found["busi/benign (1)"], found["busi/benign (10)"]
    assert one.group == ten.group == "busi:2"
    assert one.fold == ten.fold == 0 and one.split == "test"  # The SHA-256 of "busi:2" modulo 5.
    assert one.flags == ("colour_overlay",)
    assert found["busi/malignant (1)"].split == "train"
    assert found["busi/malignant (1)"].flags == ("label_conflict",)


def test_an_image_that_groups_csv_does_not_name_is_a_problem(tmp_path):
    root = made.busi(tmp_path / "BUSI")
    (root / "groups.csv").write_text("image,group\nbenign/benign (1).png,2\n")
    assert sorted(reasons(prepared("busi", root))) == ["benign (10).png", "malignant (1).png", "normal (1).png"]


# --- Kvasir-SEG


def kvasir(root, boxes=True):
    made.polyps(root, mask_suffix=".jpg")
    if boxes:
        box = [{"label": "polyp", "xmin": 8, "ymin": 8, "xmax": 24, "ymax": 20}]
        told = {str(n): {"width": 40, "height": 30, "bbox": box} for n in range(3)}
        (root / "kavsir_bboxes.json").write_text(json.dumps(told))
    return root


def test_kvasir_boxes_come_from_the_json_as_edges_of_pixels(tmp_path):
    result = prepared("kvasir_seg", kvasir(tmp_path / "K"))
    assert result.problems == ()
    assert result.manifest.sources[0].boxes_from == "annotation"
    assert {s.boxes for s in result.manifest.samples} == {((7.5, 7.5, 23.5, 19.5),)}


def test_kvasir_without_its_json_has_the_boxes_of_the_masks_components(tmp_path):
    result = prepared("kvasir_seg", kvasir(tmp_path / "K", boxes=False))
    assert result.manifest.sources[0].boxes_from == "mask_components"
    assert {s.boxes for s in result.manifest.samples} == {((7.5, 7.5, 23.5, 19.5),)}


def test_kvasir_names_what_does_not_fit_in_the_json(tmp_path):
    root = kvasir(tmp_path / "K")
    told = json.loads((root / "kavsir_bboxes.json").read_text())
    told["0"]["width"] = 80
    del told["1"]
    told["2"]["bbox"][0]["xmax"] = 400
    (root / "kavsir_bboxes.json").write_text(json.dumps(told))
    found = reasons(prepared("kvasir_seg", root))
    assert found["0.jpg"] == "size mismatch: 40 x 30, in the JSON 80 x 30"
    assert found["1.jpg"] == "kavsir_bboxes.json has no boxes of it"
    assert "outside of the image" in found["2.jpg"]


def test_a_box_that_reaches_over_the_edge_is_cut_there(tmp_path):
    root = kvasir(tmp_path / "K")
    told = json.loads((root / "kavsir_bboxes.json").read_text())
    told["2"]["bbox"][0]["xmax"] = 45
    (root / "kavsir_bboxes.json").write_text(json.dumps(told))
    assert prepared("kvasir_seg", root).manifest.samples[2].boxes == ((7.5, 7.5, 39.5, 19.5),)


@pytest.mark.parametrize("text", ["{", "[]", '{"0": {"width": 40}, "1": 3, "2": {}}'])
def test_a_broken_json_of_boxes_is_named(tmp_path, text):
    root = kvasir(tmp_path / "K")
    (root / "kavsir_bboxes.json").write_text(text)
    assert prepared("kvasir_seg", root).problems


def test_kvasirs_official_test_images_are_the_120_of_its_authors(tmp_path):
    root = made.polyps(tmp_path / "K", count=30)
    for suffix, folder in ((".jpg", "images"), (".png", "masks")):
        (root / folder / f"0{suffix}").rename(root / folder / f"cju0s690hkp960855tjuaqvv0{suffix}")
    result = prepared("kvasir_seg", root, split_by="880_120")
    assert [s.id for s in result.manifest.select("test")] == ["kvasir_seg/cju0s690hkp960855tjuaqvv0"]
    assert result.manifest.select("val")
    assert result.manifest.sources[0].split_by == "880_120"


def test_a_stray_pixel_is_flagged_and_gives_no_box(tmp_path):
    root = made.polyps(tmp_path / "P", count=1)
    made.mask(root / "masks" / "0.png", (0, 0, 1, 1), (8, 8, 24, 20))
    (sample,) = prepared("polyp_folder", root).manifest.samples
    assert sample.flags == ("stray_pixel",)
    assert len(sample.boxes) == 1


def test_a_mask_with_a_stray_pixel_only_is_known_to_be_empty(tmp_path):
    root = made.polyps(tmp_path / "P", count=1)
    made.mask(root / "masks" / "0.png", (0, 0, 1, 1))
    (sample,) = prepared("polyp_folder", root).manifest.samples
    assert (sample.masks, sample.boxes) == ((), ())


# --- EndoTect, polyp folders, ISIC


def test_endotect_takes_frames_without_polyps_as_known_to_be_empty(tmp_path):
    root = made.polyps(tmp_path / "E")
    made.picture(root / "ulcerative-colitis_images" / "u.jpg", 50)
    made.mask(root / "ulcerative-colitis_masks" / "u.png")
    found = samples_of(prepared("endotect", root))
    assert len(found) == 4
    assert (found["endotect/u"].masks, found["endotect/u"].flags) == ((), ("ulcerative_colitis",))
    assert len(found["endotect/0"].masks) == 1


@pytest.mark.parametrize(
    ("images", "masks", "image_suffix", "mask_suffix"),
    [
        ("images", "masks", ".jpg", ".png"),
        ("Original", "Ground Truth", ".tif", ".tif"),
        ("Images", "Masks", ".PNG", ".bmp"),
        ("images", "masks", ".jpg", "_mask.jpg"),
    ],
)
def test_polyp_folders_pair_by_stem_whatever_folders_and_endings_are_called(
    tmp_path, images, masks, image_suffix, mask_suffix
):
    made.polyps(
        tmp_path / "Clinic-DB 2", 2, images=images, masks=masks, image_suffix=image_suffix, mask_suffix=mask_suffix
    )
    result = prepared("polyp_folder", tmp_path / "Clinic-DB 2")
    assert result.problems == ()
    assert [s.id for s in result.manifest.samples] == ["clinic_db_2/0", "clinic_db_2/1"]


def test_numbers_in_names_sort_by_their_value(tmp_path):
    made.polyps(tmp_path / "P", 12)
    assert [s.id for s in prepared("polyp_folder", tmp_path / "P").manifest.samples] == [f"p/{n}" for n in range(12)]


def test_a_second_file_of_one_stem_is_a_problem(tmp_path):
    root = made.polyps(tmp_path / "P", 2)
    made.picture(root / "images" / "0.png", 8)
    assert "a second file of this name" in "".join(reasons(prepared("polyp_folder", root)).values())


def test_a_second_mask_of_an_image_is_a_problem(tmp_path):
    root = made.polyps(tmp_path / "P", 1)
    made.mask(root / "masks" / "0_mask.png", (1, 1, 5, 5))
    assert reasons(prepared("polyp_folder", root)) == {"0_mask.png": "a mask without its image images/0_mask.*"}


def test_the_polyp_benchmark_tests_what_its_test_folders_hold(tmp_path):
    made.polyps(tmp_path / "B" / "TrainDataset", 10, images="image", masks="mask")
    made.polyps(tmp_path / "B" / "TestDataset" / "ETIS", 2, seed=100)
    made.polyps(tmp_path / "B" / "TestDataset" / "Kvasir", 1, seed=5)  # Also the fifth one of the training images.
    result = prepared("polyp_folder", tmp_path / "B", split_by="benchmark")
    assert [s.id for s in result.manifest.select("test")] == ["b/ETIS/0", "b/ETIS/1", "b/Kvasir/0"]
    assert len(result.manifest.select("train")) + len(result.manifest.select("val")) == 10
    assert len(result.divided) == 1


def isic(root):
    for part, first in (("Training", 0), ("Test", 50)):
        for n in range(first, first + 3):
            made.picture(root / f"ISIC2018_Task1-2_{part}_Input" / f"ISIC_{n:07}.jpg", n)
            made.mask(root / f"ISIC2018_Task1_{part}_GroundTruth" / f"ISIC_{n:07}_segmentation.png", (9, 9, 30, 25))
    return root


def test_isic_pairs_images_with_their_segmentations_and_keeps_its_official_parts_on_demand(tmp_path):
    root = isic(tmp_path / "ISIC")
    found = prepared("isic2018", root, split_by="official").manifest
    assert [s.id for s in found.select("test")] == [f"isic2018/ISIC_{n:07}" for n in (50, 51, 52)]
    assert len(found.select("train")) == 3
    assert all(len(s.masks) == 1 for s in found.samples)


def test_isic_images_without_published_masks_have_unknown_ones(tmp_path):
    root = isic(tmp_path / "ISIC")
    shutil.rmtree(root / "ISIC2018_Task1_Test_GroundTruth")
    found = samples_of(prepared("isic2018", root))
    assert found["isic2018/ISIC_0000050"].masks is None
    assert found["isic2018/ISIC_0000000"].masks


# --- all of them


def test_a_folder_that_is_not_of_the_layout_is_refused_with_what_was_expected(tmp_path):
    (tmp_path / "x").mkdir()
    for layout, expected in (("busi", "benign"), ("kvasir_seg", "images and masks"), ("isic2018", "Training_Input")):
        with pytest.raises(FileNotFoundError, match=expected):
            prepared(layout, tmp_path / "x")
        with pytest.raises(FileNotFoundError, match="There is no folder"):
            prepared(layout, tmp_path / "y")


def test_look_alikes_are_one_group_where_no_groups_csv_is_there(tmp_path):
    root = made.polyps(tmp_path / "P", 6)
    Image.open(root / "images" / "2.jpg").save(root / "images" / "9.jpg", quality=60)
    made.mask(root / "masks" / "9.png", (8, 8, 24, 20))
    result = prepared("polyp_folder", root)
    found = samples_of(result)
    assert found["p/2"].group == found["p/9"].group == "p:2"
    assert len({s.group for s in found.values()}) == 6
    assert result.manifest.sources[0].grouped_by == "near_duplicates"


def test_a_list_of_splits_is_taken_and_has_to_name_every_image(tmp_path):
    root = made.polyps(tmp_path / "P", 3)
    (tmp_path / "s.csv").write_text("id,split\np/0,test\np/1,val\np/2,train\n")
    found = prepared("polyp_folder", root, split_by=str(tmp_path / "s.csv")).manifest
    assert [s.split for s in found.samples] == ["test", "val", "train"]
    (tmp_path / "s.csv").write_text("id,split\np/0,test\n")
    with pytest.raises(ValueError, match=r"no split for 2 images, the first is p/1"):
        prepared("polyp_folder", root, split_by=str(tmp_path / "s.csv"))


def test_a_split_that_a_set_does_not_have_is_refused_with_those_that_it_has(tmp_path):
    root = made.polyps(tmp_path / "P", 1)
    with pytest.raises(ValueError, match="expected groups, 880_120, or a CSV"):
        prepared("kvasir_seg", root, split_by="official")


def test_a_name_for_the_source_stands_in_ids_groups_and_folds(tmp_path):
    root = made.polyps(tmp_path / "P", 1)
    (sample,) = prepared("polyp_folder", root, name="clinic_2").manifest.samples
    assert (sample.id, sample.group) == ("clinic_2/0", "clinic_2:0")
    with pytest.raises(ValueError, match="lower-case letters"):
        prepared("polyp_folder", root, name="Clinic 2")


def test_licence_and_terms_of_the_user_stand_in_the_manifest(tmp_path):
    root = made.polyps(tmp_path / "P", 1)
    found = prepared("polyp_folder", root, licence="CC-BY-4.0", terms="free", title="Ours").manifest
    assert (found.sources[0].licence, found.sources[0].terms, found.sources[0].title) == ("CC-BY-4.0", "free", "Ours")
    assert found.samples[0].licence == "CC-BY-4.0"
    assert prepared("polyp_folder", root).manifest.sources[0].terms == "unknown"
