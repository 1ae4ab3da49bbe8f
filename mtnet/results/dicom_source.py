"""The DICOM objects that results are about: what a derived object has to say of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mtnet.structures import Findings, Instance

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


# CR, DX, mammography, intra-oral, CT, MR, ultrasound, secondary capture, endoscopy, microscopy, photography, PET:
# classes of one frame an object. Some objects hold more all the same.
_ONE_FRAME = {
    f"1.2.840.10008.5.1.4.1.1.{end}"
    for end in (
        "1",
        "1.1",
        "1.1.1",
        "1.2",
        "1.2.1",
        "1.3",
        "1.3.1",
        "2",
        "4",
        "6.1",
        "7",
        "77.1.1",
        "77.1.2",
        "77.1.3",
        "77.1.4",
        "128",
    )
}


@dataclass(frozen=True, slots=True, eq=False)
class DicomSource:
    """A series of slices, or one object that holds an image or a clip.

    Args:
        header: data set of the first object; its pixels are not needed.
        objects: SOP class and instance UID of every object that was looked at.
        study_uid, series_uid: where they belong.
        modality: of the first object.
        frames: frames of the one object; 1 for a series of single frames.
        planar: whether the grid of the findings is that of the object's pixels: column, row, frame.
        frame_of_reference_uid: of the first object, or empty.
        lossy: whether pixels were ever compressed with loss.
    """

    header: Dataset
    objects: tuple[tuple[str, str], ...]
    study_uid: str
    series_uid: str
    modality: str
    frames: int
    planar: bool
    frame_of_reference_uid: str
    lossy: bool

    @property
    def names_frames(self) -> bool:
        """Whether a reference may name frames: there are several, and the class of the object provides for them."""
        return self.frames > 1 and self.objects[0][0] not in _ONE_FRAME


def series_source(findings: Findings) -> DicomSource | None:
    """The slices that a volume's findings are about, or None where it is no DICOM; reads one header."""
    stack = findings.source.stack
    if stack is None or not stack.instances:
        return None
    first = stack.instances[0]
    header = read_header(first)
    return DicomSource(
        header,
        tuple(dict.fromkeys((i.sop_class_uid, i.sop_instance_uid) for i in stack.instances)),
        findings.source.study_instance_uid or str(header.StudyInstanceUID),
        findings.source.series_instance_uid or str(header.SeriesInstanceUID),
        first.modality,
        max(i.number_of_frames for i in stack.instances),
        False,
        first.frame_of_reference_uid or "",
        any(i.lossy for i in stack.instances),
    )


def image_source(image: Dataset, findings: Findings) -> DicomSource:
    """One image or clip: ultrasound, endoscopy, radiograph, secondary capture.

    Args:
        image: its data set; pixels are not needed.
        findings: on the grid (columns, rows, frames) of its pixels, axis ``k`` counting frames from 0.

    Raises:
        ValueError: the object lacks what identifies it, or has another size than the findings.
    """
    needed = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns")
    missing = [keyword for keyword in needed if not image.get(keyword)]
    if missing:
        raise ValueError(f"The image has no {', no '.join(missing)}; results that refer to it cannot be written.")
    frames = int(image.get("NumberOfFrames") or 1)
    size = (int(image.Columns), int(image.Rows), frames)
    if size != findings.geometry.shape:
        raise ValueError(
            f"The findings have grid {findings.geometry.shape}; expected columns, rows and frames of the image, {size}."
        )
    return DicomSource(
        image,
        ((str(image.SOPClassUID), str(image.SOPInstanceUID)),),
        str(image.StudyInstanceUID),
        str(image.SeriesInstanceUID),
        str(image.get("Modality") or "OT"),
        frames,
        True,
        str(image.get("FrameOfReferenceUID") or ""),
        str(image.get("LossyImageCompression") or "") == "01",
    )


def read_header(instance: Instance) -> Dataset:
    """Header of one source object, from its file or its entry in an archive."""
    import io
    import zipfile

    import pydicom

    if instance.member is None:
        return pydicom.dcmread(instance.path, stop_before_pixels=True, force=True)
    with zipfile.ZipFile(instance.path) as archive:
        content = io.BytesIO(archive.read(instance.member))
    return pydicom.dcmread(content, stop_before_pixels=True, force=True)
