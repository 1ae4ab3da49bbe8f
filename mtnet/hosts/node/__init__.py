"""A DICOM node: what arrives is kept, answered when it is complete, and the answers are sent on."""
