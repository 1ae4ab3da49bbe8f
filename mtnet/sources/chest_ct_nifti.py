"""Chest CT volumes with masks: a folder of images and a folder of masks, NIfTI, NRRD or MetaImage."""

from __future__ import annotations

from pathlib import Path

from mtnet.sources.layout import (
    VOLUME_SUFFIXES,
    About,
    Draft,
    Found,
    Problems,
    drafts_of,
    foreign_images,
    set_root,
    subfolder,
)
from mtnet.sources.pairs import pairs
from mtnet.sources.volumes import draft_volume

ABOUT = About(title="Chest CT volumes", licence="LicenseRef-unknown", terms="unknown")
_LAYOUTS = (("images", "masks"), ("images", "labels"), ("imagesTr", "labelsTr"), ("image", "mask"))
_EXPECTED = "a folder images with a folder masks (or labels; imagesTr with labelsTr), files of the same stem."


def read(root: Path, problems: Problems) -> Found:
    """Read volumes and masks of the same stem. Boxes are the components of the masks (26 neighbours).

    Every volume counts as a patient of its own, except where ``groups.csv`` says more.

    Raises:
        FileNotFoundError: the folders are not there.
    """
    root = set_root(root, lambda folder: _parts(folder) is not None, _EXPECTED)
    found = _parts(root)
    assert found is not None  # set_root has seen them.
    problems += foreign_images(root, VOLUME_SUFFIXES)
    drafts: list[Draft | None] = [
        draft_volume(stem, image, [mask] if mask else [], problems, modality="CT")
        for stem, image, mask in pairs(*found, VOLUME_SUFFIXES, problems)
    ]
    return Found(root, ABOUT, drafts_of(drafts), boxes_from="mask_components", grouped_by="volume")


def _parts(folder: Path) -> tuple[Path, Path] | None:
    for images_name, masks_name in _LAYOUTS:
        images, masks = subfolder(folder, images_name), subfolder(folder, masks_name)
        if images is not None and masks is not None:
            return images, masks
    return None
