"""``python -m monai.bundle run``: the same answers from the same code, with every part of the config overridable."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mtnet.bundle import Bundle, BundleError, find_bundle
from mtnet.points import asked
from mtnet.predictor import Predictor, ReadOptions, Transform
from mtnet.structures import ModelInfo, RefusedError, ReportLine
from mtnet.study_folder import answer_studies

if TYPE_CHECKING:
    from ignite.engine import Engine

    from mtnet.inference import MultiTaskInferer
    from mtnet.inference.calibration import Calibration
    from mtnet.nets import MultiTaskNet

_LOG = logging.getLogger("mtnet.hosts")


def bundle_root(name: str) -> str:
    """The bundle that MONAI is running, wherever it was started from.

    MONAI tells a config nothing of where it lies, but puts the bundle's folder in front of Python's search path before
    it runs one (``ConfigWorkflow.run``). Where only single parts of a config are asked for, the bundle is looked for
    by its name as ``--bundle`` does; a host that knows better overrides the config's ``bundle_root``.

    Returns:
        its folder; the name itself where there is none, so that parts that need no file can still be built.
    """
    for place in sys.path:
        if _is_bundle(Path(place), name):
            return place
    try:
        return str(find_bundle(name))
    except BundleError:
        return name


class BundleWeights:
    """Handler for MONAI's evaluator: loads and checks the bundle's weights when it starts.

    Args:
        bundle_root: the bundle.
        network: that the evaluator runs.
        weights: load this file in place of the bundle's own, or the one of this name that it offers; nobody vouches for
            a file then.
        size: that images are brought to; weights that the bundle offers for another are told of in the log.
    """

    def __init__(
        self, bundle_root: str, network: MultiTaskNet, weights: str | None = None, size: Sequence[int] | None = None
    ) -> None:
        self.bundle_root = Path(bundle_root)
        self.network = network
        self.weights = weights
        self.size = size

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator."""
        from ignite.engine import Events

        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Load them.

        Raises:
            BundleError: there is no such bundle, or its weights are missing, not its own, or for other labels.
            ValueError: the weights do not fit the network.
        """
        _, calibration = _load_weights(
            self.network, Bundle.read(self.bundle_root).with_weights(self.weights), self.size
        )
        if calibration is not None:
            calibration.apply(self.network)


class StudyRun:
    """Answer every study of a folder and write the results, with the parts that the config built.

    Args:
        bundle_root: the bundle; its weights are loaded and checked.
        network, preprocessing, inferer: as the config made them, overrides included.
        device: where to run.
        weights, size: as ``BundleWeights``.

    Raises:
        BundleError: there is no such bundle, its input domain is not valid, or its weights are missing, not its own, or
            for other labels than the network has.
        ValueError: the weights do not fit the network.
    """

    def __init__(
        self,
        bundle_root: str,
        network: MultiTaskNet,
        preprocessing: Transform,
        inferer: MultiTaskInferer,
        device: str = "cpu",
        weights: str | None = None,
        size: Sequence[int] | None = None,
    ) -> None:
        bundle = Bundle.read(Path(bundle_root)).with_weights(weights)
        model, calibration = _load_weights(network, bundle, size)
        self.predictor = Predictor(network, preprocessing, inferer, model, device, bundle.input_domain(), calibration)

    def __call__(
        self,
        dataset_dir: str,
        output_dir: str,
        *,
        at: Sequence[Sequence[float]] | None = None,
        lesions: str | None = None,
    ) -> list[Path]:
        """Answer what lies under ``dataset_dir`` into ``output_dir`` and return the files that were written.

        Args:
            dataset_dir: what ``mtnet infer`` takes as PATH.
            output_dir: folder for the results.
            at: places (x, y, z) in LPS mm, for a network of points.
            lesions: or the ``findings.json`` of an earlier run, at whose lesions it is to look.

        Raises:
            FileNotFoundError: there is no such ``findings.json``.
            ValueError: the places are none, or the network is none of points.
            RefusedError: a study was refused; what others gave has been written.
        """
        files: list[Path] = []
        refusals: list[ReportLine] = []
        options = ReadOptions(points=asked(at, None if lesions is None else Path(lesions)))
        for outcome in answer_studies(self.predictor, Path(dataset_dir), Path(output_dir), options):
            files.extend(outcome.written.files if outcome.written else ())
            refusals.extend(outcome.refusal)
        if refusals:
            raise RefusedError(refusals)
        return files


def _load_weights(
    network: MultiTaskNet, bundle: Bundle, size: Sequence[int] | None
) -> tuple[ModelInfo, Calibration | None]:
    from mtnet.inference.calibration import read_calibration
    from mtnet.nets import load_state

    model = bundle.model_info()
    first = Bundle.read(bundle.folder).config
    options = {key: value for key, value in bundle.config.items() if value != first.get(key)}
    overrides = " ".join(f'--{key} "{value}"' for key, value in options.items())
    names, own = bundle.config.get("labels"), {label.name for spec in network.outputs for label in spec.labels}
    if bundle.given_weights is not None and names is not None and not own.issuperset(names):
        told = ", ".join(sorted(own))
        overrides = overrides if "labels" in options else f'--labels "{names}" {overrides}'.rstrip()
        raise BundleError(f"{bundle.weights.name} is for labels {names}, the network has {told}; run with {overrides}.")
    try:
        load_state(network, bundle.weights)
    except ValueError as error:
        if not options:
            raise
        raise BundleError(f"{bundle.weights.name} is for another network; run with {overrides}.") from error
    trained = options.get("size")
    if trained is not None and size is not None and list(size) != trained:
        _LOG.warning("%s was trained at size %s, this run has %s", bundle.weights.name, trained, list(size))
    return model, read_calibration(bundle.weights, model.weights_sha256)


def _is_bundle(folder: Path, name: str) -> bool:
    try:
        return bool(Bundle.read(folder).metadata["name"] == name)
    except (BundleError, OSError):
        return False
