"""Boxes in 2D and 3D by the same code: overlap, coding, assignment, suppression and fusion."""

from mtnet.detection.assignment import Assignment, atss, simota
from mtnet.detection.coding import Candidates, cell_centres, decode, decode_offsets, encode_offsets
from mtnet.detection.fusion import Fused, fuse
from mtnet.detection.overlap import OVERLAP_KINDS, OverlapKind, paired_overlap, pairwise_iou, volume
from mtnet.detection.suppression import suppress

__all__ = [
    "OVERLAP_KINDS",
    "Assignment",
    "Candidates",
    "Fused",
    "OverlapKind",
    "atss",
    "cell_centres",
    "decode",
    "decode_offsets",
    "encode_offsets",
    "fuse",
    "paired_overlap",
    "pairwise_iou",
    "simota",
    "suppress",
    "volume",
]
