"""Operator: the findings to a DICOM SR that refers to their SEG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtnet.cases import Case
    from mtnet.results.dicom_seg import SegOutcome
    from mtnet.structures import Findings

REPORT = "report.dcm"


class WriteReport:
    """Receives ``segmented`` and writes ``report.dcm``, also where nothing was found.

    Args:
        folder: for the file; made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def setup(self, spec: Any) -> None:
        """Declare the input."""
        spec.input("segmented")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Write the report; one of an earlier run is removed.

        Raises:
            RuntimeError: there can be none, since the input is no DICOM.
        """
        from mtnet.results.dicom_report import write_dicom_report

        case: Case
        findings: Findings
        seg: SegOutcome
        case, findings, seg = op_input.receive("segmented")
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / REPORT
        path.unlink(missing_ok=True)
        outcome = write_dicom_report(findings, path, seg=seg, image=case.header)
        if not outcome.written:
            raise RuntimeError(
                f"No DICOM report was written: {outcome.reason}. Give the application a folder with one DICOM study."
            )
