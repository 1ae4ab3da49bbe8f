"""Our own MONAI Label app: one loaded network, one pass, every task a model, and strategies that use its scores.

``python -m mtnet.hosts.label.start --app mtnet`` starts it. Runs in MONAI Label's environment only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random

from mtnet import __version__
from mtnet.bundle import Bundle
from mtnet.hosts.dicomweb import DicomWeb
from mtnet.hosts.label.active import FeatureFiles, FindingsScoring, HighestFirst, UnlikeLabelled, record
from mtnet.hosts.label.answerer import Answerer
from mtnet.hosts.label.dicom_store import DicomWebStore
from mtnet.hosts.label.label_files import map_labels
from mtnet.hosts.label.side_file import SIDE, read_side_file
from mtnet.hosts.label.signals import redraws, tells_disagreement
from mtnet.hosts.label.tasks import TaskOfNetwork, tasks_of, told_to_client
from mtnet.hosts.label.trainer import SideFileTraining


class LabelApp(MONAILabelApp):  # type: ignore[misc]  # MONAI Label is not typed
    """The app. MONAI Label makes it again in a process of its own for each training and scoring in the background, so
    the network is loaded only when it is first asked.

    Args:
        app_dir: workspace, with the bundle's copy in ``model/<name>``.
        studies: folder of images, or address of an archive's DICOMweb services.
        conf: ``models`` names the bundle.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        self.studies = studies
        self.bundle_name = conf["models"]
        self.bundle = Path(app_dir) / "model" / self.bundle_name
        self.answerer = Answerer(self.bundle)
        self.features = FeatureFiles(Path(app_dir) / "features")
        metadata = Bundle.read(self.bundle).metadata
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=dict(conf),
            name=f"mtnet {__version__}: {self.bundle_name}",
            description=str(metadata.get("description", "")),
            version=str(metadata["version"]),
        )

    def init_datastore(self) -> Datastore:
        """A folder as MONAI Label keeps it; an archive as ``DicomWebStore``."""
        if not self.studies.startswith(("http://", "https://")):
            return super().init_datastore()
        self.studies = self.studies.rstrip("/")
        domain = self.answerer.domain
        folder = Path(self.app_dir) / "archive" / _folder_name(self.studies)
        folder.mkdir(parents=True, exist_ok=True)
        return DicomWebStore(
            self.studies, folder, domain.modalities if domain else (), map_labels(self.answerer.outputs)
        )

    def init_infers(self) -> dict[str, InferTask]:
        """A model a task."""
        return dict(tasks_of(self.bundle_name, self.answerer))

    def init_trainers(self) -> dict[str, TrainTask]:
        """The bundle's own training, of all tasks together."""
        return {self.bundle_name: SideFileTraining(self.bundle, self.answerer.outputs, self.conf)}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """One, which has the network answer what it has not answered."""
        return {self.bundle_name: FindingsScoring(self.answerer, self.features)}

    def init_strategies(self) -> dict[str, Strategy]:
        """Those that this network has something to tell for, and MONAI Label's own two."""
        specs = self.answerer.outputs
        found: dict[str, Strategy] = {
            "uncertainty": HighestFirst(self.answerer, "uncertainty", "Least sure over all tasks")
        }
        if tells_disagreement(specs):
            told = "Tasks contradict each other: on whether there is a lesion, where, or of which kind"
            found["disagreement"] = HighestFirst(self.answerer, "disagreement", told)
        if self.answerer.calibrated or redraws(specs):
            told = "Unlike what the network was trained for, by its calibration or else by how badly it is redrawn"
            found["unlike_training"] = HighestFirst(self.answerer, "unlike_training", told)
        found["unlike_labelled"] = UnlikeLabelled(self.answerer, self.features)
        return {**found, "random": Random(), "first": First()}

    def infer(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Answer, and note the scores of an image of the datastore: an image that was looked at needs no scoring."""
        result: dict[str, Any] = super().infer(dict(request), datastore)
        image, store = request.get("image"), datastore or self.datastore()
        task = self._infers.get(request.get("model"))
        plain = not any(request.get(key) for key in ("at_lps_mm", "strict", "repair", "allow_outside"))
        if isinstance(task, TaskOfNetwork) and plain and isinstance(image, str) and store.get_image_info(image):
            path = Path(store.get_image_uri(image))
            record(store, image, self.answerer.answer(path, task.device(request)), self.features)
        return result

    def on_save_label(self, image_id: str, label_id: str) -> None:
        """Refuse a side file that training could not use while whoever wrote it is still there.

        Raises:
            HTTPException: it is not right; it is removed again, and the detail says why.
        """
        super().on_save_label(image_id, label_id)
        label = Path(self.datastore().get_label_uri(label_id, DefaultLabelTag.FINAL))
        if label.name.endswith(SIDE):
            try:
                with told_to_client():
                    read_side_file(label, Path(self.datastore().get_image_uri(image_id)), self.answerer.outputs)
            except HTTPException:
                self.datastore().remove_label(label_id, DefaultLabelTag.FINAL)
                # A watched datastore waits for its watcher, which looks at no side files.
                self.datastore().refresh()
                raise


def _folder_name(url: str) -> str:
    """What a folder for an archive is called: host, port and path of its address."""
    told = DicomWeb(url).url.split("://", 1)[1]
    return "".join(char if char.isalnum() or char in "-." else "_" for char in told)
