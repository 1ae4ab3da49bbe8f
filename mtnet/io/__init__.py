"""DICOM and image files in, as volumes."""

from mtnet.io.image_files import load_image_file
from mtnet.io.limits import Limits
from mtnet.io.load import load
from mtnet.io.nifti_out import write_nifti
from mtnet.io.read import Reading, load_from_study, read_volume
from mtnet.io.scan import scan
from mtnet.io.select import CHEST_CT_RULE, Selection, SeriesRule, select

__all__ = [
    "CHEST_CT_RULE",
    "Limits",
    "Reading",
    "Selection",
    "SeriesRule",
    "load",
    "load_from_study",
    "load_image_file",
    "read_volume",
    "scan",
    "select",
    "write_nifti",
]
