"""All files of one study, in an order that makes ``findings.json`` the sign of a complete folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from mtnet.results.dicom_seg import SegOutcome, write_dicom_seg
from mtnet.results.findings_json import NO_SEG, write_findings_json
from mtnet.results.nifti import write_lesions_nifti, write_reconstruction_nifti, write_segmentation_nifti
from mtnet.results.overlay import write_overlay
from mtnet.structures import Findings, StageCost, Volume

FINDINGS = "findings.json"
# Every name that a run may write. The first is removed first, so that what it lists is never half replaced.
RESULT_FILES = (
    FINDINGS,
    "segmentation.nii.gz",
    "lesions.nii.gz",
    "reconstruction.nii.gz",
    "segmentation.dcm",
    "overlay.png",
)


class Meter(Protocol):
    """Measures stages of a run, as ``mtnet.inference.cost.CostMeter`` does."""

    @property
    def costs(self) -> list[StageCost]:
        """What has been measured."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Measure a block."""


@dataclass(frozen=True, slots=True)
class Written:
    """What was written.

    Args:
        findings: the findings with what the writers noticed in their report, as ``findings.json`` has them.
        files: the files, ``findings.json`` last.
        dicom_seg: what became of the DICOM SEG.
    """

    findings: Findings
    files: tuple[Path, ...]
    dicom_seg: SegOutcome


def write_results(
    findings: Findings,
    volume: Volume | None,
    folder: Path,
    *,
    dicom_seg: bool = True,
    overlay: bool = True,
    meter: Meter | None = None,
) -> Written:
    """Write everything that the findings hold into a folder, which is made where it is missing.

    What an earlier run left under the same names is removed first, its ``findings.json`` before all, so files of two
    runs never stand side by side; other files are left alone. ``findings.json`` is written last: where it is, the files
    that it lists are whole. A run that is killed leaves at most temporary files, whose names start with a dot; the
    next run removes them.

    Args:
        findings: what to write. Maps that are None make no file.
        volume: the image on the grid of the findings, for the overlay; without it there is none.
        folder: one study's folder.
        dicom_seg, overlay: whether to write these.
        meter: measures the writing; what it has measured so far becomes the costs of the findings.

    Raises:
        ValueError: the findings cannot be written (a number that is not finite, an image on another grid).
        OSError: the folder cannot be made or written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    clear_results(folder)
    with nullcontext() if meter is None else meter.stage("write"):
        findings, files, outcome = _write_all_but_last(findings, volume, folder, dicom_seg=dicom_seg, overlay=overlay)
    if meter is not None:
        findings = replace(findings, costs=tuple(meter.costs))
    write_findings_json(findings, folder / FINDINGS, dicom_seg=outcome, files=files)
    return Written(findings, tuple(folder / name for name in (*files, FINDINGS)), outcome)


def _write_all_but_last(
    findings: Findings, volume: Volume | None, folder: Path, *, dicom_seg: bool, overlay: bool
) -> tuple[Findings, dict[str, str], SegOutcome]:
    """Write every file but ``findings.json``; the findings with what was noticed, and SHA-256 by file name."""
    files: dict[str, str] = {}

    def put(name: str, write: Callable[[Findings, Path], None]) -> None:
        write(findings, folder / name)
        files[name] = _sha256(folder / name)

    if findings.label_map is not None:
        put("segmentation.nii.gz", write_segmentation_nifti)
    if findings.lesion_map is not None:
        put("lesions.nii.gz", write_lesions_nifti)
    if findings.reconstruction is not None:
        put("reconstruction.nii.gz", write_reconstruction_nifti)
    outcome = NO_SEG
    if dicom_seg:
        outcome = write_dicom_seg(findings, folder / "segmentation.dcm")
        if outcome.written:
            files["segmentation.dcm"] = _sha256(folder / "segmentation.dcm")
        findings = replace(findings, report=findings.report.plus(outcome.lines))
    if overlay and volume is not None:
        write_overlay(findings, volume, folder / "overlay.png")
        files["overlay.png"] = _sha256(folder / "overlay.png")
    return findings, files, outcome


def clear_results(folder: Path) -> None:
    """Remove what a run wrote there, ``findings.json`` first, and temporary files that a killed run left.

    Other files are left alone; nothing is done where there is no such folder.
    """
    if not folder.is_dir():
        return
    for name in RESULT_FILES:
        (folder / name).unlink(missing_ok=True)
    parts = (name.partition(".") for name in RESULT_FILES)
    left = re.compile(
        "|".join(rf"\.{re.escape(stem)}\.tmp-[0-9a-f]+{re.escape(dot + suffix)}" for stem, dot, suffix in parts)
    )
    for path in folder.iterdir():
        if left.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
