"""What a network said of one image, as hosts show it: a label map, and the rest in the words of ``findings.json``."""

from __future__ import annotations

import json
import sys
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey, MetaKeys
from torch import Tensor

from mtnet.cases import Case
from mtnet.decoded import Decoded, Seen, decode_all
from mtnet.hosts.input_check import HostInputCheck
from mtnet.inference.cost import NoMeter
from mtnet.inference.inferer import PROBABILITIES, UNDER_DROPOUT, grid_from_ras, source_grid
from mtnet.inference.plan import DenseOutput, Detections, Outputs
from mtnet.inference.plane import PlaneScale
from mtnet.inference.point_lesions import lesions_at
from mtnet.nets import MultiTaskNet
from mtnet.results import findings_to_dict
from mtnet.structures import (
    Findings,
    Geometry,
    InputReport,
    ModelInfo,
    OutputSpec,
    Plane,
    Point,
    RefusedError,
    ReportLine,
    Source,
    Volume,
)
from mtnet.transforms import AT

TOLD = ("labels", "lesions", "image_classes", "measured", "extras", "report")
"""Keys of ``findings.json`` that an answer holds."""
RESULT = "result"
"""Key whose entries MONAI Label sends as JSON beside the label map."""
ALLOW_OUTSIDE = "allow_outside"
"""Key that a client sets to have an image answered that lies outside of the bundle's input domain, and flagged."""

_EXTENSION = "result_extension"
_NO_LABEL_FILES = (".jpg", ".jpeg", ".bmp")


class HostAnswersd(MapTransform):  # type: ignore[misc]  # MONAI is not typed
    """Turn the dict of answers of a ``MultiTaskInferer(dense="source")`` into what hosts show.

    - The key itself becomes the label map on the grid that the image was loaded on, uint8: ``(1, i, j, k)``, or of a 2D
      image ``(i, j)``, which is what MONAI Label's writer takes. A network of points gives the balls that it measured.
    - ``result`` gets lesions (with box and centre in mm, classes and measures), image classes, measured values and the
      report on the input, as ``findings.json`` has them. A redrawn image is left out.
    - An image outside of the bundle's input domain is refused or flagged, as ``mtnet infer`` does.
    - Where the image's own kind of file cannot hold labels (JPEG), MONAI Label is told to write a PNG.
    - Of a network that is scored under dropout the key becomes probabilities, one channel a class, whose entropy MONAI
      Label takes: those of a mask of one class with those of its background, those of image classes at every voxel.

    Args:
        keys: where the dict of answers lies, usually ``pred``.
        network: whose answers they are; what it says of its outputs is all that is used.
        image: key of the image as the network saw it, with the metadata of ``LoadImageStudyd``.
        bundle: name of the bundle whose input domain the image is held against; without it nothing is.
    """

    def __init__(
        self, network: MultiTaskNet, keys: KeysCollection = "pred", image: str = "image", bundle: str | None = None
    ) -> None:
        super().__init__(keys)
        self.outputs: tuple[OutputSpec, ...] = tuple(network.outputs)
        self.image = image
        self.check = None if bundle is None else HostInputCheck(bundle)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the label map and what else was found.

        Raises:
            ValueError: the image's metadata do not tell the grid that it was loaded on.
            RefusedError: the image lies outside of the bundle's input domain; in MONAI Label an ``HTTPException``, of
                which its clients are shown the detail.
        """
        shown = dict(data)
        image: MetaTensor = shown[self.image]
        source = source_grid(image)
        if source is None:
            raise ValueError(
                "The metadata of the image do not tell its original affine and size; load it with "
                "mtnet.io.loader.LoadImageStudyd or MONAI's LoadImaged."
            )
        for key in self.key_iterator(shown):
            answers: Mapping[str, Tensor] = shown[key]
            if UNDER_DROPOUT in answers:
                shown[key] = self._probabilities(answers, source)
                continue
            noticed = self._checked(image, allow_outside=bool(data.get(ALLOW_OUTSIDE)))
            findings = self._findings(answers, image, source, data.get(AT), noticed)
            document = findings_to_dict(findings)
            shown[RESULT] = {**shown.get(RESULT, {}), **{name: document[name] for name in TOLD if name in document}}
            if findings.label_map is not None:
                flat = findings.plane is not None
                array = findings.label_map.array[0, ..., 0] if flat else findings.label_map.array
                affine = torch.as_tensor(np.array(image.meta[MetaKeys.ORIGINAL_AFFINE], np.float64))
                shown[key] = MetaTensor(torch.from_numpy(np.ascontiguousarray(array)), affine=affine)
                name = str(image.meta.get(ImageMetaKey.FILENAME_OR_OBJ, "")).lower()
                if not shown.get(_EXTENSION) and name.endswith(_NO_LABEL_FILES):
                    shown[_EXTENSION] = ".png"
        return shown

    def _checked(self, image: MetaTensor, *, allow_outside: bool) -> tuple[ReportLine, ...]:
        """What the input domain has to say of the image."""
        if self.check is None:
            return ()
        try:
            return self.check(Path(str(image.meta[ImageMetaKey.FILENAME_OR_OBJ])), allow_outside=allow_outside)
        except RefusedError as refused:
            raise _for_client(refused) from None

    def _findings(
        self,
        answers: Mapping[str, Tensor],
        image: MetaTensor,
        source: Geometry,
        at_lps_mm: Sequence[float] | None,
        noticed: Sequence[ReportLine],
    ) -> Findings:
        flat = len(image.meta[MetaKeys.SPATIAL_SHAPE]) == 2
        name = str(
            image.meta.get("series_instance_uid") or Path(str(image.meta.get(ImageMetaKey.FILENAME_OR_OBJ))).name
        )
        if all(spec.kind == "global" for spec in self.outputs):
            made = self._at_place(answers, source, at_lps_mm, name)
        else:
            made = self._of_image(answers, image, source, name, flat)
        report = [ReportLine(**line) for line in json.loads(image.meta.get("input_report") or "[]")]
        return Findings(
            geometry=source,
            source=Source(),
            model=ModelInfo("", "", "", ""),
            lesions=made.lesions,
            image_classes=made.image_classes,
            labels=made.labels,
            label_map=made.label_map,
            measured=made.measured,
            extras=made.extras,
            report=InputReport(tuple(report)).plus((*noticed, *made.lines)),
            plane=Plane(_pixel_spacing_mm(image)) if flat else None,
        )

    def _of_image(
        self, answers: Mapping[str, Tensor], image: MetaTensor, source: Geometry, name: str, flat: bool
    ) -> Decoded:
        specs = [spec for spec in self.outputs if spec.kind != "dense" or spec.labels]
        boxes = any(spec.kind == "boxes" for spec in specs)
        # The decoders want the grid of the image and not its values, which hosts keep only as the network saw them.
        values = np.broadcast_to(np.float32(0), (1, *source.shape))
        case = Case(
            Volume(values, source, str(image.meta.get("modality", ""))),
            Source(),
            NoMeter(),
            scale=PlaneScale(0, _pixel_spacing_mm(image)) if flat else None,
        )
        grid = grid_from_ras(image.shape[1:], image.affine.cpu().numpy())
        seen = Seen(case, _outputs(answers, specs), grid, name, masks_tell_lesions=flat and not boxes)
        return decode_all(specs, seen)

    def _at_place(
        self, answers: Mapping[str, Tensor], source: Geometry, at_lps_mm: Sequence[float] | None, name: str
    ) -> Decoded:
        middle = source.index_to_lps_mm((np.array(source.shape) - 1) / 2)
        x, y, z = (float(value) for value in (middle if at_lps_mm is None else at_lps_mm))
        said = {spec.name: answers[spec.name].cpu().numpy() for spec in self.outputs}
        found = lesions_at([Point((x, y, z))], [said], self.outputs, source, name)
        return Decoded(
            lesions=found.lesions,
            lesion_map=found.lesion_map,
            label_map=found.label_map,
            labels=found.labels,
            lines=found.lines,
        )

    def _probabilities(self, answers: Mapping[str, Tensor], source: Geometry) -> MetaTensor:
        spec = next(spec for spec in self.outputs if spec.labels)
        values = answers[spec.name].cpu().float()
        if spec.activation == "sigmoid" and len(values) == 1:
            values = torch.cat([1 - values, values])
        everywhere = values if spec.kind == "dense" else values.reshape(-1, 1, 1, 1).expand(-1, *source.shape)
        # MONAI Label sums it with numpy, which a plain tensor does not take.
        return MetaTensor(everywhere)


def _for_client(refused: RefusedError) -> Exception:
    """MONAI Label sends its clients the detail of a FastAPI error, and of any other none of its words."""
    if "monailabel" not in sys.modules:
        return refused
    from fastapi import HTTPException

    error: Exception = HTTPException(422, str(refused))
    return error


def _outputs(answers: Mapping[str, Tensor], specs: Sequence[OutputSpec]) -> Outputs:
    """Tensors of one item, as ``MultiTaskInferer`` made them, as the engine gave them."""
    dense, boxes, pooled, extras = {}, {}, {}, {}
    for spec in specs:
        tensor = answers[spec.name].cpu()
        if spec.kind == "dense":
            kept = answers.get(f"{spec.name}{PROBABILITIES}")
            dense[spec.name] = DenseOutput(tensor.numpy(), None if kept is None else kept.cpu().numpy())
        elif spec.kind == "boxes":
            boxes[spec.name] = _detections(tensor, spec)
        elif spec.kind == "global":
            pooled[spec.name] = tensor
        else:
            extras[spec.name] = tensor
    return Outputs(dense, boxes, pooled, extras=extras)


def _detections(rows: Tensor, spec: OutputSpec) -> Detections:
    """Rows of ``MultiTaskInferer`` that are valid, as detections."""
    widths = [channel.channels for channel in spec.lesion_channels]
    sides = rows.shape[1] - 3 - sum(widths)
    rows = rows[rows[:, sides + 2] > 0]
    lesion = torch.split(rows[:, sides + 3 :], widths, dim=1)
    return Detections(
        box_index=rows[:, :sides],
        score=rows[:, sides],
        label=rows[:, sides + 1].long(),
        lesion={channel.name: part for channel, part in zip(spec.lesion_channels, lesion, strict=True)},
    )


def _pixel_spacing_mm(image: MetaTensor) -> tuple[float, float] | None:
    """Of a 2D image, where it was told."""
    told = json.loads(image.meta.get("spacing_mm") or "null")
    return None if told is None else (float(told[0]), float(told[1]))
