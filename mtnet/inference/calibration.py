"""What was learned about weights after their training, in a file beside them: temperatures, operating points, and from
where on an image is unlike those that they were trained for."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtnet.inference.training_distance import FeatureModel, FloatArray
from mtnet.io.atomic import atomic_path
from mtnet.structures import TrainingDistance

if TYPE_CHECKING:
    from mtnet.nets import MultiTaskNet

SCHEMA_VERSION = "1.0"
SUFFIX = ".calibration.json"
FEATURES, RECONSTRUCTION = "features", "reconstruction"
_LOG = logging.getLogger("mtnet")


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What holds for one file of weights.

    Args:
        weights_sha256: of the file.
        temperatures: by output; its logits are divided by it.
        features: what the encoder makes of images of the network's own kind.
        thresholds: by ``features`` and ``reconstruction``, the distance above which an image counts as unlike them.
        operating_points: as ``mtnet evaluate`` tells them; for people and hosts, nothing takes them up.
        fitted_on: on what it was fitted, and how well that went.

    Raises:
        ValueError: a temperature or threshold is not above 0.
    """

    weights_sha256: str
    temperatures: Mapping[str, float] = field(default_factory=dict)
    features: FeatureModel | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    operating_points: Mapping[str, Any] = field(default_factory=dict)
    fitted_on: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in {**self.temperatures, **self.thresholds}.items():
            if not value > 0:
                raise ValueError(f"Calibration has {value} for {name!r}; expected more than 0.")

    @property
    def digest(self) -> str:
        """Twelve digits that tell one calibration from another, for results."""
        told = json.dumps([self.weights_sha256, dict(self.temperatures), dict(self.thresholds)], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:12]

    def apply(self, network: MultiTaskNet) -> None:
        """Give the outputs of the network their temperatures."""
        network.outputs = tuple(
            replace(spec, temperature=self.temperatures.get(spec.name, spec.temperature)) for spec in network.outputs
        )

    def distances(
        self, features: FloatArray | None, reconstruction_error: Mapping[str, float]
    ) -> tuple[TrainingDistance, ...]:
        """How far an image is from those that the network was trained for, by every measure that can be told.

        Args:
            features: ``(N, D)`` of the image, or of each place that was asked about: the farthest counts.
            reconstruction_error: of the findings.
        """
        found = []
        if self.features is not None and features is not None and FEATURES in self.thresholds:
            score = float(self.features.score(features).max())
            found.append(TrainingDistance(FEATURES, score, self.thresholds[FEATURES]))
        if reconstruction_error and RECONSTRUCTION in self.thresholds:
            error = next(iter(reconstruction_error.values()))
            found.append(TrainingDistance(RECONSTRUCTION, float(error), self.thresholds[RECONSTRUCTION]))
        return tuple(found)


def calibration_file(weights: Path) -> Path:
    """Where the calibration of a file of weights lies."""
    return weights.with_name(weights.name + SUFFIX)


def read_calibration(weights: Path, weights_sha256: str) -> Calibration | None:
    """The calibration beside a file of weights; None where there is none, or one of other weights, which is logged.

    Raises:
        ValueError: it is no calibration, or one of another version.
    """
    path = calibration_file(weights)
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        version = document["schema_version"]
        if version != SCHEMA_VERSION:
            raise ValueError(f"schema_version is {version!r}; this version of mtnet reads {SCHEMA_VERSION}")
        found = Calibration(
            weights_sha256=str(document["weights_sha256"]),
            temperatures={name: float(value) for name, value in document["temperatures"].items()},
            features=None if document["features"] is None else FeatureModel.from_dict(document["features"]),
            thresholds={name: float(value) for name, value in document["thresholds"].items()},
            operating_points=document["operating_points"],
            fitted_on=document["fitted_on"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no calibration ({error}). Remove it, or make it again with mtnet evaluate --split val --store."
        ) from error
    if found.weights_sha256 != weights_sha256:
        _LOG.warning("%s is of other weights and not used; mtnet evaluate --split val --store makes it anew", path.name)
        return None
    return found


def write_calibration(calibration: Calibration, weights: Path) -> Path:
    """Write a calibration beside its weights and return the file."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "weights_sha256": calibration.weights_sha256,
        "fitted_on": dict(calibration.fitted_on),
        "temperatures": dict(calibration.temperatures),
        "thresholds": dict(calibration.thresholds),
        "operating_points": dict(calibration.operating_points),
        "features": None if calibration.features is None else calibration.features.to_dict(),
    }
    path = calibration_file(weights)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(document, allow_nan=False) + "\n", encoding="utf-8")
    return path
