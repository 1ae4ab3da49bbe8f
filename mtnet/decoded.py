"""What the merged outputs of a network say about a case, decoded one output after the other, each as its kind is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtnet.cases import Case
from mtnet.inference.decode import decode_global, decode_lesions, reconstruction_error
from mtnet.inference.mask_lesions import lesions_of_mask
from mtnet.inference.measured import decode_measured
from mtnet.structures import Geometry, ImageClass, Label, Lesion, Measured, OutputSpec, ReportLine, Volume
from mtnet.structures.kinds import of_kind
from mtnet.structures.labels import LESION_FREE

if TYPE_CHECKING:
    from mtnet.inference.plan import Outputs


@dataclass(slots=True)
class Decoded:
    """What has been decoded so far; the same words as in ``Findings``."""

    lesions: tuple[Lesion, ...] = ()
    lesion_map: Volume | None = None
    label_map: Volume | None = None
    labels: tuple[Label, ...] = ()
    reconstruction: Volume | None = None
    reconstruction_error: Mapping[str, float] = field(default_factory=dict)
    image_classes: tuple[ImageClass, ...] = ()
    measured: dict[str, Measured] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)
    lines: tuple[ReportLine, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a decoder may need to know of the case that a network saw.

    Args:
        case: what was read; answers lie on its grid.
        outputs: all that the engine gave.
        grid: what the network saw.
        uid_seed: what identifies source, model and options.
        region: mask on ``grid`` of where it looked; None is everywhere.
        values: range to which the image was clipped for the network.
        masks_tell_lesions: the parts of an image's mask are its lesions, for there are no boxes.
    """

    case: Case
    outputs: Outputs
    grid: Geometry
    uid_seed: str
    region: NDArray[np.bool_] | None = None
    values: tuple[float, float] | None = None
    masks_tell_lesions: bool = False


Decoder = Callable[[Decoded, OutputSpec, Seen], None]
"""Adds to what has been decoded what one output says. Outputs come in the network's order, dense ones before boxes.

One of an outside kind finds its merged tensor in ``seen.outputs.extras[spec.name]``, and adds lesions, image classes,
or under its output's name in ``extras`` what JSON can hold; a key in it carries its unit or frame (``centre_index``).
"""


def decode_all(specs: Sequence[OutputSpec], seen: Seen) -> Decoded:
    """What all outputs say, one after the other, and where they contradict each other.

    Raises:
        ValueError: an outside kind has no decoder, or its package cannot be loaded.
    """
    made = Decoded(labels=tuple(label for spec in specs if spec.name == "pred" for label in drawn_labels(spec)))
    for spec in specs:
        decode(made, spec, seen)
    made.lines = (*made.lines, *_disagreements(made))
    return made


def _disagreements(made: Decoded) -> list[ReportLine]:
    """A line where something is outlined in an image whose class says that it shows no lesion.

    Nothing is taken away: which of the two answers is right is for whoever looks at the image.
    """
    if not made.lesions and (made.label_map is None or not made.label_map.array.any()):
        return []
    return [
        ReportLine(
            "answers_disagree",
            "flagged",
            f"Something is outlined in the image, which is called {one.name} all the same: one of the two is wrong.",
            "image",
        )
        for one in made.image_classes
        if one.present and one.name in LESION_FREE
    ]


def decode(made: Decoded, spec: OutputSpec, seen: Seen) -> None:
    """Add what one output says, by the decoder of its kind.

    Raises:
        ValueError: an outside kind has no decoder, or its package cannot be loaded.
    """
    of_kind(spec.kind, "decoder", DECODERS)(made, spec, seen)


def _decode_dense(made: Decoded, spec: OutputSpec, seen: Seen) -> None:
    volume = seen.case.volume
    dense = seen.outputs.dense[spec.name]
    if not spec.labels:
        made.reconstruction = Volume(_deep(dense.array), volume.geometry, volume.modality)
        # Normalised values are not those of the source, and have no error against it.
        if spec.units != "normalised" and made.reconstruction.array.shape == volume.array.shape:
            made.reconstruction_error = reconstruction_error(
                volume,
                made.reconstruction,
                region=seen.region,
                region_geometry=seen.grid,
                limits=seen.values,
                units=spec.units,
            )
    elif spec.name == "pred" or made.label_map is None:
        made.label_map = Volume(_deep(dense.array), volume.geometry, "SEG")
        if seen.masks_tell_lesions and seen.case.scale is not None:
            made.lesions, made.lesion_map, made.lines = lesions_of_mask(
                dense, spec, geometry=volume.geometry, uid_seed=seen.uid_seed, scale=seen.case.scale
            )


def _decode_boxes(made: Decoded, spec: OutputSpec, seen: Seen) -> None:
    made.lesions, made.lesion_map, made.lines = decode_lesions(
        seen.outputs.boxes[spec.name],
        spec,
        image_geometry=seen.grid,
        geometry=seen.case.volume.geometry,
        uid_seed=seen.uid_seed,
        label_map=None if made.label_map is None else made.label_map.array,
        plane=seen.case.scale,
    )


def _decode_global(made: Decoded, spec: OutputSpec, seen: Seen) -> None:
    values = seen.outputs.global_[spec.name]
    if spec.labels:
        made.image_classes = (*made.image_classes, *decode_global(values, spec))
    else:
        made.measured |= decode_measured(values, spec)


DECODERS: dict[str, Decoder] = {"dense": _decode_dense, "boxes": _decode_boxes, "global": _decode_global}
"""The built-in kinds of output."""


def drawn_labels(spec: OutputSpec) -> tuple[Label, ...]:
    """The labels of a label map that are not its background."""
    return tuple(label for label in spec.labels if label.value != spec.background)


def _deep(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """``(C, i, j)`` of a 2D image as one slice; a volume as it is."""
    return array[..., None] if array.ndim == 3 else array
