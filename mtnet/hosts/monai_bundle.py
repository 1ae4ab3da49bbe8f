"""``python -m monai.bundle run``: the same answers from the same code, with every part of the config overridable."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtnet.bundle import Bundle
from mtnet.predictor import Predictor, Transform
from mtnet.results import Written
from mtnet.structures import RefusedError
from mtnet.study_folder import answer_studies

if TYPE_CHECKING:
    from mtnet.inference import MultiTaskInferer
    from mtnet.nets import MultiTaskNet


class StudyRun:
    """Answer every study of a folder and write the results, with the parts that the config built.

    Args:
        bundle_root: the bundle; its weights are loaded and checked.
        network, preprocessing, inferer: as the config made them, overrides included.
        device: where to run.
    """

    def __init__(
        self,
        bundle_root: str,
        network: MultiTaskNet,
        preprocessing: Transform,
        inferer: MultiTaskInferer,
        device: str = "cpu",
    ) -> None:
        from mtnet.nets import load_state

        bundle = Bundle.read(Path(bundle_root))
        model = bundle.model_info()
        load_state(network, bundle.weights)
        self.predictor = Predictor(network, preprocessing, inferer, model, device)

    def __call__(self, dataset_dir: str, output_dir: str, **_: Any) -> list[Written]:
        """Answer what lies under ``dataset_dir`` into ``output_dir``.

        Raises:
            RefusedError: a study was refused; what others gave has been written.
        """
        outcomes = list(answer_studies(self.predictor, Path(dataset_dir), Path(output_dir)))
        refusals = [line for outcome in outcomes for line in outcome.refusal]
        if refusals:
            raise RefusedError(refusals)
        return [outcome.written for outcome in outcomes if outcome.written]
