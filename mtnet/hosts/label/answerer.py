"""One loaded network that answers an image once, however many tasks its client picks one after the other."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtnet.bundle import Bundle
from mtnet.cases import ReadOptions
from mtnet.hosts.label.signals import Signals, signals_of
from mtnet.inference.calibration import calibration_file, read_calibration
from mtnet.points import points_at
from mtnet.predictor import Predictor
from mtnet.structures import Findings, InputDomain, OutputSpec

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

CACHE_BYTES = 2 << 30
"""Findings that are kept: a chest CT of 512 x 512 x 300 voxels takes half a GiB."""

_SWITCHES = ("strict", "repair", "allow_outside")


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """What a network said of one image.

    Args:
        findings: as ``mtnet infer`` has them.
        signals: what they tell of themselves.
        features: ``(D,)``, means of the encoder's levels over all windows that ran (``FeatureTap``).
        header: of one DICOM image or clip, its data set without pixels.
    """

    findings: Findings
    signals: Signals
    features: NDArray[np.float64]
    header: Dataset | None


class Answerer:
    """Answers images with the bundle's current weights, one at a time. Weights that were trained anew are loaded before
    the next image.

    Args:
        bundle: its folder.
        cache_bytes: findings are kept up to this size; the last ones always.

    ``passes`` counts the images that went through the network.
    """

    def __init__(self, bundle: Path, cache_bytes: int = CACHE_BYTES) -> None:
        self.bundle = Path(bundle)
        self.cache_bytes = cache_bytes
        self.passes = 0
        self._kept: OrderedDict[Hashable, Answered] = OrderedDict()
        self._lock = threading.RLock()
        self._predictor: Predictor | None = None
        self._loaded: Hashable = None

        self.outputs: tuple[OutputSpec, ...] = tuple(Bundle.read(self.bundle).build("network_def").outputs)

    @property
    def domain(self) -> InputDomain | None:
        """The images that the network is made for."""
        return Bundle.read(self.bundle).input_domain()

    @property
    def spatial_dims(self) -> int:
        """Axes of the images that it answers: a network of points is 2D, and answers volumes."""
        domain = self.domain
        return 3 if domain is None else domain.spatial_dims

    @property
    def calibrated(self) -> bool:
        """Whether the weights come with limits of what they were trained for."""
        bundle = Bundle.read(self.bundle)
        found = read_calibration(bundle.weights, bundle.check_weights())
        return found is not None and bool(found.thresholds)

    def weights_sha256(self) -> str:
        """Of the weights that answer next.

        Raises:
            BundleError: they are missing or not the bundle's own.
        """
        return Bundle.read(self.bundle).check_weights()

    def answer(self, image: Path, device: str = "cpu", asked: Mapping[str, Any] | None = None) -> Answered:
        """What the network says of an image; of one that was answered before, with the same weights, what is kept.

        Args:
            image: file, or folder of DICOM files.
            device: where to run.
            asked: of a client: ``at_lps_mm`` (a place, or several), ``strict``, ``repair``, ``allow_outside``.

        Raises:
            RefusedError: the image cannot be read right, or the network is not made for it.
            BundleError: the weights are missing or not the bundle's own.
            ValueError: what was asked is not what is described above.
        """
        options = read_options(asked or {})
        with self._lock:
            predictor = self._current(device)
            key = (_stamps(image), repr(sorted(_told(asked or {}).items())))
            if key not in self._kept:
                self._kept[key] = self._answered(predictor, image, options)
            self._kept.move_to_end(key)
            while len(self._kept) > 1 and sum(map(_bytes, self._kept.values())) > self.cache_bytes:
                self._kept.popitem(last=False)
            return self._kept[key]

    def _answered(self, predictor: Predictor, image: Path, options: ReadOptions) -> Answered:
        case = predictor.read(image, options)
        answers = predictor.infer(case)
        findings = predictor.finish(case, answers)
        self.passes += 1
        features = np.zeros(0) if answers.features is None else answers.features.mean(axis=0)
        return Answered(findings, signals_of(predictor.network.outputs, answers, findings), features, case.header)

    def _current(self, device: str) -> Predictor:
        weights = Bundle.read(self.bundle).weights
        beside = (weights, calibration_file(weights))
        stamp: Hashable = (device, tuple(_stamps(file) for file in beside if file.is_file()))
        if self._predictor is None or stamp != self._loaded:
            self._predictor = None
            self._kept.clear()
            # A bundle without weights is refused here, with the reason.
            predictor = Predictor.from_bundle(self.bundle, device=device)
            predictor.keeps_features = True
            self._predictor, self._loaded = predictor, stamp
        return self._predictor


def read_options(asked: Mapping[str, Any]) -> ReadOptions:
    """How an image is to be read, of what a client asked for.

    Raises:
        ValueError: places are not numbers x, y, z.
    """
    told = _told(asked)
    places = told.get("at_lps_mm")
    points = None
    if places is not None:
        try:
            points = points_at(np.array(places, dtype=np.float64).reshape(-1, 3).tolist())
        except (TypeError, ValueError):
            expected = "expected x, y, z in LPS mm, or a list of such places"
            raise ValueError(f"at_lps_mm is {places!r}; {expected}.") from None
    return ReadOptions(
        points=points,
        strict=bool(told.get("strict")),
        repair=bool(told.get("repair")),
        allow_outside=bool(told.get("allow_outside")),
    )


def _told(asked: Mapping[str, Any]) -> dict[str, Any]:
    return {name: asked[name] for name in ("at_lps_mm", *_SWITCHES) if asked.get(name) not in (None, False)}


def _stamps(path: Path) -> tuple[tuple[str, int, int], ...]:
    """What changes when a file, or one in a folder, is another."""
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    return tuple((str(one), one.stat().st_size, one.stat().st_mtime_ns) for one in files)


def _bytes(answered: Answered) -> int:
    found = answered.findings
    maps = (found.label_map, found.lesion_map, found.reconstruction)
    return sum(volume.array.nbytes for volume in maps if volume is not None)
