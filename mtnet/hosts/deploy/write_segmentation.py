"""Operator: the lesions' masks to a DICOM SEG."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtnet.cases import Case
    from mtnet.results.segmentation import SegKind
    from mtnet.structures import Findings

SEGMENTATION = "segmentation.dcm"


class WriteSegmentation:
    """Receives ``answer``, writes ``segmentation.dcm`` where there is a mask to write, and emits ``segmented``: the
    case, its findings with what was noticed in their report, and the ``SegOutcome``.

    Args:
        folder: for the file; made where it is missing.
        kind: ``binary`` or ``labelmap``.
    """

    def __init__(self, folder: Path, kind: SegKind = "binary") -> None:
        self.folder = folder
        self.kind = kind

    def setup(self, spec: Any) -> None:
        """Declare input and output."""
        spec.input("answer")
        spec.output("segmented")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Write the SEG of the findings; one of an earlier run is removed."""
        from mtnet.results.dicom_seg import write_dicom_seg
        from mtnet.results.image_seg import write_image_seg

        case: Case
        findings: Findings
        case, findings = op_input.receive("answer")
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / SEGMENTATION
        path.unlink(missing_ok=True)
        if case.header is None:
            outcome = write_dicom_seg(findings, path, kind=self.kind)
        else:
            outcome = write_image_seg(findings, case.header, path, kind=self.kind)
        noticed = replace(findings, report=findings.report.plus(outcome.lines))
        op_output.emit((case, noticed, outcome), "segmented")
