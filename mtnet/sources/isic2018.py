"""ISIC 2018, task 1: dermoscopic images with the outline of one lesion."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from mtnet.io.image2d import PICTURE_SUFFIXES
from mtnet.sources.layout import About, Draft, Found, Problems, drafts_of, foreign_images, set_root, subfolder
from mtnet.sources.manifest import Split
from mtnet.sources.pairs import pairs
from mtnet.sources.pictures import draft_picture

ABOUT = About(
    title="ISIC 2018, task 1: lesion boundary",
    licence="CC-BY-NC-4.0",
    terms="non_commercial",
    cite="Codella N, Rotemberg V, Tschandl P, et al. Skin lesion analysis toward melanoma detection 2018. "
    "arXiv:1902.03368. Tschandl P, Rosendahl C, Kittler H. The HAM10000 dataset. Sci Data 2018;5:180161.",
    url="https://challenge.isic-archive.com/data/#2018",
)
OFFICIAL = ("official",)
_PARTS = (("Training", "train"), ("Validation", "val"), ("Test", "test"))


def read(root: Path, problems: Problems, split_by: str = "groups") -> Found:
    """Read ``ISIC2018_Task1-2_<part>_Input/x.jpg`` with ``ISIC2018_Task1_<part>_GroundTruth/x_segmentation.png``.

    Args:
        root: the folder that holds them, at least one part of Training, Validation and Test.
        problems: what is wrong goes here.
        split_by: ``official`` for the challenge's parts (2594 train, 100 validate, 1000 test), else ``groups``.

    Raises:
        FileNotFoundError: no part is there.
    """
    root = set_root(root, lambda folder: _parts(folder) != [], "folders ISIC2018_Task1-2_Training_Input and so on.")
    problems += foreign_images(root, PICTURE_SUFFIXES)
    drafts: list[Draft | None] = []
    for images, masks, split in _parts(root):
        for stem, image, mask in pairs(images, masks, PICTURE_SUFFIXES, problems):
            drafts.append(
                draft_picture(
                    stem,
                    image,
                    [mask] if mask else None,
                    problems,
                    official=split if split_by == "official" else None,
                )
            )
    return Found(root, ABOUT, drafts_of(drafts))


def _parts(folder: Path) -> list[tuple[Path, Path | None, Split]]:
    found = []
    for part, split in _PARTS:
        images = subfolder(folder, f"ISIC2018_Task1-2_{part}_Input")
        if images is not None:
            masks = subfolder(folder, f"ISIC2018_Task1_{part}_GroundTruth")
            found.append((images, masks, cast(Split, split)))
    return found
