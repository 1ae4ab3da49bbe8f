"""The measurement groups of a report: one about the image (TID 1501), one a lesion (TID 1410, 1411)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mtnet.results.codes import (
    ABNORMAL_STRUCTURE,
    ABSENT,
    AREA,
    DIAMETER,
    FINDINGS_SUMMARY,
    LONG_AXIS,
    NO_UNITS,
    PRESENT,
    SHORT_AXIS,
    VOLUME,
    WITH_FINDINGS,
    WITHOUT_FINDINGS,
    lesion_region,
    lesion_type,
    private_code,
    unit_of,
    without_unit,
)
from mtnet.results.derived import coded, long_string
from mtnet.results.dicom_seg import SegOutcome
from mtnet.results.dicom_source import DicomSource
from mtnet.results.regions import Region
from mtnet.structures import Code, Findings, Lesion, Measured

_SCORE = private_code("score", "Detection score")
# For sources of several frames whose class has one: no reference can name the frame.
_FRAME = private_code("frame_number", "Number of the frame, from 1")
_COUNT = private_code("lesion_count", "Number of lesions")
_PLACE = private_code("place", "Place of the lesion")
_GIVEN = private_code("place.given", "Given, not found by the algorithm")
_SEGMENT = private_code("segment", "Segment of the lesion")
_DRAWN = private_code("segment.drawn", "Ball of the measured diameter, drawn")
# Values of the findings that a standard code names.
_NAMED = {"area_mm2": AREA.code, "diameter_mm": DIAMETER.code}


def image_group(findings: Findings, source: DicomSource, tracking_uid: str) -> Any:
    """What is said of the image as a whole: whether there are findings, image classes, the error of the redrawn image.

    Args:
        findings: what to say.
        source: the objects that they are about; the first stands for all, the image library names them.
        tracking_uid: of the group.
    """
    from highdicom.sr import (
        MeasurementsAndQualitativeEvaluations,
        QualitativeEvaluation,
        SourceImageForMeasurementGroup,
        TrackingIdentifier,
    )

    anything = bool(findings.lesions) or any(c.present for c in findings.image_classes)
    evaluations = [
        QualitativeEvaluation(
            name=coded(FINDINGS_SUMMARY), value=coded((WITH_FINDINGS if anything else WITHOUT_FINDINGS).code)
        )
    ]
    values: list[tuple[Code, float, Code]] = [(_COUNT, float(len(findings.lesions)), NO_UNITS)]
    for answer in findings.image_classes:
        key, name = f"{answer.output}.{answer.name}", f"{_words(answer.output)}: {_words(answer.name)}"
        evaluations.append(
            QualitativeEvaluation(
                name=coded(private_code(key, name)), value=coded((PRESENT if answer.present else ABSENT).code)
            )
        )
        values.append((private_code(f"p.{key}", f"Probability of {name}"), float(answer.probability), NO_UNITS))
    values.extend(_values(findings.reconstruction_error))
    values.extend(_measured(findings.measured))
    class_uid, instance_uid = source.objects[0]
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=tracking_uid, identifier="Image"),
        algorithm_id=_algorithm(findings),
        measurements=_measurements(values),
        qualitative_evaluations=evaluations,
        source_images=[SourceImageForMeasurementGroup(class_uid, instance_uid)],
    )


def lesion_group(
    lesion: Lesion, findings: Findings, source: DicomSource, seg: SegOutcome, regions: Mapping[int, Region]
) -> Any:
    """One lesion: what it is, where, its segment or its outline on an image, measurements and probabilities.

    Args:
        lesion: of the findings.
        findings: labels, model and options.
        source: the objects that they are about.
        seg: the DICOM SEG that holds the lesion's segment, as far as it was written.
        regions: outline by lesion number, for lesions without segment.
    """
    from highdicom.sr import (
        FindingSite,
        ImageRegion,
        MeasurementsAndQualitativeEvaluations,
        PlanarROIMeasurementsAndQualitativeEvaluations,
        QualitativeEvaluation,
        SourceImageForMeasurementGroup,
        SourceImageForRegion,
        TrackingIdentifier,
        VolumetricROIMeasurementsAndQualitativeEvaluations,
    )

    site = lesion_region(lesion.label, findings.labels)
    evaluations, values = [], list(_lesion_values(lesion))
    for holds, name, value in ((lesion.place_given, _PLACE, _GIVEN), (lesion.mask_drawn, _SEGMENT, _DRAWN)):
        if holds:
            evaluations.append(QualitativeEvaluation(name=coded(name), value=coded(value)))
    for channel, classes in lesion.class_probabilities.items():
        if not classes:
            continue
        best = max(classes, key=lambda name: classes[name])
        evaluations.append(
            QualitativeEvaluation(
                name=coded(private_code(channel, _words(channel))),
                value=coded(private_code(f"{channel}.{best}", _words(best))),
            )
        )
        values.extend(
            (
                private_code(f"p.{channel}.{name}", f"Probability of {_words(channel)}: {_words(name)}"),
                float(probability),
                NO_UNITS,
            )
            for name, probability in classes.items()
        )
    region = regions.get(lesion.number)
    if region is not None and region.frame is not None and source.frames > 1 and not source.names_frames:
        values.append((_FRAME, float(region.frame), NO_UNITS))
    common: dict[str, Any] = {
        "tracking_identifier": TrackingIdentifier(uid=lesion.tracking_uid, identifier=f"Lesion {lesion.number}"),
        "finding_category": coded(ABNORMAL_STRUCTURE.code),
        "finding_type": coded(lesion_type(lesion.label, findings.labels)),
        "finding_sites": [FindingSite(anatomic_location=coded(site))] if site is not None else None,
        "algorithm_id": _algorithm(findings),
        "measurements": _measurements(values),
        "qualitative_evaluations": evaluations or None,
    }
    if lesion.number in seg.segments:
        reference = _segment(seg, seg.segments.index(lesion.number), source)
        return VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=reference, **common)
    if region is None:
        class_uid, instance_uid = source.objects[0]
        return MeasurementsAndQualitativeEvaluations(
            source_images=[SourceImageForMeasurementGroup(class_uid, instance_uid)], **common
        )
    frame = [region.frame] if source.names_frames and region.frame is not None else None
    image = SourceImageForRegion(region.sop_class_uid, region.sop_instance_uid, frame)
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        referenced_region=ImageRegion(graphic_type="POLYLINE", graphic_data=region.points, source_image=image),
        **common,
    )


def _segment(seg: SegOutcome, index: int, source: DicomSource) -> Any:
    """The reference to a segment and to what it was drawn on.

    A reference names a segment or frames of a DICOM SEG, never both (PS3.3 10.3), so it is that of TID 1411 also where
    the segment lies on one image.
    """
    from highdicom.sr import ReferencedSegment, SourceImageForSegmentation, SourceSeriesForSegmentation

    place: dict[str, Any] = {
        "sop_class_uid": seg.sop_class_uid,
        "sop_instance_uid": seg.sop_instance_uid,
        "segment_number": index + 1,
    }
    if not source.planar:
        return ReferencedSegment(source_series=SourceSeriesForSegmentation(source.series_uid), **place)
    class_uid, instance_uid = source.objects[0]
    frames = list(seg.source_frames[index]) if source.names_frames else None
    return ReferencedSegment(source_images=[SourceImageForSegmentation(class_uid, instance_uid, frames)], **place)


def _lesion_values(lesion: Lesion) -> Sequence[tuple[Code, float, Code]]:
    values = [] if lesion.place_given else [(_SCORE, float(lesion.score), NO_UNITS)]
    for code, key in (
        (VOLUME.code, "volume_mm3"),
        (LONG_AXIS.code, "longest_axial_diameter_mm"),
        (SHORT_AXIS.code, "short_axial_diameter_mm"),
    ):
        value = getattr(lesion, key)
        if value is not None:
            values.append((code, float(value), unit_of(key)))
    return [*values, *_values(lesion.measures), *_measured(lesion.measured)]


def _values(measures: Mapping[str, float]) -> list[tuple[Code, float, Code]]:
    return [
        (_NAMED.get(key, private_code(key, _words(without_unit(key)))), float(value), unit_of(key))
        for key, value in measures.items()
    ]


def _measured(measured: Mapping[str, Measured]) -> list[tuple[Code, float, Code]]:
    """Each measured value, followed by the error that the network expects of it."""
    values = []
    for key, one in measured.items():
        values.extend(_values({key: one.value}))
        if one.sd is not None:
            name = private_code(f"sd.{key}", f"Expected standard deviation of {_words(without_unit(key))}")
            values.append((name, float(one.sd), unit_of(key)))
    return values


def _measurements(values: Sequence[tuple[Code, float, Code]]) -> list[Any]:
    from highdicom.sr import Measurement

    # As many digits as findings.json keeps; a decimal string has no room for all.
    return [Measurement(name=coded(name), value=round(value, 6), unit=coded(unit)) for name, value, unit in values]


def _algorithm(findings: Findings) -> Any:
    """TID 4019, the hash of the weights among the parameters."""
    from highdicom.sr import AlgorithmIdentification

    model = findings.model
    parameters = [f"{key}={value}" for key, value in sorted(findings.options.items())]
    if model.weights_sha256:
        parameters.insert(0, f"weights_sha256={model.weights_sha256}")
    return AlgorithmIdentification(
        name=long_string(model.name), version=long_string(model.version), parameters=parameters or None
    )


def _words(name: str) -> str:
    return name.replace("_", " ")
