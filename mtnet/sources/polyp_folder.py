"""Colonoscopy sets of one layout: CVC-ClinicDB, CVC-ColonDB, ETIS, and the benchmark that holds several of them."""

from __future__ import annotations

from pathlib import Path

from mtnet.io.image2d import PICTURE_SUFFIXES
from mtnet.sources.layout import (
    About,
    Draft,
    Found,
    Problem,
    Problems,
    drafts_of,
    foreign_images,
    set_root,
    subfolder,
    visible,
)
from mtnet.sources.manifest import Split
from mtnet.sources.pairs import pairs
from mtnet.sources.pictures import draft_picture

ABOUT = About(title="Polyp images", licence="LicenseRef-unknown", terms="unknown")
OFFICIAL = ("benchmark",)
_LAYOUTS = (("images", "masks"), ("Original", "Ground Truth"), ("image", "mask"))
_EXPECTED = "a folder images with a folder masks, or Original with Ground Truth (files of the same stem)."


def read(root: Path, problems: Problems, split_by: str = "groups") -> Found:
    """Read images and masks of the same stem, any endings.

    Args:
        root: the set's folder. With ``split_by="benchmark"`` the folder of the polyp benchmark (PraNet, 900 images of
            Kvasir-SEG and 550 of CVC-ClinicDB to train, folded by group into train and val), which holds
            ``TrainDataset/`` and ``TestDataset/<set>/``.
        problems: what is wrong goes here.
        split_by: ``benchmark`` or ``groups``.

    Raises:
        FileNotFoundError: the folders are not there.
    """
    drafts: list[Draft | None] = []
    if split_by == "benchmark":
        root = set_root(root, _is_benchmark, "folders TrainDataset and TestDataset.")
        train, test = subfolder(root, "TrainDataset"), subfolder(root, "TestDataset")
        assert train is not None and test is not None  # _is_benchmark has seen them.
        drafts += _read_part(train, "train/", None, problems)
        for part in visible(test):
            if _parts(part) is None:
                problems.append(Problem(part, f"foreign: expected {_EXPECTED}"))
            else:
                drafts += _read_part(part, f"{part.name}/", "test", problems)
    else:
        root = set_root(root, lambda folder: _parts(folder) is not None, _EXPECTED)
        problems += foreign_images(root, PICTURE_SUFFIXES)
        drafts += _read_part(root, "", None, problems)
    return Found(root, ABOUT, drafts_of(drafts), boxes_from="mask_components")


def _read_part(folder: Path, prefix: str, official: Split | None, problems: Problems) -> list[Draft | None]:
    found = _parts(folder)
    assert found is not None  # Whoever calls has seen it.
    images, masks = found
    return [
        draft_picture(
            prefix + stem,
            image,
            [mask] if mask else [],
            problems,
            boxes_of_components=True,
            official=official,
        )
        for stem, image, mask in pairs(images, masks, PICTURE_SUFFIXES, problems)
    ]


def _parts(folder: Path) -> tuple[Path, Path] | None:
    if not folder.is_dir():
        return None
    for images_name, masks_name in _LAYOUTS:
        images, masks = subfolder(folder, images_name), subfolder(folder, masks_name)
        if images is not None and masks is not None:
            return images, masks
    return None


def _is_benchmark(folder: Path) -> bool:
    train = subfolder(folder, "TrainDataset")
    return train is not None and _parts(train) is not None and subfolder(folder, "TestDataset") is not None
