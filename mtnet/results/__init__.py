"""Writers of results: one file format each, every file whole or not at all."""

from mtnet.results.derived import DicomOutcome
from mtnet.results.dicom_capture import write_dicom_capture
from mtnet.results.dicom_report import write_dicom_report
from mtnet.results.dicom_seg import SegOutcome, write_dicom_seg
from mtnet.results.findings_json import findings_to_dict, read_findings_json, write_findings_json
from mtnet.results.folder import RESULT_FILES, Written, clear_results, write_results
from mtnet.results.image_seg import write_image_seg
from mtnet.results.nifti import write_lesions_nifti, write_reconstruction_nifti, write_segmentation_nifti
from mtnet.results.overlay import write_overlay
from mtnet.results.segmentation import SEG_KINDS, SegKind, check_seg_kind

__all__ = [
    "RESULT_FILES",
    "SEG_KINDS",
    "DicomOutcome",
    "SegKind",
    "SegOutcome",
    "Written",
    "check_seg_kind",
    "clear_results",
    "findings_to_dict",
    "read_findings_json",
    "write_dicom_capture",
    "write_dicom_report",
    "write_dicom_seg",
    "write_findings_json",
    "write_image_seg",
    "write_lesions_nifti",
    "write_overlay",
    "write_reconstruction_nifti",
    "write_results",
    "write_segmentation_nifti",
]
