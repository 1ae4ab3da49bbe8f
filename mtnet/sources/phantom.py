"""Drawn chest CT (``mtnet.phantoms``), written to disk as NIfTI."""

from __future__ import annotations

from pathlib import Path

from mtnet.io.nifti_out import write_nifti
from mtnet.phantoms import Phantom, draw_chest
from mtnet.phantoms.families import FAMILIES, Family
from mtnet.sources.layout import About, Draft, Found, Problems
from mtnet.structures.volume import Volume

ABOUT = About(title="Drawn chest CT (mtnet.phantoms)", licence="Apache-2.0", terms="free")
SPACING_MM = (1.5, 1.5, 1.5)


def read(
    root: Path,
    problems: Problems,
    *,
    count: int,
    first_seed: int = 0,
    family: Family = "train",
    spacing_mm: tuple[float, float, float] = SPACING_MM,
) -> Found:
    """Draw chests and write each as ``<family>_<seed>.nii.gz`` and ``<family>_<seed>_mask.nii.gz``.

    The mask holds the number of the nodule that a voxel belongs to. Every chest is a group of its own. Values:
    ``nodules``; class: none.

    Args:
        root: folder for the files; made where it is missing.
        problems: what is wrong goes here.
        count: how many chests.
        first_seed: seed of the first; the others follow.
        family: ``train`` or ``held_out``.
        spacing_mm: of the voxels.

    Raises:
        ValueError: ``count`` or ``family`` makes no sense.
    """
    if count < 1:
        raise ValueError(f"{count} chests are asked for; expected 1 or more (--count).")
    if family not in FAMILIES:
        raise ValueError(f"There is no family {family!r} of drawn chests; expected {', '.join(FAMILIES)}.")
    root.mkdir(parents=True, exist_ok=True)
    drafts = []
    for seed in range(first_seed, first_seed + count):
        problems.looked()
        phantom = draw_chest(seed, family=family, spacing_mm=spacing_mm)
        draft = _draft(phantom, root, f"{family}_{seed}")
        write_nifti(phantom.volume, draft.image)
        for mask in draft.masks or ():
            write_nifti(Volume(phantom.lesion_map[None], phantom.volume.geometry), mask)
        drafts.append(draft)
    return Found(root, ABOUT, tuple(drafts), boxes_from="annotation", grouped_by="drawn")


def _draft(phantom: Phantom, root: Path, name: str) -> Draft:
    return Draft(
        name=name,
        image=root / f"{name}.nii.gz",
        masks=(root / f"{name}_mask.nii.gz",) if phantom.lesions else (),
        boxes=tuple(nodule.box_index for nodule in phantom.lesions),
        boxes_lps_mm=tuple(nodule.box_lps_mm for nodule in phantom.lesions),
        values={"nodules": float(len(phantom.lesions))},
        group=name,
    )
