"""All files of one study, in an order that makes ``findings.json`` the sign of a complete folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from mtnet.results.derived import DicomOutcome
from mtnet.results.dicom_capture import write_dicom_capture
from mtnet.results.dicom_report import write_dicom_report
from mtnet.results.dicom_seg import SegOutcome, write_dicom_seg
from mtnet.results.findings_json import NO_DICOM, DicomOutcomes, write_findings_json
from mtnet.results.image_overlay import write_image_overlay
from mtnet.results.image_seg import write_image_seg
from mtnet.results.nifti import write_lesions_nifti, write_reconstruction_nifti, write_segmentation_nifti
from mtnet.results.overlay import write_overlay
from mtnet.results.page import PageFrames, may_show_text, write_page
from mtnet.results.plane_files import write_mask, write_redrawn
from mtnet.results.segmentation import SegKind, check_seg_kind
from mtnet.structures import Findings, StageCost, Volume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

FINDINGS = "findings.json"
# Every name that a run may write. The first is removed first, so that what it lists is never half replaced.
RESULT_FILES = (
    FINDINGS,
    "segmentation.nii.gz",
    "lesions.nii.gz",
    "reconstruction.nii.gz",
    "segmentation.dcm",
    "report.dcm",
    "overlay.png",
    "overlay.dcm",
)
# Where it is asked for.
PAGE = "report.html"
# Further ones of images and clips.
PLANE_FILES = (
    "segmentation.png",
    "segmentation.tif",
    "lesions.png",
    "lesions.tif",
    "reconstruction.png",
    "reconstruction.tif",
    "frames.jsonl",
    "overlay.mp4",
)


class Meter(Protocol):
    """Measures stages of a run, as ``mtnet.inference.cost.CostMeter`` does."""

    @property
    def costs(self) -> list[StageCost]:
        """What has been measured."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Measure a block."""


@dataclass(frozen=True, slots=True)
class Written:
    """What was written.

    Args:
        findings: the findings with what the writers noticed in their report, as ``findings.json`` has them.
        files: the files, ``findings.json`` last.
        dicom: what became of the DICOM objects.
    """

    findings: Findings
    files: tuple[Path, ...]
    dicom: DicomOutcomes


def write_results(
    findings: Findings,
    volume: Volume | None,
    folder: Path,
    *,
    dicom_seg: SegKind | None = "binary",
    dicom_report: bool = True,
    overlay: bool = True,
    dicom_capture: bool = True,
    image: Dataset | None = None,
    pictures: NDArray[np.uint8] | None = None,
    frames: Mapping[int, NDArray[np.generic]] | None = None,
    made: Mapping[str, Path] | None = None,
    page: bool | PageFrames = False,
    meter: Meter | None = None,
) -> Written:
    """Write everything that the findings hold into a folder, which is made where it is missing.

    What an earlier run left under the same names is removed first, its ``findings.json`` before all, so files of two
    runs never stand side by side; other files are left alone. ``findings.json`` is written last: where it is, the files
    that it lists are whole, and it says of every DICOM object that is not there why. A run that is killed leaves at
    most temporary files, whose names start with a dot; the next run removes them.

    Args:
        findings: what to write. Maps that are None make no file.
        volume: the image on the grid of the findings, for the overlay; without it there is none.
        folder: one study's folder.
        dicom_seg: kind of DICOM SEG, or None for none.
        dicom_report, overlay, dicom_capture: whether to write these; the capture shows the overlay, so there is none
            without it or ``pictures``.
        image: for findings on the pixels of one image or clip (``write_image_seg``), its data set.
        pictures: ``(n, rows, columns, 3)`` uint8 for the capture, in the place of the overlay.
        frames: of a clip, the frames ``(C, i, j)`` by number that the overlay shows.
        made: name in the folder to a file on the same file system that was made before, such as what was written
            while a clip was read; it is moved there.
        page: whether to write ``report.html``, which needs ``volume``; of a clip, the frames that it shows.
        meter: measures the writing; what it has measured so far becomes the costs of the findings.

    Raises:
        ValueError: the findings cannot be written (a number that is not finite, an image on another grid).
        OSError: the folder cannot be made or written.
    """
    folder = Path(folder)
    if dicom_seg is not None:
        check_seg_kind(dicom_seg)
    folder.mkdir(parents=True, exist_ok=True)
    clear_results(folder)
    writer = _Writer(findings, folder, image)
    with nullcontext() if meter is None else meter.stage("write"):
        if findings.plane is None:
            writer.volumes()
        else:
            writer.planes(volume)
        writer.take(made or {})
        if dicom_seg is not None:
            writer.segmentation(dicom_seg)
        if dicom_report:
            writer.report()
        if overlay and findings.plane is not None:
            shown = {0: volume.array[..., 0]} if volume is not None else frames
            if shown:
                writer.image_overlay(shown)
        elif overlay and volume is not None:
            writer.overlay(volume)
        if dicom_capture:
            writer.capture(pictures)
        if page is not False:
            writer.page(volume, page)
    findings = writer.findings
    if meter is not None:
        findings = replace(findings, costs=tuple(meter.costs))
    dicom = DicomOutcomes(writer.seg, writer.sr, writer.sc)
    write_findings_json(findings, folder / FINDINGS, dicom=dicom, files=writer.files)
    return Written(findings, tuple(folder / name for name in (*writer.files, FINDINGS)), dicom)


# What pydicom and highdicom raise on headers that they cannot take; such a source keeps its other results.
_BAD_HEADER = (ValueError, TypeError, AttributeError, LookupError, NotImplementedError)


def _why(error: Exception) -> str:
    """Why an object could not be made, without the message: it may quote the source."""
    import traceback

    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"it cannot be made from the headers of the source ({type(error).__name__} in {place.name})"


class _Writer:
    """Writes every file but ``findings.json``, and gathers what is to be told of them.

    ``findings`` have what was noticed in their report, ``files`` the SHA-256 by name; ``seg``, ``sr`` and ``sc`` are
    the outcomes of the DICOM objects.
    """

    def __init__(self, findings: Findings, folder: Path, image: Dataset | None) -> None:
        self.findings = findings
        self._image = image
        self.files: dict[str, str] = {}
        self.seg, self.sr, self.sc = NO_DICOM.seg, NO_DICOM.report, NO_DICOM.capture
        self._folder = folder

    def volumes(self) -> None:
        """The NIfTI files of the maps that there are."""
        if self.findings.label_map is not None:
            self._put("segmentation.nii.gz", write_segmentation_nifti)
        if self.findings.lesion_map is not None:
            self._put("lesions.nii.gz", write_lesions_nifti)
        if self.findings.reconstruction is not None:
            self._put("reconstruction.nii.gz", write_reconstruction_nifti)

    def planes(self, volume: Volume | None) -> None:
        """The masks and the redrawn image on the pixels of an image or clip."""
        findings = self.findings
        if findings.label_map is not None:
            self._add(write_mask(findings.label_map, self._folder, "segmentation"))
        if findings.lesion_map is not None:
            self._add(write_mask(findings.lesion_map, self._folder, "lesions"))
        if findings.reconstruction is not None:
            source_type = None if volume is None else volume.array.dtype
            self._add(write_redrawn(findings.reconstruction, source_type, self._folder, "reconstruction"))

    def take(self, made: Mapping[str, Path]) -> None:
        """Move files that were made before into the folder."""
        for name, path in made.items():
            path.replace(self._folder / name)
            self._add(self._folder / name)

    def segmentation(self, kind: SegKind) -> None:
        """The DICOM SEG."""
        try:
            path = self._folder / "segmentation.dcm"
            if self._image is None:
                self.seg = write_dicom_seg(self.findings, path, kind=kind)
            else:
                self.seg = write_image_seg(self.findings, self._image, path, kind=kind)
        except _BAD_HEADER as error:
            self.seg = SegOutcome(False, _why(error))
        self._told("segmentation.dcm", self.seg)

    def report(self) -> None:
        """The DICOM SR, after the SEG that it refers to."""
        try:
            self.sr = write_dicom_report(self.findings, self._folder / "report.dcm", seg=self.seg, image=self._image)
        except _BAD_HEADER as error:
            self.sr = DicomOutcome(False, _why(error))
        self._told("report.dcm", self.sr)

    def overlay(self, volume: Volume) -> None:
        """The picture."""
        self._put("overlay.png", lambda findings, path: write_overlay(findings, volume, path))

    def image_overlay(self, frames: Mapping[int, NDArray[np.generic]]) -> None:
        """The picture of an image or clip."""
        self._put("overlay.png", lambda findings, path: write_image_overlay(findings, frames, path))

    def capture(self, pictures: NDArray[np.uint8] | None) -> None:
        """The pictures, or the overlay once more, as Secondary Capture."""
        if pictures is None and "overlay.png" not in self.files:
            self.sc = DicomOutcome(False, "there is no overlay to show")
            return
        shown = self._read_overlay() if pictures is None else pictures
        try:
            self.sc = write_dicom_capture(self.findings, shown, self._folder / "overlay.dcm", image=self._image)
        except _BAD_HEADER as error:
            self.sc = DicomOutcome(False, _why(error))
        self._told("overlay.dcm", self.sc)

    def page(self, volume: Volume | None, page: bool | PageFrames) -> None:
        """The page, whose report has all that the other writers noticed."""
        frames = page if isinstance(page, PageFrames) else None
        if frames is None and volume is not None and self.findings.plane is not None:
            frames = PageFrames.of_image(volume.array[..., 0], self.findings)
        if frames is None and volume is None:
            return
        text = may_show_text(self.findings, self._image)
        shown = volume if frames is None else None
        self._put(PAGE, lambda found, path: write_page(found, path, volume=shown, frames=frames, may_show_text=text))

    def _read_overlay(self) -> NDArray[np.uint8]:
        from PIL import Image

        with Image.open(self._folder / "overlay.png") as picture:
            return np.asarray(picture.convert("RGB"), dtype=np.uint8)[None]

    def _put(self, name: str, write: Callable[[Findings, Path], None]) -> None:
        write(self.findings, self._folder / name)
        self.files[name] = _sha256(self._folder / name)

    def _add(self, path: Path) -> None:
        self.files[path.name] = _sha256(path)

    def _told(self, name: str, outcome: SegOutcome | DicomOutcome) -> None:
        """Add a DICOM file that was written, and what was noticed; what was told before is not told again."""
        if outcome.written:
            self.files[name] = _sha256(self._folder / name)
        report = self.findings.report
        new = tuple(line for line in outcome.lines if line not in report.lines)
        self.findings = replace(self.findings, report=report.plus(new))


def clear_results(folder: Path) -> None:
    """Remove what a run wrote there, ``findings.json`` first, and temporary files that a killed run left.

    Other files are left alone; nothing is done where there is no such folder.
    """
    if not folder.is_dir():
        return
    names = (*RESULT_FILES, *PLANE_FILES, PAGE)
    for name in names:
        (folder / name).unlink(missing_ok=True)
    parts = (name.partition(".") for name in names)
    left = re.compile(
        "|".join(rf"\.{re.escape(stem)}\.tmp-[0-9a-f]+{re.escape(dot + suffix)}" for stem, dot, suffix in parts)
    )
    for path in folder.iterdir():
        if left.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
