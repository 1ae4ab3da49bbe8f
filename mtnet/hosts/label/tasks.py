"""What a client can pick: each task of the network as a model of its own, all of them of one pass.

Runs in MONAI Label's environment only.
"""

from __future__ import annotations

import os
import tempfile
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.utils.others.generic import name_to_device

from mtnet.bundle import BundleError
from mtnet.hosts.answers import TOLD
from mtnet.hosts.label.answerer import Answered, Answerer
from mtnet.hosts.label.label_files import label_extension, map_labels, write_label_map, write_redrawn_image
from mtnet.hosts.label.markups import write_markups
from mtnet.results import findings_to_dict
from mtnet.structures import Findings, RefusedError

Result = tuple[str | None, dict[str, Any]]


@contextmanager
def told_to_client() -> Iterator[None]:
    """Give a client the reason of what it asked for and cannot have: MONAI Label tells it of no other error."""
    try:
        yield
    except RefusedError as refused:
        raise HTTPException(422, str(refused)) from None
    except (BundleError, ValueError, FileNotFoundError) as error:
        raise HTTPException(422, str(error)) from None


class TaskOfNetwork(InferTask):  # type: ignore[misc]  # MONAI Label is not typed
    """One task. Whichever is asked for first has the network run; the others take what it said.

    The JSON holds what ``mtnet infer`` says in ``findings.json``, whatever the task: labels, lesions, image classes,
    measured values and the report. Of a client's params count ``device``, ``result_extension``, and those of
    ``Answerer.answer``.

    Args:
        answerer: that all tasks of the network share.
        kind: MONAI Label's word for the task.
        description: for people.
    """

    def __init__(self, answerer: Answerer, kind: InferType, description: str) -> None:
        labels = {label.name: label.value for label in map_labels(answerer.outputs)}
        super().__init__(kind, labels, answerer.spatial_dims, description)
        self.answerer = answerer

    def is_valid(self) -> bool:
        """Whether clients are shown it: always."""
        return True

    def get_path(self, validate: bool = True) -> str:
        """The weights, which MONAI Label lets a client fetch."""
        return str(self.answerer.bundle / "models" / "model.pt")

    def __call__(self, request: Mapping[str, Any]) -> Result:
        """File and JSON for a client.

        Raises:
            HTTPException: the image is refused, or what was asked for is not there; its detail says why.
        """
        start = time.perf_counter()
        image = Path(str(request["image"]))
        with told_to_client():
            before = self.answerer.passes
            answered = self.answerer.answer(image, self.device(request), request)
            ran = self.answerer.passes > before
            document = findings_to_dict(answered.findings)
            told = {name: document[name] for name in TOLD if name in document}
            file, own = self.shown(answered, image, request)
        costs = {cost.stage: round(cost.seconds, 3) for cost in answered.findings.costs} if ran else {}
        latencies = {**costs, "total": round(time.perf_counter() - start, 3)}
        return file, {**told, **own, "label_names": self.labels, "centroids": {}, "latencies": latencies}

    def device(self, request: Mapping[str, Any]) -> str:
        """Where a request is answered: where it says, else on CUDA where there is some."""
        return str(name_to_device(request.get("device")))

    @abstractmethod
    def shown(self, answered: Answered, image: Path, request: Mapping[str, Any]) -> Result:
        """File of the task and what its JSON adds."""


class SegmentationTask(TaskOfNetwork):
    """The label map on the image's own voxels, or with ``result_extension`` ``.dcm`` the lesions as DICOM SEG."""

    def __init__(self, answerer: Answerer) -> None:
        super().__init__(answerer, InferType.SEGMENTATION, "Label map on the image's voxels, with all answers as JSON")

    def shown(self, answered: Answered, image: Path, request: Mapping[str, Any]) -> Result:
        """The file, or in ``no_file`` why there is none."""
        end = label_extension(answered.findings, image, request.get("result_extension"))
        path = _new_file(end)
        why = write_label_map(answered, path)
        return (None, {"no_file": why}) if why else (str(path), {})


class BoxesTask(TaskOfNetwork):
    """The boxes of all lesions as 3D Slicer's markups, in LPS mm."""

    def __init__(self, answerer: Answerer) -> None:
        super().__init__(answerer, InferType.DETECTION, "Boxes as 3D Slicer markups (ROI, LPS mm), with all answers")

    def shown(self, answered: Answered, image: Path, request: Mapping[str, Any]) -> Result:
        """The markups; an empty list where there are no lesions."""
        path = _new_file(".json")
        write_markups(answered.findings, path)
        return str(path), {"coordinate_system": "LPS", "coordinate_units": _units(answered.findings)}


class ClassificationTask(TaskOfNetwork):
    """The classes of the image, or of a network of points those of its places, by falling probability."""

    def __init__(self, answerer: Answerer) -> None:
        super().__init__(answerer, InferType.CLASSIFICATION, "Classes with their probabilities, with all answers")

    def shown(self, answered: Answered, image: Path, request: Mapping[str, Any]) -> Result:
        """No file; ``prediction`` as MONAI Label's own classification has it."""
        found = answered.findings
        rows = [(one.name, one.probability) for one in found.image_classes]
        if not rows:
            rows = [row for one in found.lesions for p in one.class_probabilities.values() for row in p.items()]
        listed = [{"idx": n, "label": name, "score": float(score)} for n, (name, score) in enumerate(rows)]
        return None, {"prediction": sorted(listed, key=lambda row: -float(str(row["score"])))}


class ReconstructionTask(TaskOfNetwork):
    """The image as the network redraws it."""

    def __init__(self, answerer: Answerer) -> None:
        super().__init__(answerer, InferType.OTHERS, "The image as the network redraws it, with all answers")

    def shown(self, answered: Answered, image: Path, request: Mapping[str, Any]) -> Result:
        """The redrawn image in the input's units, and how far it is from the image."""
        place = _new_file(".nii.gz")
        path = write_redrawn_image(answered, place.parent, place.name.partition(".")[0])
        if path is not None and path != place:
            place.unlink()
        return None if path is None else str(path), {
            "reconstruction_error": dict(answered.findings.reconstruction_error)
        }


def tasks_of(name: str, answerer: Answerer) -> dict[str, TaskOfNetwork]:
    """The tasks of a network by the name that a client picks: ``<bundle>_segmentation`` and so on."""
    specs = answerer.outputs
    points = all(spec.kind == "global" for spec in specs)
    found: dict[str, TaskOfNetwork] = {}
    if points or any(spec.kind == "dense" and spec.labels for spec in specs):
        found[f"{name}_segmentation"] = SegmentationTask(answerer)
    found[f"{name}_boxes"] = BoxesTask(answerer)
    if any(spec.kind == "global" and spec.labels for spec in specs):
        found[f"{name}_classification"] = ClassificationTask(answerer)
    if any(spec.kind == "dense" and not spec.labels for spec in specs):
        found[f"{name}_reconstruction"] = ReconstructionTask(answerer)
    return found


def _units(findings: Findings) -> str:
    return "pixels" if findings.plane is not None and findings.plane.spacing_mm is None else "mm"


def _new_file(end: str) -> Path:
    """An empty file of our own; MONAI Label removes it once it is sent."""
    handle, name = tempfile.mkstemp(suffix=end)
    os.close(handle)
    return Path(name)
