"""A user's own folder."""

import numpy as np
import pytest

from mtnet.sources.masks import read_mask
from mtnet.sources.prepare import Request, prepare
from tests.sources import made


def prepared(root, **options):
    return prepare(Request("folder", root, root.parent / "m.json", **options))


def samples_of(result):
    return {sample.id.partition("/")[2]: sample for sample in result.manifest.samples}


def reasons(result):
    return {problem.file.name: problem.reason for problem in result.problems}


def test_folders_in_images_are_classes_and_masks_lie_in_the_same_folders(tmp_path):
    root = tmp_path / "Mine"
    made.picture(root / "images" / "cyst" / "a.png", 1)
    made.mask(root / "masks" / "cyst" / "a_mask.png", (1, 1, 5, 5))
    made.mask(root / "masks" / "cyst" / "a_mask_1.png", (9, 9, 15, 15))
    made.picture(root / "images" / "tumour" / "a.jpg", 2)
    made.mask(root / "masks" / "tumour" / "a.png", (3, 3, 8, 8))
    result = prepared(root)
    assert result.problems == ()
    found = samples_of(result)
    assert [(name, s.image_class) for name, s in found.items()] == [("cyst/a", "cyst"), ("tumour/a", "tumour")]
    assert read_mask(found["cyst/a"])[14, 14] and read_mask(found["cyst/a"])[1, 1]
    assert found["tumour/a"].boxes == ((2.5, 2.5, 7.5, 7.5),)


def test_labels_csv_tells_class_group_split_values_and_masks_that_are_not_there(tmp_path):
    root = tmp_path / "Mine"
    for n, name in enumerate("abc"):
        made.picture(root / "images" / f"{name}.png", n)
    made.mask(root / "masks" / "a.png", (1, 1, 5, 5))
    (root / "labels.csv").write_text(
        "image,class,group,split,masks,size_mm\na.png,x,p1,test,,4.5\nb.png,,p1,test,empty,\nc.png,y,p2,train,unknown,3\n"
    )
    result = prepared(root, split_by="labels")
    assert result.problems == ()
    found = samples_of(result)
    assert [found[n].image_class for n in "abc"] == ["x", None, "y"]
    assert [found[n].group for n in "abc"] == ["mine:p1", "mine:p1", "mine:p2"]
    assert [found[n].split for n in "abc"] == ["test", "test", "train"]
    assert found["a"].values == {"size_mm": 4.5}
    assert (found["b"].masks, found["c"].masks) == ((), None)


def test_images_without_any_masks_folder_are_unlabelled(tmp_path):
    made.picture(tmp_path / "M" / "images" / "a.png", 1)
    (sample,) = prepared(tmp_path / "M").manifest.samples
    assert (sample.masks, sample.boxes, sample.image_class) == (None, None, None)


def test_boxes_csv_tells_boxes_and_an_image_without_a_row_has_none(tmp_path):
    root = tmp_path / "M"
    for n, name in enumerate("ab"):
        made.picture(root / "images" / f"{name}.png", n)
    (root / "boxes.csv").write_text("image,i_low,j_low,i_high,j_high\na.png,1,2,10.5,20\na.png,0,0,4,4\n")
    result = prepared(root)
    found = samples_of(result)
    assert found["a"].boxes == ((1, 2, 10.5, 20), (0, 0, 4, 4))
    assert found["b"].boxes == ()
    assert result.manifest.sources[0].boxes_from == "annotation"


def test_volumes_are_taken_with_boxes_of_three_axes(tmp_path):
    root = tmp_path / "M"
    made.volume(root / "images" / "ct.nii.gz", np.zeros((8, 9, 10), np.int16))
    (root / "boxes.csv").write_text("image,i_low,j_low,k_low,i_high,j_high,k_high\nct.nii.gz,1,2,3,4,5,6\n")
    (sample,) = prepared(root).manifest.samples
    assert sample.boxes == ((1, 2, 3, 4, 5, 6),)
    assert sample.boxes_lps_mm[0][2] == pytest.approx(50 + 3 * 2.5)


def test_what_does_not_fit_is_named(tmp_path):
    root = tmp_path / "M"
    for n, name in enumerate("abc"):
        made.picture(root / "images" / f"{name}.png", n)
    made.mask(root / "masks" / "a.png", (1, 1, 5, 5), size=(20, 30))
    made.mask(root / "masks" / "z.png", (1, 1, 5, 5))
    (root / "images" / "notes.txt").write_text("x")
    (root / "labels.csv").write_text("image,masks\nb.png,empty\ngone.png,\n")
    found = reasons(prepared(root))
    assert found["a.png"].startswith("size mismatch")
    assert found["z.png"] == "a mask without its image"
    assert found["notes.txt"].startswith("foreign file")
    assert found["gone.png"] == "missing: labels.csv names it"
    assert found["c.png"].startswith("missing mask")
    assert len(found) == 5


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labels.csv", "class\nx\n", "no column image"),
        ("labels.csv", "image,size_mm\na.png,big\n", "line 2, size_mm: expected a number, found 'big'"),
        ("labels.csv", "image,split\na.png,dev\n", "line 2: split is 'dev'"),
        ("labels.csv", "image\na.png\na.png\n", "line 3: a.png stands there twice"),
        ("boxes.csv", "image,i_low,j_low,i_high,j_high\na.png,1,2,x,4\n", "line 2, i_high"),
    ],
)
def test_a_broken_table_is_refused_with_its_line(tmp_path, name, text, message):
    made.picture(tmp_path / "M" / "images" / "a.png", 1)
    (tmp_path / "M" / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path / "M")


def test_a_look_alike_of_an_image_whose_patient_is_told_belongs_to_that_patient(tmp_path):
    root = tmp_path / "M"
    for n, name in enumerate("abc"):
        made.picture(root / "images" / f"{name}.png", n)
    made.picture(root / "images" / "d.jpg", 1)
    (root / "labels.csv").write_text("image,group\nb.png,p9\nc.png,p9\n")
    found = samples_of(prepared(root))
    assert [found[n].group for n in "abcd"] == ["m:a", "m:p9", "m:p9", "m:p9"]


def test_one_picture_in_two_classes_is_found_within_told_groups_but_a_patient_may_have_two_classes(tmp_path):
    root = tmp_path / "M"
    for name, n in (("x/a", 1), ("y/a", 2), ("x/b", 3), ("y/b", 3)):
        made.picture(root / "images" / f"{name}.png", n)
    (root / "groups.csv").write_text(
        "image,group\nimages/x/a.png,p1\nimages/y/a.png,p1\nimages/x/b.png,p2\nimages/y/b.png,p2\n"
    )
    found = samples_of(prepared(root))
    assert {name for name, s in found.items() if "label_conflict" in s.flags} == {"x/b", "y/b"}
