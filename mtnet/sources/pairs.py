"""A folder of images and a folder of masks with the same names, the layout of most segmentation sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mtnet.sources.layout import Problem, files_by_stem

MASK_ENDINGS = ("_mask", "_segmentation", "_seg", "_label")
"""What a mask's name may have behind the name of its image."""

Pair = tuple[str, Path, Path | None]


def pairs(images: Path, masks: Path | None, suffixes: Sequence[str], problems: list[Problem]) -> list[Pair]:
    """Images with their masks, by stem, whatever the endings.

    Args:
        images: folder of images.
        masks: folder of masks; None where the set has none.
        suffixes: endings that count as images.
        problems: foreign files, masks without image and images without mask (which are left out) go here.

    Returns:
        (stem, image, mask), sorted by stem; the mask is None where the set has none.
    """
    found = files_by_stem(images, suffixes, problems)
    if masks is None:
        return [(stem, path, None) for stem, path in found.items()]
    named = _by_image(files_by_stem(masks, suffixes, problems), found.__contains__)
    result: list[Pair] = []
    for stem, path in found.items():
        mask = named.pop(stem, None)
        if mask is None:
            problems.append(Problem(path, f"missing mask: expected {masks.name}/{stem}.*"))
            continue
        result.append((stem, path, mask))
    problems += [Problem(path, f"a mask without its image {images.name}/{stem}.*") for stem, path in named.items()]
    return result


def _by_image(masks: dict[str, Path], is_image: Callable[[str], bool]) -> dict[str, Path]:
    """Masks by the stem of their image: the same, or the same with an ending of its own."""
    result: dict[str, Path] = {}
    for stem, path in masks.items():
        short = next((stem.removesuffix(e) for e in MASK_ENDINGS if stem.endswith(e)), stem)
        image = stem if is_image(stem) or not is_image(short) else short
        result[stem if image in result else image] = path
    return result
