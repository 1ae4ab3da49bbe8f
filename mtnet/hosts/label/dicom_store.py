"""An archive as MONAI Label's datastore: series over DICOMweb, read by our loader; labels back as DICOM SEG.

MONAI Label's own store hands series to a converter that checks nothing (``docs/scoreboard.md``), and makes SEGs with a
program that it downloads. Runs in MONAI Label's environment only.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import HTTPException
from monailabel.config import settings
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore
from monailabel.interfaces.datastore import DefaultLabelTag

from mtnet.hosts.dicomweb import DicomWeb, DicomWebError, check_uid
from mtnet.hosts.label.drawn_seg import source_of, write_drawn_seg
from mtnet.hosts.label.label_files import SEG
from mtnet.hosts.label.side_file import SIDE
from mtnet.hosts.label.tasks import told_to_client
from mtnet.io.image_files import load_image_file
from mtnet.io.nifti_out import write_nifti
from mtnet.io.read import read_volume
from mtnet.structures import Label, Volume

LISTED_FOR_S = 60.0
"""How long the list of series is taken to be true: each request for the app's info asks for it."""
RAW = ".bin"
"""What OHIF sends: the voxels alone, uint8, in the order of the series that it shows."""


class DicomWebStore(LocalDatastore):  # type: ignore[misc]  # MONAI Label is not typed
    """Series of one archive as images, by their UIDs; fetched when they are first needed, kept in ``folder``.

    Labels, side files and scores lie in ``folder`` as in a datastore of files. An image counts as labelled when its
    final label was saved here. A label map that is saved as final is also stored in the archive, as DICOM SEG, before
    it counts as saved; so is a SEG that the network's answer was asked for as.

    Args:
        url: of the archive's DICOMweb services; credentials as ``DicomWeb`` takes them.
        folder: of this datastore.
        modalities: of the series that are listed; all where it is empty.
        labels: by value in a label map.
    """

    def __init__(self, url: str, folder: Path, modalities: Sequence[str], labels: Sequence[Label]) -> None:
        self.archive = DicomWeb(url)
        self.modalities = tuple(modalities)
        self.labels = tuple(labels)
        self._studies: dict[str, str] = {}
        self._listed_at = float("-inf")
        self._asking = threading.RLock()
        super().__init__(
            str(folder),
            extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
        )

    def name(self) -> str:
        """Address of the archive."""
        return self.archive.url

    def list_images(self) -> list[str]:
        """UIDs of the series.

        Raises:
            HTTPException: the archive cannot be asked.
        """
        with self._asking:
            if time.monotonic() - self._listed_at > LISTED_FOR_S:
                self._studies = self._series()
                self._listed_at = time.monotonic()
            return list(self._studies)

    def get_unlabeled_images(self, label_tag: str | None = None, labels: Sequence[str] | None = None) -> list[str]:
        """UIDs of the series without a final label."""
        done = set(self.get_labeled_images())
        return [uid for uid in self.list_images() if uid not in done]

    def get_image_uri(self, image_id: str) -> str:
        """Folder of the series' files; they are fetched where they are not there.

        Raises:
            HTTPException: there is no such series, or the archive cannot be asked.
        """
        with self._asking:
            uid = self._known(image_id)
            folder = Path(self._datastore.image_path()).resolve() / uid
            if not folder.is_dir():
                with _from_archive():
                    self.archive.fetch_series(self._studies[uid], uid, folder)
            if uid not in self._datastore.objects:
                info = {"ts": int(time.time()), "name": uid, "StudyInstanceUID": self._studies[uid]}
                self._datastore.objects[uid] = ImageLabelModel(image=DataModel(info=info, ext=""))
                self._update_datastore_file()
            return str(folder)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Keep a label; one that is final goes into the archive as DICOM SEG first.

        The SEG's UIDs are added to ``label_info``. A side file (``.json``) has no masks and stays here.

        Raises:
            HTTPException: the label map is not right, or the archive does not take it; nothing is kept then.
        """
        folder = Path(self.get_image_uri(image_id))
        info = dict(label_info or {})
        with tempfile.TemporaryDirectory() as work, told_to_client():
            label = self._readable(Path(label_filename), folder, Path(work), info.get("label_info"))
            if label_tag == DefaultLabelTag.FINAL and not label.name.endswith(SIDE):
                info |= self._stored(label, folder, Path(work))
            kept: str = super().save_label(image_id, str(label), label_tag, info)
        return kept

    def _known(self, image_id: str) -> str:
        """The UID of a series that the archive holds, before it becomes part of a path."""
        try:
            uid = check_uid(image_id)
        except ValueError as error:
            raise HTTPException(404, str(error)) from None
        if uid not in self._studies:
            self._listed_at = float("-inf")
            self.list_images()
        if uid not in self._studies:
            raise HTTPException(404, f"{self.archive.url} lists no series {uid} of {' or '.join(self.modalities)}.")
        return uid

    def _series(self) -> dict[str, str]:
        """Series UID to study UID."""
        found: dict[str, str] = {}
        with _from_archive():
            for modality in self.modalities or ("",):
                query = {"ModalitiesInStudy": modality} if modality else {}
                for study in self.archive.find_studies(query):
                    of_series = {"Modality": modality} if modality else {}
                    found |= dict.fromkeys(self.archive.find_series(study, of_series), study)
        return found

    def _readable(self, label: Path, folder: Path, work: Path, told: Any) -> Path:
        """The label as a file that can be trained from, its values those of the bundle's labels."""
        if label.name.endswith((SEG, SIDE)):
            return label
        if label.name.endswith(RAW):
            image = read_volume(folder).volume
            values = np.fromfile(label, dtype=np.uint8)
            if values.size != np.prod(image.geometry.shape):
                raise ValueError(
                    f"The label has {values.size} voxels, the series {' x '.join(map(str, image.geometry.shape))}."
                )
            drawn = values.reshape(image.geometry.shape, order="F")
            label = work / "label.nii.gz"
            write_nifti(Volume(drawn[None], image.geometry, "SEG"), label)
        return _renumbered(label, told, self.labels, work)

    def _stored(self, label: Path, folder: Path, work: Path) -> dict[str, Any]:
        """Store the label in the archive, and tell what was stored."""
        path = work / "label.dcm"
        if label.name.endswith(SEG):
            shutil.copyfile(label, path)
            told: dict[str, Any] = {"segmentation": "as the network answered"}
        else:
            made = write_drawn_seg(label, source_of(folder), self.labels, path)
            if made is None:
                return {"segmentation": "none: nothing is drawn"}
            told = {
                "segmentation_series_uid": made.series_instance_uid,
                "segmentation_sop_uid": made.sop_instance_uid,
                "segments": list(made.segments),
            }
        with _from_archive():
            self.archive.store([path])
        return told


def _renumbered(label: Path, told: Any, labels: Sequence[Label], work: Path) -> Path:
    """The label map with the bundle's values, where a client numbers its segments itself.

    3D Slicer gives value 1 to the first segment of ``label_info``, 2 to the second, whatever they are called.
    """
    names = [str(one.get("name", "")) for one in told if isinstance(one, Mapping)] if isinstance(told, list) else []
    values = {one.name: one.value for one in labels}
    meant = {number: values.get(name) for number, name in enumerate(names, 1)}
    if not names or all(number == value for number, value in meant.items()):
        return label
    drawn = load_image_file(label)
    array = np.rint(drawn.array).astype(np.int64)
    found = [int(value) for value in np.unique(array) if value]
    unknown = [names[value - 1] if value <= len(names) else str(value) for value in found if meant.get(value) is None]
    if unknown:
        raise ValueError(f"The label map has {', '.join(unknown)}; this bundle's labels are {', '.join(values)}.")
    renumbered = np.zeros_like(array, dtype=np.uint8)
    for value in found:
        renumbered[array == value] = values[names[value - 1]]
    path = work / "renumbered.nii.gz"
    write_nifti(Volume(renumbered, drawn.geometry, "SEG"), path)
    return path


@contextmanager
def _from_archive() -> Iterator[None]:
    """Tell a client why the archive could not be asked."""
    try:
        yield
    except DicomWebError as error:
        raise HTTPException(502, str(error)) from None
