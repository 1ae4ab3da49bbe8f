"""Kinds of DICOM objects."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import uid

from mtnet.io.kinds import kind_of
from mtnet.structures import Instance


def instance(sop_class: str, **values: object) -> Instance:
    fields = {"modality": "CT", "rows": 4, "columns": 4, "image_type": ("ORIGINAL", "PRIMARY", "AXIAL"), **values}
    return Instance(Path("x"), None, 1, "1.2", str(sop_class), "1.2.840.10008.1.2.1", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sop_class", "values", "kind"),
    [
        (uid.CTImageStorage, {}, "volume"),
        (uid.MRImageStorage, {"modality": "MR"}, "volume"),
        (uid.PositronEmissionTomographyImageStorage, {"modality": "PT"}, "volume"),
        (uid.EnhancedCTImageStorage, {"number_of_frames": 9}, "volume"),
        (uid.LegacyConvertedEnhancedCTImageStorage, {"number_of_frames": 9}, "volume"),
        (uid.EnhancedMRImageStorage, {"number_of_frames": 9, "modality": "MR"}, "volume"),
        (uid.EnhancedPETImageStorage, {"number_of_frames": 9, "modality": "PT"}, "volume"),
        (uid.BreastTomosynthesisImageStorage, {"number_of_frames": 9, "modality": "MG"}, "volume"),
        (uid.CTImageStorage, {"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, "localizer"),
        (uid.CTImageStorage, {"samples_per_pixel": 3}, "secondary_capture"),
        (uid.SecondaryCaptureImageStorage, {}, "secondary_capture"),
        (uid.MultiFrameTrueColorSecondaryCaptureImageStorage, {"number_of_frames": 9}, "secondary_capture"),
        (uid.CTImageStorage, {"modality": "SEG"}, "label_map"),
        (uid.SegmentationStorage, {"modality": "SEG", "number_of_frames": 9}, "label_map"),
        (uid.ParametricMapStorage, {"number_of_frames": 9}, "parametric_map"),
        (uid.EnhancedCTImageStorage, {"image_type": ("DERIVED", "PRIMARY", "PERFUSION", "RCBF")}, "parametric_map"),
        (uid.CTImageStorage, {"image_type": ("DERIVED", "PRIMARY", "AXIAL", "EFF_ATOMIC_NUM")}, "parametric_map"),
        (uid.CTImageStorage, {"image_type": ("DERIVED", "PRIMARY", "AXIAL", "VMI")}, "volume"),
        (uid.ComputedRadiographyImageStorage, {"modality": "CR"}, "image"),
        (uid.DigitalXRayImageStorageForPresentation, {"modality": "DX"}, "image"),
        (uid.UltrasoundImageStorage, {"modality": "US"}, "image"),
        (uid.UltrasoundMultiFrameImageStorage, {"modality": "US", "number_of_frames": 9}, "cine"),
        (uid.VLEndoscopicImageStorage, {"modality": "ES"}, "image"),
        (uid.VideoEndoscopicImageStorage, {"modality": "ES", "number_of_frames": 9}, "cine"),
        (uid.RTDoseStorage, {"modality": "RTDOSE", "number_of_frames": 9}, "not_an_image"),
        (uid.RTStructureSetStorage, {"modality": "RTSTRUCT", "rows": None}, "not_an_image"),
        (uid.ComprehensiveSRStorage, {"modality": "SR", "rows": None, "columns": None}, "not_an_image"),
        (uid.CTImageStorage, {"rows": None}, "volume"),
    ],
)
def test_the_kind_follows_class_modality_type_and_shape(sop_class: str, values: dict[str, object], kind: str) -> None:
    assert kind_of(instance(sop_class, **values)) == kind
