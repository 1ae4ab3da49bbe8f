"""DICOM SR of the findings: a Measurement Report (PS3.16 TID 1500) as IHE's AI Results profile shapes it."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtnet.io.atomic import atomic_path
from mtnet.results.codes import (
    ANY_PROCEDURE,
    COMMENT,
    DEVICE_OBSERVER,
    FRAME_OF_REFERENCE_UID,
    IMAGE_LIBRARY,
    IMAGE_LIBRARY_GROUP,
    LIBRARY_IMAGE,
    MODALITIES,
    MODALITY,
    PRIVATE_SCHEME,
    PROCEDURES,
)
from mtnet.results.derived import (
    DerivedUids,
    DicomOutcome,
    blank_source,
    coded,
    hashed_uid,
    left_out_lines,
    long_string,
    series_number,
    set_identity,
    unnamed_frame_lines,
)
from mtnet.results.dicom_seg import SegOutcome
from mtnet.results.dicom_source import DicomSource, image_source, series_source
from mtnet.results.measurement_groups import image_group, lesion_group
from mtnet.results.notice import full_notice
from mtnet.results.regions import lesion_regions
from mtnet.results.source_modules import patient_and_study
from mtnet.structures import Code, Findings

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


def write_dicom_report(
    findings: Findings, path: Path, *, seg: SegOutcome, image: Dataset | None = None
) -> DicomOutcome:
    """Write the findings as a Comprehensive 3D SR, also where nothing was found.

    Every lesion is a measurement group with its tracking UID, codes, measurements and probabilities, and the segment
    of the DICOM SEG that it owns; without segment the outline of its mask on one image, or its box there. A first group
    speaks of the image as a whole. The object is complete, ``PRELIMINARY`` and ``UNVERIFIED``; its UIDs are hashed from
    everything that it says, and its dates are those of the study, so the same findings give the same bytes.

    Args:
        findings: what to say; needs ``source.stack`` (its first file is read, headers only) unless ``image`` is given.
        path: the file to make; its folder must exist.
        seg: what became of the DICOM SEG of the same findings.
        image: data set of the one image or clip that the findings are about, whose grid is (columns, rows, frames).

    Raises:
        ValueError: ``image`` has another size than the findings.
    """
    source = series_source(findings) if image is None else image_source(image, findings)
    if source is None:
        return DicomOutcome(False, "the source is no DICOM series")
    identity, left_out = patient_and_study(source.header)
    uids = DerivedUids(
        findings,
        source,
        {
            "seg": [seg.sop_instance_uid, seg.segments],
            "classes": [[c.output, c.name, c.probability, c.threshold] for c in findings.image_classes],
            "reconstruction_error": dict(findings.reconstruction_error),
            "measured": {key: asdict(one) for key, one in findings.measured.items()},
        },
    )
    with warnings.catch_warnings():
        # highdicom's remarks on its own defaults are of no use to the caller, and could quote the source.
        warnings.simplefilter("ignore")
        report = _report(findings, source, seg, uids)
    set_identity(report, identity, source.header)
    with atomic_path(path) as temporary:
        report.save_as(temporary)
    return DicomOutcome(True, "", (*left_out_lines(left_out, findings), *unnamed_frame_lines(source, findings)))


def _report(findings: Findings, source: DicomSource, seg: SegOutcome, uids: DerivedUids) -> Any:
    from highdicom.sr import Comprehensive3DSR
    from pydicom.dataset import Dataset

    from mtnet import __version__

    report = Comprehensive3DSR(
        evidence=_evidence(source, seg),
        content=_content(findings, source, seg, uids),
        series_instance_uid=uids.of("report series"),
        series_number=series_number(source.header, 10000),
        sop_instance_uid=uids.of("report"),
        instance_number=1,
        is_complete=True,
        is_final=False,
        is_verified=False,
        manufacturer="mtnet",
        manufacturer_model_name=long_string(f"mtnet {findings.model.name}"),
        software_versions=long_string(__version__),
        device_serial_number=findings.model.weights_sha256[:16] or "0",
        series_description=long_string("mtnet report (research use only, not a medical device)"),
    )
    scheme = Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = PRIVATE_SCHEME, "Concepts of mtnet"
    scheme.CodingSchemeResponsibleOrganization = "mtnet"
    report.CodingSchemeIdentificationSequence = [scheme]
    return report


def _evidence(source: DicomSource, seg: SegOutcome) -> list[Dataset]:
    """Everything that the report refers to: the source objects, and the DICOM SEG."""
    named = [(class_uid, uid, source.series_uid) for class_uid, uid in source.objects]
    if seg.written:
        named.append((seg.sop_class_uid, seg.sop_instance_uid, seg.series_instance_uid))
    evidence = []
    for class_uid, uid, series_uid in named:
        item = blank_source(source)
        item.SOPClassUID, item.SOPInstanceUID, item.SeriesInstanceUID = class_uid, uid, series_uid
        evidence.append(item)
    return evidence


def _content(findings: Findings, source: DicomSource, seg: SegOutcome, uids: DerivedUids) -> Any:
    """The content tree."""
    from highdicom.sr import (
        DeviceObserverIdentifyingAttributes,
        MeasurementReport,
        ObservationContext,
        ObserverContext,
        RelationshipTypeValues,
        TextContentItem,
    )

    model = findings.model
    observer = ObserverContext(
        observer_type=coded(DEVICE_OBSERVER),
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=hashed_uid(f"mtnet {model.name} {model.version} {model.weights_sha256}"),
            name=long_string(model.name),
            manufacturer_name="mtnet",
            model_name=long_string(f"{model.name} {model.version}"),
            serial_number=model.weights_sha256[:16] or "0",
        ),
    )
    # On slices, regions are only for lesions without segment; on a clip they also tell the frame.
    covered = not source.planar and set(seg.segments) >= {lesion.number for lesion in findings.lesions}
    regions = {} if covered else lesion_regions(findings, source)
    groups = [image_group(findings, source, uids.of("image"))]
    groups.extend(lesion_group(lesion, findings, source, seg, regions) for lesion in findings.lesions)
    content = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer),
        procedure_reported=coded(PROCEDURES.get(source.modality, ANY_PROCEDURE).code),
        imaging_measurements=groups,
    )
    root = content[0].ContentSequence
    root.insert(len(root) - 1, _library(source))
    for text in (_summary(findings), full_notice(model)):
        root.append(TextContentItem(name=coded(COMMENT), value=text, relationship_type=RelationshipTypeValues.CONTAINS))
    return content


def _summary(findings: Findings) -> str:
    count = len(findings.lesions)
    if count and all(lesion.place_given for lesion in findings.lesions):
        return f"{count} lesion{'s were' if count != 1 else ' was'} measured at given places; none was looked for."
    return f"{count} lesion{'s were' if count != 1 else ' was'} found." if count else "No lesion was found."


def _library(source: DicomSource) -> Any:
    """The images that were looked at (TID 1600), with what they share said once."""
    from highdicom.sr import (
        CodeContentItem,
        ContainerContentItem,
        ContentSequence,
        ImageContentItem,
        RelationshipTypeValues,
        UIDRefContentItem,
    )

    inside, shared = RelationshipTypeValues.CONTAINS, RelationshipTypeValues.HAS_ACQ_CONTEXT
    items = []
    if source.modality in MODALITIES:
        modality = Code(source.modality, "DCM", MODALITIES[source.modality])
        items.append(CodeContentItem(name=coded(MODALITY), value=coded(modality), relationship_type=shared))
    if source.frame_of_reference_uid:
        items.append(
            UIDRefContentItem(
                name=coded(FRAME_OF_REFERENCE_UID), value=source.frame_of_reference_uid, relationship_type=shared
            )
        )
    items.extend(
        ImageContentItem(
            name=coded(LIBRARY_IMAGE),
            referenced_sop_class_uid=class_uid,
            referenced_sop_instance_uid=uid,
            relationship_type=inside,
        )
        for class_uid, uid in source.objects
    )
    group = ContainerContentItem(name=coded(IMAGE_LIBRARY_GROUP), relationship_type=inside)
    group.ContentSequence = ContentSequence(items)
    library = ContainerContentItem(name=coded(IMAGE_LIBRARY), relationship_type=inside, template_id="1600")
    library.ContentSequence = ContentSequence([group])
    return library
