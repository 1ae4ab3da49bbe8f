"""One 2D image of a set with its masks, looked at once: whether they can be read and fit, boxes, fingerprint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mtnet.io.image2d import read_picture
from mtnet.sources.layout import Draft, Problem, Problems
from mtnet.sources.manifest import Numbers, Split
from mtnet.sources.masks import component_boxes, stored_mask, union, without_single_pixels
from mtnet.sources.near_duplicates import fingerprint
from mtnet.structures.report import RefusedError


def draft_picture(
    name: str,
    image: Path,
    masks: Sequence[Path] | None,
    problems: Problems,
    *,
    boxes: Sequence[Numbers] | None = None,
    boxes_of_components: bool = False,
    image_class: str | None = None,
    values: Mapping[str, float] | None = None,
    flags: Sequence[str] = (),
    official: Split | None = None,
) -> Draft | None:
    """Look at an image and its masks.

    Args:
        name: the part of the sample's id behind the source.
        image: the picture.
        masks: its masks; None where the set has none for it. Masks that hold nothing become ``()``.
        problems: what is wrong goes here.
        boxes: annotated boxes in index space; what reaches over the image's edge is cut, if it is less than half.
        boxes_of_components: take a box from each component of the masks where no boxes are annotated.
        image_class, values, flags, official: handed on.

    Returns:
        the draft, or None where the image or a mask cannot be used; ``problems`` then says why.
    """
    problems.looked()
    try:
        picture = read_picture(image)
    except (RefusedError, OSError) as error:
        problems.append(Problem(image, f"unreadable: {_reason(error)}"))
        return None
    told = list(flags)
    found: list[Numbers] | None = None
    kept: tuple[Path, ...] | None = None
    if masks is not None:
        layers = []
        for path in masks:
            try:
                layer = stored_mask(path)
            except (RefusedError, OSError) as error:
                problems.append(Problem(path, f"unreadable: {_reason(error)}"))
                return None
            if layer.shape != picture.shape:
                problems.append(Problem(path, f"size mismatch: {_size(layer.shape)}, its image {_size(picture.shape)}"))
                return None
            clean = without_single_pixels(layer)
            if (clean != layer).any():
                told.append("stray_pixel")
            layers.append(clean)
        whole = union(layers, name) if layers else None
        empty = whole is None or not whole.any()
        kept = () if empty else tuple(masks)
        if boxes_of_components and boxes is None:
            found = [] if whole is None else list(component_boxes(whole))
    if boxes is not None:
        found = []
        for box in boxes:
            fitted = _inside(box, picture.shape)
            if fitted is None:
                problems.append(
                    Problem(
                        image, f"a box {list(box)} (index space) lies outside of the image, half or more, or is empty"
                    )
                )
                return None
            found.append(fitted)
    return Draft(
        name=name,
        image=image,
        masks=kept,
        boxes=None if found is None else tuple(found),
        image_class=image_class,
        values=values or {},
        flags=tuple(dict.fromkeys(told)),
        official=official,
        fingerprint=fingerprint(picture.array),
    )


def _inside(box: Numbers, shape: tuple[int, int]) -> Numbers | None:
    """The box cut at the image's edges; None where less than half of it is left."""
    low = [max(box[axis], -0.5) for axis in range(2)]
    high = [min(box[axis + 2], shape[axis] - 0.5) for axis in range(2)]
    if not all(h > lo for lo, h in zip(low, high, strict=True)):
        return None
    left = (high[0] - low[0]) * (high[1] - low[1])
    return (*low, *high) if left >= (box[2] - box[0]) * (box[3] - box[1]) / 2 else None


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _reason(error: Exception) -> str:
    if isinstance(error, RefusedError):
        return " ".join(line.message for line in error.lines)
    return "there is no such file" if isinstance(error, FileNotFoundError) else type(error).__name__
