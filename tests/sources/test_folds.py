"""Groups to folds and splits."""

import hashlib
import subprocess
from collections import Counter

import pytest

from mtnet.sources.folds import conflicting, fold_of, read_groups, read_split_list, split_of, write_split_list
from mtnet.sources.manifest import Manifest
from tests.sources.test_manifest import SOURCE, sample


def test_a_fold_is_the_sha_256_of_the_group_modulo_5_as_sha256sum_has_it():
    for group in ("busi:1", "lidc_voi:LIDC-IDRI-0003", "set:Süd"):
        told = subprocess.run(["sha256sum"], input=group.encode(), capture_output=True, check=True).stdout
        assert fold_of(group) == int(told.split()[0], 16) % 5
    assert [fold_of(f"busi:{n}") for n in (1, 2)] == [3, 0]
    assert fold_of("busi:1") == int.from_bytes(hashlib.sha256(b"busi:1").digest(), "big") % 5


def test_folds_are_about_even():
    counts = Counter(fold_of(f"set:{n}") for n in range(5000))
    assert set(counts) == {0, 1, 2, 3, 4}
    assert min(counts.values()) > 900


def test_fold_0_tests_fold_1_validates_and_the_others_train():
    assert [split_of(fold) for fold in range(5)] == ["test", "val", "train", "train", "train"]


def test_a_group_with_images_of_two_classes_is_in_conflict_and_none_counts_as_no_class():
    assert conflicting(["a", "a", "b", "b", "c"], ["x", "y", "x", None, "x"]) == {"a"}


def test_a_split_list_comes_back_from_its_file(tmp_path):
    samples = (sample(tmp_path, "a, b"), sample(tmp_path, "c", split="test", fold=0, flags=("x", "y")))
    write_split_list(Manifest((SOURCE,), samples), tmp_path / "s.csv")
    assert read_split_list(tmp_path / "s.csv") == {"drawn/a, b": "train", "drawn/c": "test"}
    assert "x y" in (tmp_path / "s.csv").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,fold\na,1\n", "no column split"),
        ("id,split\na,dev\n", "is 'dev'"),
        ("id,split\na,test\na,val\n", "a twice"),
    ],
)
def test_a_broken_split_list_is_refused_with_what_is_wrong(tmp_path, text, message):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_split_list(tmp_path / "s.csv")


def test_groups_csv_may_start_with_a_byte_order_mark_as_spreadsheets_write_it(tmp_path):
    (tmp_path / "groups.csv").write_text("image,group\nimages/1.jpg,7\n", encoding="utf-8-sig")
    assert read_groups(tmp_path / "groups.csv")["images/1.jpg"]["group"] == "7"
