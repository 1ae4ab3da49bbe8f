"""The application: a folder of DICOM in, DICOM SEG and SR out, by mtnet's reader, network and writers.

``python -m mtnet.hosts.deploy -i STUDY -o OUT -m BUNDLE`` under the MONAI Deploy App SDK, or packaged by it
(``docs/monai_deploy.md``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtnet.hosts.deploy.answer_study import AnswerStudy
from mtnet.hosts.deploy.read_study import ReadStudy
from mtnet.hosts.deploy.write_report import WriteReport
from mtnet.hosts.deploy.write_segmentation import WriteSegmentation

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

_METADATA = "configs/metadata.json"


def application() -> type[Any]:
    """The application's class, for the SDK to run: ``application()().run()``.

    Raises:
        ImportError: the SDK, or the CUDA runtime that it stands on, is not there.
    """
    core, conditions = _sdk()

    def operator(app: Any, step: Any, *args: Any) -> Any:
        class Step(core.Operator):  # type: ignore[misc, name-defined]  # the SDK need not be installed
            def setup(self, spec: Any) -> None:
                step.setup(spec)

            def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
                step.compute(op_input, op_output, context)

        return Step(app, *args, name=type(step).__name__)

    class MtnetApplication(core.Application):  # type: ignore[misc, name-defined]
        """One study, one pass of the network, every answer."""

        def compose(self) -> None:
            from mtnet.predictor import Predictor

            context = core.Application.init_app_context(self.argv)
            predictor = Predictor.from_bundle(bundle_in(Path(context.model_path)))
            out = Path(context.output_path)
            # Once: without a condition an operator that waits for nothing would be asked again and again.
            read = operator(self, ReadStudy(predictor, Path(context.input_path)), conditions.CountCondition(self, 1))
            answer = operator(self, AnswerStudy(predictor))
            segment = operator(self, WriteSegmentation(out))
            report = operator(self, WriteReport(out))
            self.add_flow(read, answer, {("case", "case")})
            self.add_flow(answer, segment, {("answer", "answer")})
            self.add_flow(segment, report, {("segmented", "segmented")})

    return MtnetApplication


def bundle_in(folder: Path) -> Path:
    """The bundle that the SDK was given as the model: the folder itself, or the one folder in it that is a bundle.

    Raises:
        FileNotFoundError: there is none, or there are several.
    """
    found: Sequence[Path] = [one for one in (folder, *sorted(folder.glob("*"))) if (one / _METADATA).is_file()]
    if folder in found:
        return folder
    if len(found) != 1:
        raise FileNotFoundError(
            f"The model folder ({folder}) holds {len(found) or 'no'} bundles; expected one, with {_METADATA} in it. "
            "Give the bundle's folder with -m."
        )
    return found[0]


def _sdk() -> tuple[ModuleType, ModuleType]:
    try:
        from monai.deploy import conditions, core
    except ImportError as error:
        missing = error.name or ""
        if missing.startswith("monai"):
            what = "the MONAI Deploy App SDK is not installed (pip install monai-deploy-app-sdk; Linux with CUDA 13)"
        elif missing.startswith("holoscan"):
            what = "Holoscan is not installed, on which the SDK stands (pip install holoscan-cu13; Linux with CUDA 13)"
        else:
            what = f"the SDK or its CUDA runtime does not load ({error}); it needs a GPU machine with CUDA 13"
        raise ImportError(
            f"The application cannot run: {what}. mtnet infer and mtnet serve give the same answers without it."
        ) from error
    return core, conditions
