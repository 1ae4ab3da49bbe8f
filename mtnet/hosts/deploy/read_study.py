"""Operator: a folder of DICOM to the one image in it that the bundle is made for, by mtnet's own reader."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtnet.cases import ReadOptions
    from mtnet.predictor import Predictor


class ReadStudy:
    """Emits ``case``, an ``mtnet.cases.Case``.

    Args:
        predictor: whose input domain and series rule decide what is read.
        folder: holds one study.
        options: how it is read; as ``mtnet infer`` does by default.
    """

    def __init__(self, predictor: Predictor, folder: Path, options: ReadOptions | None = None) -> None:
        self.predictor = predictor
        self.folder = folder
        self.options = options

    def setup(self, spec: Any) -> None:
        """Declare the output."""
        spec.output("case")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Read the study.

        Raises:
            FileNotFoundError: there is nothing in the folder.
            RefusedError: it cannot be read right, the bundle is not made for it, or there are several.
        """
        op_output.emit(self.predictor.read(self.folder, self.options), "case")
