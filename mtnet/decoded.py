"""What the merged outputs of a network say about a case, decoded one output after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtnet.cases import Case
from mtnet.inference.decode import decode_global, decode_lesions, reconstruction_error
from mtnet.inference.mask_lesions import lesions_of_mask
from mtnet.structures import Geometry, ImageClass, Label, Lesion, OutputSpec, ReportLine, Volume

if TYPE_CHECKING:
    from mtnet.inference.plan import Outputs


@dataclass(slots=True)
class Decoded:
    """What has been decoded so far; the same words as in ``Findings``."""

    lesions: tuple[Lesion, ...] = ()
    lesion_map: Volume | None = None
    label_map: Volume | None = None
    reconstruction: Volume | None = None
    reconstruction_error: Mapping[str, float] = field(default_factory=dict)
    image_classes: tuple[ImageClass, ...] = ()
    lines: tuple[ReportLine, ...] = ()

    def add(
        self,
        spec: OutputSpec,
        case: Case,
        outputs: Outputs,
        *,
        grid: Geometry,
        uid_seed: str,
        region: NDArray[np.bool_] | None = None,
        values: tuple[float, float] | None = None,
        masks_tell_lesions: bool = False,
    ) -> None:
        """Add what one output says. Outputs come in the network's order, dense ones before boxes.

        Args:
            spec: of the output.
            case: what was read; answers lie on its grid.
            outputs: all that the engine gave.
            grid: what the network saw.
            uid_seed: what identifies source, model and options.
            region: mask on ``grid`` of where it looked; None is everywhere.
            values: range to which the image was clipped for the network.
            masks_tell_lesions: the parts of an image's mask are its lesions, for there are no boxes.
        """
        volume = case.volume
        if spec.kind == "dense" and spec.labels:
            if spec.name == "pred" or self.label_map is None:
                dense = outputs.dense[spec.name]
                self.label_map = Volume(_deep(dense.array), volume.geometry, "SEG")
                if masks_tell_lesions and case.scale is not None:
                    self.lesions, self.lesion_map, self.lines = lesions_of_mask(
                        dense, spec, geometry=volume.geometry, uid_seed=uid_seed, scale=case.scale
                    )
        elif spec.kind == "dense":
            redrawn = Volume(_deep(outputs.dense[spec.name].array), volume.geometry, volume.modality)
            self.reconstruction = redrawn
            # Normalised values are not those of the source, and have no error against it.
            if spec.units != "normalised" and redrawn.array.shape == volume.array.shape:
                self.reconstruction_error = reconstruction_error(
                    volume, redrawn, region=region, region_geometry=grid, limits=values, units=spec.units
                )
        elif spec.kind == "boxes":
            self.lesions, self.lesion_map, self.lines = decode_lesions(
                outputs.boxes[spec.name],
                spec,
                image_geometry=grid,
                geometry=volume.geometry,
                uid_seed=uid_seed,
                label_map=None if self.label_map is None else self.label_map.array,
                plane=case.scale,
            )
        elif spec.kind == "global":
            self.image_classes = (*self.image_classes, *decode_global(outputs.global_[spec.name], spec))


def drawn_labels(spec: OutputSpec) -> tuple[Label, ...]:
    """The labels of a label map that are not its background."""
    return tuple(label for label in spec.labels if label.value != spec.background)


def _deep(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """``(C, i, j)`` of a 2D image as one slice; a volume as it is."""
    return array[..., None] if array.ndim == 3 else array
