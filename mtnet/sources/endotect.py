"""EndoTect, polyps, and HyperKvasir's frames of ulcerative colitis as frames without polyps."""

from __future__ import annotations

from pathlib import Path

from mtnet.io.image2d import PICTURE_SUFFIXES
from mtnet.sources.layout import About, Draft, Found, Problems, drafts_of, foreign_images, set_root, subfolder
from mtnet.sources.pairs import pairs
from mtnet.sources.pictures import draft_picture

ABOUT = About(
    title="EndoTect 2020, with HyperKvasir's frames of ulcerative colitis",
    licence="CC-BY-4.0",
    terms="free",
    cite="Hicks SA, Jha D, Thambawita V, Halvorsen P, Hammer HL, Riegler MA. The EndoTect 2020 challenge. ICPR 2021 "
    "workshops. Borgli H, Thambawita V, Smedsrud PH, et al. HyperKvasir. Sci Data 2020;7:283.",
    url="https://doi.org/10.1038/s41597-020-00622-y",
)
_PARTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("images", "masks", ()),
    ("ulcerative-colitis_images", "ulcerative-colitis_masks", ("ulcerative_colitis",)),
)


def read(root: Path, problems: Problems) -> Found:
    """Read ``images/`` with ``masks/`` and, where they are there, the ``ulcerative-colitis_`` folders (flagged so).

    Raises:
        FileNotFoundError: ``images/`` or ``masks/`` is not there.
    """
    root = set_root(root, _fits, "folders images and masks.")
    problems += foreign_images(root, PICTURE_SUFFIXES)
    drafts: list[Draft | None] = []
    for images_name, masks_name, flags in _PARTS:
        images, masks = subfolder(root, images_name), subfolder(root, masks_name)
        if images is None:
            continue
        for stem, image, mask in pairs(images, masks, PICTURE_SUFFIXES, problems):
            drafts.append(
                draft_picture(stem, image, [mask] if mask else [], problems, boxes_of_components=True, flags=flags)
            )
    return Found(root, ABOUT, drafts_of(drafts), boxes_from="mask_components")


def _fits(folder: Path) -> bool:
    return subfolder(folder, "images") is not None and subfolder(folder, "masks") is not None
