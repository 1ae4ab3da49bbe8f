"""The manifest as a file and in memory."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mtnet.sources import Manifest, Sample, Source, joined, read_manifest, write_manifest
from mtnet.sources.manifest import LeftOut, schema

SOURCE = Source(
    name="drawn",
    layout="folder",
    title="Drawn",
    licence="CC0-1.0",
    terms="free",
    cite="",
    url="",
    grouped_by="patient",
    split_by="groups",
)


def sample(folder, name="a", **told):
    values = {
        "id": f"drawn/{name}",
        "source": "drawn",
        "group": f"drawn:{name}",
        "image": Path(folder) / "set" / f"{name}.png",
        "split": "train",
        "fold": 3,
        "licence": "CC0-1.0",
    }
    return Sample(**{**values, **told})


def test_a_manifest_comes_back_from_its_file_as_it_was(tmp_path):
    full = sample(
        tmp_path,
        masks=(tmp_path / "set" / "a mask.png", tmp_path / "b.png"),
        boxes=((-0.5, 0.5, 10.25, 20.5),),
        boxes_lps_mm=((-1.0, -2.0, -3.0, 1.0, 2.0, 3.0),),
        excluded_boxes=((0.0, 0.0, 0.0, 1.0, 1.0, 1.0),),
        image_class="benign",
        values={"diameter_mm": 4.25},
        centre_lps_mm=(1.0, -2.5, 3.0),
        flags=("label_conflict",),
    )
    known_empty = sample(tmp_path, "b", masks=(), boxes=())
    unknown = sample(tmp_path, "c", split="val", fold=1)
    source = replace(SOURCE, files={"candidates": tmp_path / "candidates.csv"})
    manifest = Manifest((source,), (full, known_empty, unknown), (LeftOut("drawn", "d.png", "broken"),))
    write_manifest(manifest, tmp_path / "manifest.json")
    assert read_manifest(tmp_path / "manifest.json") == manifest


def test_paths_in_the_file_are_relative_to_its_folder_so_that_both_move_together(tmp_path):
    before = tmp_path / "before"
    (before / "lists").mkdir(parents=True)
    write_manifest(Manifest((SOURCE,), (sample(before),)), before / "lists" / "m.json")
    assert json.loads((before / "lists" / "m.json").read_text())["samples"][0]["image"] == "../set/a.png"
    before.rename(tmp_path / "after")
    moved = read_manifest(tmp_path / "after" / "lists" / "m.json")
    assert moved.samples[0].image == tmp_path / "after" / "set" / "a.png"


def test_a_manifest_without_samples_is_written_and_read(tmp_path):
    write_manifest(Manifest((SOURCE,), ()), tmp_path / "m.json")
    assert read_manifest(tmp_path / "m.json") == Manifest((SOURCE,), ())


def test_select_gives_a_split_in_order_and_all_gives_everything(tmp_path):
    samples = tuple(
        sample(tmp_path, name, split=split, fold=fold)
        for name, split, fold in (("a", "test", 0), ("b", "train", 2), ("c", "test", 0))
    )
    manifest = Manifest((SOURCE,), samples)
    assert [s.id for s in manifest.select("test")] == ["drawn/a", "drawn/c"]
    assert manifest.select("all") == samples
    assert manifest.select("val") == ()
    with pytest.raises(ValueError, match="expected train, val, test or all"):
        manifest.select("dev")


def test_joined_manifests_hold_the_samples_of_both_and_a_shared_source_once(tmp_path):
    one = Manifest((SOURCE,), (sample(tmp_path, "a"),))
    two = Manifest((SOURCE,), (sample(tmp_path, "b"),))
    both = joined(one, two)
    assert both.sources == (SOURCE,)
    assert [s.id for s in both.samples] == ["drawn/a", "drawn/b"]


def test_an_id_in_two_joined_manifests_is_refused(tmp_path):
    one = Manifest((SOURCE,), (sample(tmp_path, "a"),))
    with pytest.raises(ValueError, match="id drawn/a twice"):
        joined(one, one)


def test_a_source_told_in_two_ways_is_refused(tmp_path):
    one = Manifest((SOURCE,), (sample(tmp_path, "a"),))
    two = Manifest((replace(SOURCE, licence="MIT"),), (sample(tmp_path, "b"),))
    with pytest.raises(ValueError, match="told in two ways"):
        joined(one, two)


def test_a_group_in_two_folds_is_refused(tmp_path):
    samples = (sample(tmp_path, "a", group="drawn:1", fold=2), sample(tmp_path, "b", group="drawn:1", fold=3))
    with pytest.raises(ValueError, match="lies in folds 2 and 3"):
        Manifest((SOURCE,), samples)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"id": "other/a"}, "expected drawn/<name>"),
        ({"group": "a"}, "expected drawn:<group>"),
        ({"split": "dev"}, "expected one of train, val, test"),
        ({"fold": -1}, "expected 0 or more"),
        ({"boxes": ((0.0, 0.0, 0.0, 4.0),)}, "lows, then as many highs"),
        ({"boxes": ((0.0, 0.0, 1.0),)}, "lows, then as many highs"),
        ({"values": {"diameter_mm": float("nan")}}, "expected a finite number"),
        ({"boxes": (), "boxes_lps_mm": ((0.0, 0.0, 0.0, 1.0, 1.0, 1.0),)}, "another number of boxes"),
    ],
)
def test_a_sample_that_contradicts_itself_is_refused_with_its_field(tmp_path, told, message):
    with pytest.raises(ValueError, match=message):
        sample(tmp_path, **told)


def test_a_file_that_breaks_the_schema_is_refused_with_the_place(tmp_path):
    write_manifest(Manifest((SOURCE,), (sample(tmp_path),)), tmp_path / "m.json")
    document = json.loads((tmp_path / "m.json").read_text())
    document["samples"][0]["fold"] = "zero"
    (tmp_path / "m.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"samples\.0\.fold"):
        read_manifest(tmp_path / "m.json")


@pytest.mark.parametrize("text", ["[]", '{"schema_version": "9.0"}', "not json"])
def test_a_file_that_is_no_manifest_is_refused(tmp_path, text):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(ValueError, match=r"m\.json"):
        read_manifest(tmp_path / "m.json")


def test_a_missing_manifest_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="mtnet prepare"):
        read_manifest(tmp_path / "m.json")


def test_the_schema_is_a_valid_draft_7_schema():
    from jsonschema import Draft7Validator

    Draft7Validator.check_schema(schema())
