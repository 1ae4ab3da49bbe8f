"""DICOM and image files in, as volumes."""
