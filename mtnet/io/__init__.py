"""DICOM, image and video files in, as volumes, 2D images and streams of frames."""

from mtnet.io.dicom_images import DicomFrames
from mtnet.io.image2d import read_picture
from mtnet.io.image_files import load_image_file
from mtnet.io.image_out import write_image
from mtnet.io.limits import Limits
from mtnet.io.load import load
from mtnet.io.nifti_out import write_nifti
from mtnet.io.read import Reading, load_from_study, read_volume, read_volume_or_image
from mtnet.io.scan import scan
from mtnet.io.select import CHEST_CT_RULE, Selection, SeriesRule, select
from mtnet.io.video import Video

__all__ = [
    "CHEST_CT_RULE",
    "DicomFrames",
    "Limits",
    "Reading",
    "Selection",
    "SeriesRule",
    "Video",
    "load",
    "load_from_study",
    "load_image_file",
    "read_picture",
    "read_volume",
    "read_volume_or_image",
    "scan",
    "select",
    "write_image",
    "write_nifti",
]
