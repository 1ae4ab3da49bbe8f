"""``mtnet prepare`` as it is typed."""

import json

import numpy as np
import pytest

from mtnet.cli.main import main
from mtnet.cli.prepare import SOURCES
from mtnet.sources import read_manifest
from mtnet.sources.prepare import LAYOUTS
from tests.sources import made


def test_a_set_becomes_a_manifest_with_a_summary(tmp_path, capsys):
    made.busi(tmp_path / "BUSI")
    assert main(["prepare", "busi", str(tmp_path / "BUSI"), "--out", str(tmp_path / "out" / "busi.json")]) == 0
    told = capsys.readouterr().out
    assert "busi: 4 images in 4 groups (near_duplicates)" in told
    assert "benign 2, malignant 1, normal 1" in told
    manifest = read_manifest(tmp_path / "out" / "busi.json")
    assert len(manifest.samples) == 4
    assert all(sample.image.is_file() for sample in manifest.samples)


def test_a_broken_set_is_told_file_by_file_and_nothing_is_written(tmp_path, capsys):
    root = made.busi(tmp_path / "BUSI")
    (root / "benign" / "benign (10)_mask.png").unlink()
    (root / "normal" / "normal (1).png").write_bytes(b"no picture")
    out = tmp_path / "busi.json"
    assert main(["prepare", "busi", str(root), "--out", str(out)]) == 1
    told = capsys.readouterr().err
    assert "benign/benign (10).png: missing mask" in told
    assert "normal/normal (1).png: unreadable" in told
    assert "2 files of the set are broken; nothing was written" in told
    assert not out.exists()


def test_a_program_gets_the_broken_files_as_json(tmp_path, capsys):
    root = made.busi(tmp_path / "BUSI")
    (root / "benign" / "benign (10)_mask.png").unlink()
    assert main(["prepare", "busi", str(root), "--out", str(tmp_path / "m.json"), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [item["file"] for item in told["left_out"]] == ["benign/benign (10).png"]


def test_with_skip_broken_the_others_are_written_and_the_broken_listed(tmp_path, capsys):
    root = made.busi(tmp_path / "BUSI")
    (root / "benign" / "benign (10)_mask.png").unlink()
    out = tmp_path / "busi.json"
    assert main(["prepare", "busi", str(root), "--out", str(out), "--skip-broken"]) == 0
    told = capsys.readouterr()
    assert "benign/benign (10).png: missing mask" in told.err
    assert "left out as broken: 1" in told.out
    manifest = read_manifest(out)
    assert len(manifest.samples) == 3
    assert [item.file for item in manifest.left_out] == ["benign/benign (10).png"]


def test_a_set_that_is_broken_throughout_is_refused_even_then(tmp_path, capsys):
    root = made.polyps(tmp_path / "P", 1)
    (root / "masks" / "0.png").unlink()
    out = tmp_path / "p.json"
    assert main(["prepare", "polyp_folder", str(root), "--out", str(out), "--skip-broken"]) == 1
    assert "can be used" in capsys.readouterr().err
    assert not out.exists()


def test_a_manifest_joins_others(tmp_path, capsys):
    made.polyps(tmp_path / "A", 2)
    made.polyps(tmp_path / "B", 3, seed=9)
    one, two = tmp_path / "a.json", tmp_path / "both.json"
    assert main(["prepare", "polyp_folder", str(tmp_path / "A"), "--out", str(one)]) == 0
    assert main(["prepare", "polyp_folder", str(tmp_path / "B"), "--out", str(two), "--join", str(one)]) == 0
    manifest = read_manifest(two)
    assert [source.name for source in manifest.sources] == ["a", "b"]
    assert [sample.id for sample in manifest.samples] == ["a/0", "a/1", "b/0", "b/1", "b/2"]
    assert "both.json: 5 images" in capsys.readouterr().out


def test_the_same_set_twice_is_refused(tmp_path, capsys):
    made.polyps(tmp_path / "A", 2)
    one = tmp_path / "a.json"
    assert main(["prepare", "polyp_folder", str(tmp_path / "A"), "--out", str(one)]) == 0
    assert (
        main(["prepare", "polyp_folder", str(tmp_path / "A"), "--out", str(tmp_path / "b.json"), "--join", str(one)])
        == 1
    )
    assert "twice" in capsys.readouterr().err
    assert not (tmp_path / "b.json").exists()


def test_splits_are_written_without_paths_and_can_be_given_back(tmp_path):
    root = made.polyps(tmp_path / "P", 8)
    first = [
        "prepare",
        "polyp_folder",
        str(root),
        "--out",
        str(tmp_path / "a.json"),
        "--splits",
        str(tmp_path / "s.csv"),
    ]
    assert main(first) == 0
    again = [
        "prepare",
        "polyp_folder",
        str(root),
        "--out",
        str(tmp_path / "b.json"),
        "--split-by",
        str(tmp_path / "s.csv"),
    ]
    assert main(again) == 0
    one, two = read_manifest(tmp_path / "a.json"), read_manifest(tmp_path / "b.json")
    assert [s.split for s in one.samples] == [s.split for s in two.samples]
    assert ".jpg" not in (tmp_path / "s.csv").read_text()


def test_the_summary_as_json_tells_how_well_found_groups_agree_with_given_ones(tmp_path, capsys):
    root = made.polyps(tmp_path / "P", 4)
    (root / "groups.csv").write_text("image,group\n" + "".join(f"images/{n}.jpg,{n}\n" for n in range(4)))
    out = ["--out", str(tmp_path / "a.json"), "--find-groups", "--json"]
    assert main(["prepare", "polyp_folder", str(root), *out]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["samples"] == 4
    assert told["agreement"]["precision"] == told["agreement"]["recall"] == 1
    assert told["sources"]["p"]["boxes"] == 4


def test_chests_are_drawn_where_asked(tmp_path):
    drawn = ["--count", "1", "--first-seed", "5", "--spacing-mm", "5", "5", "6"]
    assert main(["prepare", "phantom", str(tmp_path / "drawn"), "--out", str(tmp_path / "m.json"), *drawn]) == 0
    (sample,) = read_manifest(tmp_path / "m.json").samples
    assert sample.image == tmp_path / "drawn" / "train_5.nii.gz"
    assert sample.image.is_file()


def test_crops_are_written_beside_the_manifest(tmp_path):
    root = tmp_path / "lidc"
    (root / "nodules").mkdir(parents=True)
    image, mask = np.zeros((9, 9, 4), np.int16), np.ones((9, 9, 4), np.uint8)
    np.savez(root / "nodules" / "a.npz", image=image, mask=mask, affine=np.diag([-1.0, -1.0, 2.0, 1.0]))
    header = "file,patient_id,coordX,coordY,coordZ,diameter_mm,Malignancy_value"
    (root / "index.csv").write_text(f"{header}\nnodules/a.npz,P,1,2,3,4.5,3\n")
    assert main(["prepare", "lidc_voi", str(root), "--out", str(tmp_path / "out" / "m.json")]) == 0
    (sample,) = read_manifest(tmp_path / "out" / "m.json").samples
    assert sample.image == tmp_path / "out" / "lidc_voi_nifti" / "a.nii.gz"
    assert sample.image.is_file() and sample.masks[0].is_file()


def test_a_missing_set_is_refused_with_its_place(tmp_path, capsys):
    assert main(["prepare", "busi", str(tmp_path / "nowhere"), "--out", str(tmp_path / "a.json")]) == 1
    assert "There is no folder" in capsys.readouterr().err


def test_an_unknown_source_is_wrong_usage(tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", "imagenet", str(tmp_path), "--out", str(tmp_path / "a.json")])
    assert stopped.value.code == 2


def test_the_command_offers_every_layout_that_there_is():
    assert tuple(LAYOUTS) == SOURCES
