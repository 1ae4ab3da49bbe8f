"""``findings.json``: everything that one run says about one image, as a published and versioned document."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from mtnet.io.atomic import atomic_path
from mtnet.results.derived import DicomOutcome
from mtnet.results.dicom_seg import SegOutcome
from mtnet.results.lesion_json import (
    PLACE,
    SHARE,
    flat_lesion_to_dict,
    lesion_from_dict,
    lesion_to_dict,
    measured_from_dict,
    measured_to_dict,
    rounded,
)
from mtnet.results.notice import full_notice
from mtnet.structures import (
    Code,
    Findings,
    FrameTimings,
    Geometry,
    ImageClass,
    InputReport,
    Label,
    ModelInfo,
    Plane,
    ReportLine,
    SeriesChoice,
    Source,
    StageCost,
    TrainingDistance,
)

SCHEMA_VERSION = "1.4"
_KNOWN_VERSIONS = ("1.1", "1.2", "1.3", SCHEMA_VERSION)


@dataclass(frozen=True, slots=True)
class DicomOutcomes:
    """What became of each DICOM object that a run may write: segmentation, report, capture of the overlay."""

    seg: SegOutcome
    report: DicomOutcome
    capture: DicomOutcome


_NOT_ASKED = "not asked for"
NO_DICOM = DicomOutcomes(
    SegOutcome(False, _NOT_ASKED), DicomOutcome(False, _NOT_ASKED), DicomOutcome(False, _NOT_ASKED)
)


def findings_to_dict(
    findings: Findings,
    *,
    dicom: DicomOutcomes = NO_DICOM,
    files: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The document, as plain Python that ``json`` can write.

    A volume's document is one of version 1.1, so that older readers take it; that of a 2D image or clip is of 1.2, and
    holds nothing in world millimetres; ``extras``, measured values and given
    places need 1.3, distances from the training data 1.4. Places and lengths are rounded to 1e-4, scores to 1e-6; the
    affine, image-class probabilities and thresholds keep every digit. Study and series appear by UID only; volumes are
    not part of it.

    Args:
        findings: what to tell.
        dicom: what became of the DICOM objects.
        files: names of the files that were written beside it, with their SHA-256 or an empty string.
    """
    from mtnet import __version__

    source, model, plane = findings.source, findings.model, findings.plane
    return {
        "schema_version": _version(findings),
        "notice": full_notice(model),
        "software": {"name": "mtnet", "version": __version__},
        "model": {
            "name": model.name,
            "version": model.version,
            "weights_sha256": model.weights_sha256,
            "training_data": model.training_data,
            "weights_licence": model.weights_licence,
            "intended_use": model.intended_use,
        },
        "source": {
            "study_instance_uid": source.study_instance_uid,
            "series_instance_uid": source.series_instance_uid,
            "file_name": source.file_name,
            **({} if plane is None else {"sop_instance_uid": source.sop_instance_uid}),
            "series_choices": [
                {"series_instance_uid": c.series_instance_uid, "taken": c.taken, "reason": c.reason}
                for c in source.choices
            ],
        },
        "grid": {
            "shape_ijk": list(findings.geometry.shape),
            "spacing_mm": None if plane else rounded(findings.geometry.spacing_mm, SHARE),
            "affine_lps_mm": None if plane else [[float(v) for v in row] for row in findings.geometry.affine_lps],
        },
        **({} if plane is None else {"plane": _plane_to_dict(plane, findings.geometry.shape[2])}),
        "options": {key: str(value) for key, value in findings.options.items()},
        "labels": [
            {
                "value": label.value,
                "name": label.name,
                "colour_rgb": list(label.colour),
                "code": _code_to_dict(label.code),
                "region": _code_to_dict(label.region),
            }
            for label in findings.labels
        ],
        "lesions": [
            lesion_to_dict(lesion) if plane is None else flat_lesion_to_dict(lesion, findings.geometry)
            for lesion in findings.lesions
        ],
        "image_classes": _classes_to_list(findings),
        "reconstruction_error": {key: float(value) for key, value in findings.reconstruction_error.items()},
        **_extras(findings),
        **measured_to_dict(findings.measured),
        **_distances(findings),
        "report": [
            {"code": line.code, "severity": line.severity, "message": line.message, "where": line.where}
            for line in findings.report
        ],
        "costs": [
            {
                "stage": c.stage,
                "seconds": round(float(c.seconds), PLACE),
                "peak_memory_bytes": int(c.peak_memory_bytes),
            }
            for c in findings.costs
        ],
        "dicom_seg": {
            "written": dicom.seg.written,
            "reason": dicom.seg.reason,
            "segments": [
                {"segment_number": segment, "lesion_number": lesion}
                for segment, lesion in enumerate(dicom.seg.segments, start=1)
            ],
        },
        "dicom_report": {"written": dicom.report.written, "reason": dicom.report.reason},
        "dicom_capture": {"written": dicom.capture.written, "reason": dicom.capture.reason},
        "files": [{"name": name, **({"sha256": sha256} if sha256 else {})} for name, sha256 in (files or {}).items()],
    }


def _version(findings: Findings) -> str:
    """The oldest version that has a place for everything in it."""
    given = any(lesion.place_given or lesion.mask_drawn or lesion.measured for lesion in findings.lesions)
    if findings.training_distance:
        return SCHEMA_VERSION
    if findings.extras or findings.measured or given:
        return "1.3"
    return "1.1" if findings.plane is None else "1.2"


def _extras(findings: Findings) -> dict[str, Any]:
    return {"extras": dict(findings.extras)} if findings.extras else {}


def _distances(findings: Findings) -> dict[str, Any]:
    if not findings.training_distance:
        return {}
    # Not rounded: the sides of the threshold must not change.
    return {
        "training_distance": [
            {
                "measure": one.measure,
                "score": float(one.score),
                "threshold": float(one.threshold),
                "unlike_training": bool(one.unlike),
            }
            for one in findings.training_distance
        ]
    }


def frame_to_dict(findings: Findings, frame: int, time_ms: float | None, latency_ms: float) -> dict[str, Any]:
    """What was found on one frame of a clip, for one line of ``frames.jsonl``.

    Args:
        findings: of the frame alone, with ``plane``; lesions are numbered within the frame.
        frame: its number, from 0.
        time_ms: when it is shown, from the first frame; None where nothing tells it.
        latency_ms: from its pixels to its findings.
    """
    return {
        "frame": frame,
        "time_ms": None if time_ms is None else round(time_ms, PLACE),
        "latency_ms": round(latency_ms, PLACE),
        "lesions": [flat_lesion_to_dict(lesion, findings.geometry) for lesion in findings.lesions],
        "image_classes": _classes_to_list(findings),
        **measured_to_dict(findings.measured),
        **_distances(findings),
        **_extras(findings),
    }


def write_findings_json(
    findings: Findings,
    path: Path,
    *,
    dicom: DicomOutcomes = NO_DICOM,
    files: Mapping[str, str] | None = None,
) -> None:
    """Write ``findings.json``, checked against its schema first.

    Raises:
        ValueError: a number is not finite, or the document breaks the schema; the message names the key.
    """
    document = findings_to_dict(findings, dicom=dicom, files=files)
    check_document(document)
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_findings_json(path: Path) -> Findings:
    """Read a ``findings.json`` back. Label map, lesion map and reconstruction are None: they are in files of their own.

    Raises:
        ValueError: the file is no JSON, of another schema version, or breaks the schema.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{Path(path).name} is not JSON text: {error}") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version not in _KNOWN_VERSIONS:
        raise ValueError(
            f"{Path(path).name} has schema_version {version!r}; this version of mtnet reads "
            f"{', '.join(_KNOWN_VERSIONS)}."
        )
    check_document(document)
    source, grid = document["source"], document["grid"]
    plane = _plane_from_dict(document["plane"]) if "plane" in document else None
    geometry = (
        Geometry(_triple(grid["shape_ijk"]), grid["affine_lps_mm"])
        if plane is None
        else Geometry.from_parts(_triple(grid["shape_ijk"]), (*(plane.spacing_mm or (1.0, 1.0)), 1.0))
    )
    return Findings(
        geometry=geometry,
        source=Source(
            study_instance_uid=source["study_instance_uid"],
            series_instance_uid=source["series_instance_uid"],
            file_name=source["file_name"],
            sop_instance_uid=source.get("sop_instance_uid", ""),
            choices=tuple(SeriesChoice(**choice) for choice in source["series_choices"]),
        ),
        model=ModelInfo(**document["model"]),
        lesions=tuple(lesion_from_dict(lesion, geometry) for lesion in document["lesions"]),
        image_classes=tuple(
            ImageClass(c["output"], c["name"], c["probability"], c["threshold"]) for c in document["image_classes"]
        ),
        labels=tuple(
            Label(
                la["value"],
                la["name"],
                _triple(la["colour_rgb"]),
                _code_from_dict(la["code"]),
                _code_from_dict(la["region"]),
            )
            for la in document["labels"]
        ),
        reconstruction_error=document["reconstruction_error"],
        extras=document.get("extras", {}),
        report=InputReport(tuple(ReportLine(**line) for line in document["report"])),
        costs=tuple(StageCost(**cost) for cost in document["costs"]),
        options=document["options"],
        plane=plane,
        measured=measured_from_dict(document),
        training_distance=tuple(
            TrainingDistance(one["measure"], one["score"], one["threshold"])
            for one in document.get("training_distance", ())
        ),
    )


def schema() -> dict[str, Any]:
    """The published JSON Schema (draft-07) of ``findings.json``."""
    text = resources.files("mtnet.results").joinpath("schema", f"findings-{SCHEMA_VERSION}.json").read_text("utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


def check_document(document: Any) -> None:
    """Check a document against the schema.

    Raises:
        ValueError: naming the key and what is wrong with it.
    """
    from jsonschema import Draft7Validator

    _refuse_non_finite(document, "")
    errors = sorted(Draft7Validator(schema()).iter_errors(document), key=lambda e: [str(p) for p in e.absolute_path])
    if errors:
        told = "\n".join(f"  {_key(error.absolute_path)}: {error.message[:300]}" for error in errors[:5])
        raise ValueError(f"The findings break the schema findings-{SCHEMA_VERSION}.json:\n{told}")


def _refuse_non_finite(value: Any, key: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key} is {value}; findings.json holds finite numbers only.")
    if isinstance(value, dict):
        for name, inner in value.items():
            _refuse_non_finite(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for n, inner in enumerate(value):
            _refuse_non_finite(inner, f"{key}[{n}]")


def _key(path: Any) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".") or "document"


def _classes_to_list(findings: Findings) -> list[dict[str, Any]]:
    # Not rounded: the sides of the threshold must not change.
    return [
        {
            "output": c.output,
            "name": c.name,
            "probability": float(c.probability),
            "threshold": float(c.threshold),
            "present": bool(c.present),
        }
        for c in findings.image_classes
    ]


def _plane_to_dict(plane: Plane, frames: int) -> dict[str, Any]:
    timings = plane.timings
    return {
        "pixel_spacing_mm": None if plane.spacing_mm is None else rounded(plane.spacing_mm, SHARE),
        "frames": frames,
        "frame_timings": None
        if timings is None
        else {
            "count": timings.count,
            "median_ms": round(timings.median_ms, PLACE),
            "p95_ms": round(timings.p95_ms, PLACE),
        },
    }


def _plane_from_dict(document: Mapping[str, Any]) -> Plane:
    spacing, timings = document["pixel_spacing_mm"], document["frame_timings"]
    return Plane(
        None if spacing is None else (float(spacing[0]), float(spacing[1])),
        None if timings is None else FrameTimings(**timings),
    )


def _code_to_dict(code: Code | None) -> dict[str, str] | None:
    return None if code is None else {"value": code.value, "scheme": code.scheme, "meaning": code.meaning}


def _code_from_dict(document: Mapping[str, str] | None) -> Code | None:
    return None if document is None else Code(**document)


def _triple(values: Sequence[int]) -> tuple[int, int, int]:
    first, second, third = values
    return first, second, third
