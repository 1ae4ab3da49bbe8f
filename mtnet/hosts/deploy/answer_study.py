"""Operator: an image that was read to findings, in one pass of the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtnet.cases import Case
    from mtnet.predictor import Predictor


class AnswerStudy:
    """Receives ``case``, emits ``answer``: the case and its ``Findings``.

    Args:
        predictor: of the bundle.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def setup(self, spec: Any) -> None:
        """Declare input and output."""
        spec.input("case")
        spec.output("answer")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Answer the case.

        Raises:
            RefusedError: the image does not show what the bundle is made for.
        """
        case: Case = op_input.receive("case")
        findings = self.predictor.finish(case, self.predictor.infer(case))
        op_output.emit((case, findings), "answer")
