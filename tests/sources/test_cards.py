"""The cards and split files in ``data/``."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from mtnet.sources import (
    busi,
    chest_ct_nifti,
    composed_ct,
    endotect,
    folder,
    isic2018,
    kvasir_seg,
    lidc_voi,
    luna16,
    lung_pet_ct_dx,
    phantom,
    polyp_folder,
)
from mtnet.sources.folds import fold_of
from mtnet.sources.prepare import LAYOUTS

DATA = Path(__file__).parents[2] / "data"
MODULES = (
    busi,
    kvasir_seg,
    endotect,
    polyp_folder,
    isic2018,
    lidc_voi,
    luna16,
    lung_pet_ct_dx,
    chest_ct_nifti,
    composed_ct,
    phantom,
    folder,
)
CARD_OF = {"cvc_clinicdb": "polyp_folder"}
SPLITS = sorted((DATA / "splits").iterdir())


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_every_source_has_a_card_with_its_licence_its_terms_and_its_command(module):
    name = module.__name__.rpartition(".")[2]
    text = (DATA / "cards" / f"{name}.md").read_text()
    for part in (f"`{module.ABOUT.licence}`", f"`{module.ABOUT.terms}`", f"mtnet prepare {name} "):
        assert part in text


def test_there_is_a_card_for_every_layout_and_no_other():
    assert {path.stem for path in (DATA / "cards").iterdir()} == set(LAYOUTS)


@pytest.mark.parametrize("path", SPLITS, ids=lambda path: path.stem)
def test_a_card_tells_the_numbers_of_its_split_file(path):
    with path.open() as stream:
        rows = list(csv.DictReader(stream))
    text = (DATA / "cards" / f"{CARD_OF.get(path.stem, path.stem)}.md").read_text()
    counts = Counter(row["split"] for row in rows)
    told = ", ".join(f"{split} {counts[split]}" for split in ("test", "val", "train") if counts[split])
    assert f"| folds | {told} |" in text
    assert f"| groups | {len({row['group'] for row in rows})} " in text
    for flag, number in Counter(flag for row in rows for flag in row["flags"].split()).items():
        assert f"{number} `{flag}`" in text


@pytest.mark.parametrize("path", SPLITS, ids=lambda path: path.stem)
def test_every_fold_in_a_split_file_is_the_hash_of_its_group_and_conflicts_train(path):
    with path.open() as stream:
        for row in csv.DictReader(stream):
            assert int(row["fold"]) == fold_of(row["group"])
            assert row["split"] == "train" or "label_conflict" not in row["flags"]


def test_there_are_no_pixels_in_data():
    assert {path.suffix for path in DATA.rglob("*") if path.is_file()} == {".md", ".csv", ".json"}
