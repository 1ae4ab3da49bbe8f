"""Enhanced multi-frame objects: what their functional groups say of each frame, told as a single slice would tell it.

An enhanced or legacy-converted CT, MR or PET object keeps geometry, rescale and everything else that can change from
frame to frame in two sequences: one group for all frames, one for each (PS3.3 C.7.6.16). The groups use the keywords of
single slices, one level down.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mtnet.io.tags import UnusableError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

FRAME_TAGS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")

# What a legacy conversion could not assign comes first: a macro of the same group goes before it.
_MACROS = (
    "UnassignedSharedConvertedAttributesSequence", "UnassignedPerFrameConvertedAttributesSequence",
    "FrameContentSequence", "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence",
    "PixelValueTransformationSequence", "CTImageFrameTypeSequence", "MRImageFrameTypeSequence", "PETFrameTypeSequence",
    "XRay3DFrameTypeSequence", "CTReconstructionSequence", "CTAcquisitionDetailsSequence", "CTXRayDetailsSequence",
    "MREchoSequence", "MRDiffusionSequence", "DiffusionGradientDirectionSequence", "MRModifierSequence",
    "MRTimingAndRelatedParametersSequence", "CardiacSynchronizationSequence", "TemporalPositionSequence",
)  # fmt: skip


def frame_datasets(dataset: Dataset, frames: int) -> Iterator[Dataset]:
    """A flat data set for each frame, in stored order: top-level tags, over them the shared ones, then the frame's own.

    Args:
        dataset: header of the object, with both sequences of functional groups.
        frames: its NumberOfFrames.

    Raises:
        UnusableError: there are groups for another number of frames.
    """
    from pydicom.dataset import Dataset

    shared = Dataset()
    shared.update(dataset)
    for keyword in FRAME_TAGS:
        if keyword in shared:
            delattr(shared, keyword)
    for group in dataset.get(FRAME_TAGS[0]) or ():
        _spread(group, shared)
    groups = dataset.get(FRAME_TAGS[1]) or ()
    if groups and len(groups) != frames:
        raise UnusableError(f"{FRAME_TAGS[1]} has {len(groups)} item(s) where NumberOfFrames says {frames}.")
    for number in range(frames):
        frame = Dataset()
        frame.update(shared)
        if groups:
            _spread(groups[number], frame)
        _join_image_types(dataset, frame)
        yield frame


def _spread(group: Dataset, into: Dataset) -> None:
    """Copy the single values of a group's known macros into a flat data set."""
    for keyword in _MACROS:
        for macro in list(group.get(keyword) or ())[:1]:
            into.update({tag: macro.get_item(tag) for tag in list(macro.keys()) if macro.get_item(tag).VR != "SQ"})
            if "FrameAcquisitionNumber" in macro:
                into.AcquisitionNumber = macro.FrameAcquisitionNumber
            _spread(macro, into)


def _join_image_types(dataset: Dataset, frame: Dataset) -> None:
    """Let ImageType say what FrameType and the object's ImageType say, the frame's words first."""
    own, whole = (_words(item.get(tag)) for item, tag in ((frame, "FrameType"), (dataset, "ImageType")))
    if own:
        frame.ImageType = [*own, *(word for word in whole[2:] if word not in own and word != "MIXED")]


def _words(value: object) -> list[str]:
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str) else [str(word) for word in value] if hasattr(value, "__iter__") else []
