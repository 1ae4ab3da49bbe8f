"""One 3D image of a set with its masks, looked at once: whether they can be read and fit, and its boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mtnet.io.image_files import load_image_file
from mtnet.sources.layout import Draft, Problem, Problems
from mtnet.sources.manifest import Numbers
from mtnet.sources.masks import component_boxes, union
from mtnet.structures.report import RefusedError


def draft_volume(
    name: str,
    image: Path,
    masks: Sequence[Path] | None,
    problems: Problems,
    *,
    modality: str = "",
    boxes: Sequence[Numbers] | None = None,
    image_class: str | None = None,
    values: Mapping[str, float] | None = None,
    group: str | None = None,
) -> Draft | None:
    """Look at a volume and its masks; where no boxes are given, each component of the masks has one.

    Args:
        name: the part of the sample's id behind the source; without ``group``, the group too.
        image: NIfTI, NRRD or MetaImage.
        masks: its masks on the same grid; None where the set has none for it.
        problems: what is wrong goes here.
        modality: of the image.
        boxes: annotated boxes in index space.
        image_class, values, group: handed on.

    Returns:
        the draft, or None where the image or a mask cannot be used; ``problems`` then says why.
    """
    problems.looked()
    path = image
    try:
        volume = load_image_file(image, modality=modality)
        layers = []
        for path in masks or ():
            layer = load_image_file(path)
            if layer.geometry.shape != volume.geometry.shape:
                problems.append(
                    Problem(path, f"size mismatch: {layer.geometry.shape}, its image {volume.geometry.shape}")
                )
                return None
            if not layer.geometry.almost_equal(volume.geometry, 0.1):
                problems.append(Problem(path, "its affine places it elsewhere than its image (by more than 0.1 mm)"))
                return None
            layers.append(layer.array[0] > 0.5)
    except RefusedError as error:
        problems.append(Problem(path, f"unreadable: {' '.join(line.message for line in error.lines)}"))
        return None
    except OSError as error:
        problems.append(Problem(path, f"unreadable ({type(error).__name__})"))
        return None
    found = None if boxes is None else tuple(tuple(box) for box in boxes)
    if found is None and masks is not None:
        found = component_boxes(union(layers, name)) if layers else ()
    geometry = volume.geometry
    return Draft(
        name=name,
        image=image,
        masks=None if masks is None else tuple(masks) if any(layer.any() for layer in layers) else (),
        boxes=found,
        boxes_lps_mm=None
        if found is None
        else tuple(tuple(round(float(v), 4) for v in geometry.box_index_to_lps_mm(box)) for box in found),
        image_class=image_class,
        values=values or {},
        group=group or name,
    )
