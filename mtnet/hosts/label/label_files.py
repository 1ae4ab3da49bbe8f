"""The file that a client is given beside the JSON: a label map, boxes, a redrawn image, or a DICOM SEG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mtnet.decoded import drawn_labels
from mtnet.hosts.label.answerer import Answered
from mtnet.inference.point_lesions import place_labels
from mtnet.io.atomic import atomic_path
from mtnet.results import write_dicom_seg, write_image_seg, write_reconstruction_nifti, write_segmentation_nifti
from mtnet.results.plane_files import write_mask, write_redrawn
from mtnet.structures import Findings, Label, OutputSpec, Volume

SEG = ".dcm"
NIFTI = (".nii.gz", ".nii")
ITK = (".nrrd", ".mha")
PICTURES = (".png",)


def map_labels(specs: Sequence[OutputSpec]) -> tuple[Label, ...]:
    """What the values of a network's label maps mean, background excluded; of a network of points the classes of the
    balls that are drawn."""
    if all(spec.kind == "global" for spec in specs):
        return place_labels(specs)
    dense = next((spec for spec in specs if spec.kind == "dense" and spec.labels), None)
    return () if dense is None else drawn_labels(dense)


def label_extension(findings: Findings, image: Path, asked: str | None) -> str:
    """The ending of the label file: what a client asked for, else the image's own where it holds labels.

    Raises:
        ValueError: no label map is written in files of this kind.
    """
    usual = PICTURES if findings.plane is not None else (*NIFTI, *ITK)
    if not asked:
        return next((end for end in usual if image.name.lower().endswith(end)), usual[0])
    if asked.lower() not in (*usual, SEG):
        raise ValueError(
            f"result_extension is {asked!r}; a label map of this image is written as {', '.join(usual)}, or as DICOM "
            f"SEG ({SEG})."
        )
    return asked.lower()


def write_label_map(answered: Answered, path: Path) -> str:
    """Write the label map on the image's own voxels, or the lesions as DICOM SEG; ``path`` ends as one of the above.

    Returns:
        Why there is no file; empty where there is one.

    Raises:
        ValueError: the grid is sheared, and the format cannot hold that.
    """
    findings = answered.findings
    if path.name.endswith(SEG):
        header = answered.header
        outcome = write_dicom_seg(findings, path) if header is None else write_image_seg(findings, header, path)
        return outcome.reason
    if findings.label_map is None:
        return "this network draws no label map"
    if path.name.endswith(PICTURES):
        write_mask(findings.label_map, path.parent, path.name.removesuffix(".png"))
    elif path.name.endswith(NIFTI):
        write_segmentation_nifti(findings, path)
    else:
        _write_itk(findings.label_map, path)
    return ""


def write_redrawn_image(answered: Answered, folder: Path, stem: str) -> Path | None:
    """Write the image as the network redraws it, or None where it does not."""
    findings = answered.findings
    if findings.reconstruction is None:
        return None
    if findings.plane is not None:
        return write_redrawn(findings.reconstruction, None, folder, stem)
    path = folder / f"{stem}.nii.gz"
    write_reconstruction_nifti(findings, path)
    return path


def _write_itk(volume: Volume, path: Path) -> None:
    import SimpleITK as sitk

    geometry = volume.geometry
    if not geometry.is_orthogonal():
        raise ValueError(f"The image's grid is sheared, which {path.suffix} cannot hold; ask for .nii.gz.")
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array[0].astype(np.uint8).transpose(2, 1, 0)))
    image.SetSpacing(geometry.spacing_mm)
    image.SetOrigin(geometry.origin_lps_mm)
    image.SetDirection(geometry.direction_lps.ravel().tolist())
    with atomic_path(path) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)
