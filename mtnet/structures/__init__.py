"""Frozen data structures that every other room speaks in. No torch, no file access."""

from mtnet.structures.findings import (
    Findings,
    FrameTimings,
    ImageClass,
    Lesion,
    Measured,
    ModelInfo,
    Plane,
    SeriesChoice,
    Source,
    StageCost,
    TrainingDistance,
)
from mtnet.structures.geometry import Geometry
from mtnet.structures.image import Frame, Image
from mtnet.structures.input_domain import DOMAIN_VERDICTS, Bounds, InputDomain
from mtnet.structures.labels import Code, Label
from mtnet.structures.outputs import LesionChannel, OutputSpec
from mtnet.structures.point import Point
from mtnet.structures.report import InputReport, RefusedError, ReportLine
from mtnet.structures.study import Instance, Series, SeriesKind, Stack, Study
from mtnet.structures.volume import Volume

__all__ = [
    "DOMAIN_VERDICTS",
    "Bounds",
    "Code",
    "Findings",
    "Frame",
    "FrameTimings",
    "Geometry",
    "Image",
    "ImageClass",
    "InputDomain",
    "InputReport",
    "Instance",
    "Label",
    "Lesion",
    "LesionChannel",
    "Measured",
    "ModelInfo",
    "OutputSpec",
    "Plane",
    "Point",
    "RefusedError",
    "ReportLine",
    "Series",
    "SeriesChoice",
    "SeriesKind",
    "Source",
    "Stack",
    "StageCost",
    "Study",
    "TrainingDistance",
    "Volume",
]
