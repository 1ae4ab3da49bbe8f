"""Which image to label next: scores of what the network said of each, and strategies that go by them.

Runs in MONAI Label's environment only.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.exception import ImageNotFoundException
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.utils.others.generic import name_to_device
from numpy.typing import NDArray

from mtnet.hosts.label.answerer import Answered, Answerer
from mtnet.io.atomic import atomic_path
from mtnet.structures import RefusedError

INFO = "mtnet"
"""Key of an image's info in the datastore that holds its scores."""
WEIGHTS, REFUSED, UNLIKE_LABELLED = "weights", "refused", "unlike_labelled"

_log = logging.getLogger(__name__)


class FeatureFiles:
    """What the encoder made of each image, a file each, by weights: rows that a datastore's JSON is no place for.

    Args:
        folder: of the app's workspace.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def put(self, weights: str, image: str, features: NDArray[np.float64]) -> None:
        """Keep those of an image."""
        path = self._path(weights, image)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            np.save(temporary, features)

    def get(self, weights: str, image: str) -> NDArray[np.float64] | None:
        """Those of an image, or None where it was not scored with these weights."""
        path = self._path(weights, image)
        return np.load(path) if path.is_file() else None

    def _path(self, weights: str, image: str) -> Path:
        return self.folder / weights[:16] / f"{hashlib.sha256(image.encode()).hexdigest()[:32]}.npy"


def record(datastore: Datastore, image: str, answered: Answered, features: FeatureFiles) -> None:
    """Note in the datastore what an answer tells of its image."""
    weights = answered.findings.model.weights_sha256
    told = {
        "uncertainty": answered.signals.uncertainty,
        "disagreement": answered.signals.disagreement,
        "unlike_training": answered.signals.unlike_training,
    }
    scores = {name: round(value, 6) for name, value in told.items() if value is not None}
    features.put(weights, image, answered.features)
    _note(datastore, image, {WEIGHTS: weights[:16], **scores})


class FindingsScoring(ScoringMethod):  # type: ignore[misc]  # MONAI Label is not typed
    """Has the network answer every image that it has not scored with its current weights.

    Args:
        answerer: of the network.
        features: where features are kept.
    """

    def __init__(self, answerer: Answerer, features: FeatureFiles) -> None:
        super().__init__("Uncertainty, disagreement between tasks and features of every image, in one pass each")
        self.answerer = answerer
        self.features = features

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score; ``max_images`` of the request is the most to do.

        Returns:
            how many were ``scored`` now, were ``known``, and were ``refused``.
        """
        weights = self.answerer.weights_sha256()
        limit = int(request.get("max_images") or 0)
        device = name_to_device(request.get("device"))
        done = {"scored": 0, "known": 0, "refused": 0}
        for image in sorted(datastore.list_images()):
            if _scores(datastore, image).get(WEIGHTS) == weights[:16]:
                done["known"] += 1
                continue
            if limit and done["scored"] + done["refused"] >= limit:
                break
            try:
                answered = self.answerer.answer(Path(datastore.get_image_uri(image)), device)
            except RefusedError as refused:
                codes = sorted({line.code for line in refused.lines})
                _note(datastore, image, {WEIGHTS: weights[:16], REFUSED: codes})
                _log.warning("An image was refused and is not scored (%s)", ", ".join(codes))
                done["refused"] += 1
                continue
            record(datastore, image, answered, self.features)
            done["scored"] += 1
        return done


class HighestFirst(Strategy):  # type: ignore[misc]  # MONAI Label is not typed
    """The image without a final label that has the highest score of one kind.

    It runs nothing: where no image has been scored with the current weights, it gives the first and says so.

    Args:
        answerer: of the network.
        score: key of the score.
        description: for people.
    """

    def __init__(self, answerer: Answerer, score: str, description: str) -> None:
        super().__init__(description)
        self.answerer = answerer
        self.score = score

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """``id`` and ``weight`` of the image, how many were to choose from, and a ``note`` where none was scored."""
        images = sorted(datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels")))
        infos = {image: _scores(datastore, image) for image in images}
        weights = self.answerer.weights_sha256()[:16]
        fit = [image for image in images if not (infos[image].get(WEIGHTS) == weights and REFUSED in infos[image])]
        if not fit:
            return None
        known = self.values([image for image in fit if infos[image].get(WEIGHTS) == weights], infos, datastore)
        counts = {"scored": len(known), "unlabelled": len(images)}
        if not known:
            return {"id": fit[0], "weight": 0.0, **counts, "note": self.nothing_known()}
        best = max(known, key=lambda image: known[image])
        return {"id": best, "weight": known[best], **counts}

    def values(
        self, images: Sequence[str], infos: Mapping[str, Mapping[str, Any]], datastore: Datastore
    ) -> dict[str, float]:
        """The score of each of the images that has one."""
        return {image: float(infos[image][self.score]) for image in images if self.score in infos[image]}

    def nothing_known(self) -> str:
        """What to do where nothing is known."""
        return "No image has been scored with the current weights: POST /scoring/<name> scores them all."


class UnlikeLabelled(HighestFirst):
    """The image whose features are farthest from those of any image that has a final label: what the network has been
    taught nothing like here.

    Distance is 1 - cosine to the nearest labelled image.

    Args:
        answerer: of the network.
        features: where features are kept.
    """

    def __init__(self, answerer: Answerer, features: FeatureFiles) -> None:
        super().__init__(answerer, UNLIKE_LABELLED, "Farthest in the encoder's features from every labelled image")
        self.features = features

    def values(
        self, images: Sequence[str], infos: Mapping[str, Mapping[str, Any]], datastore: Datastore
    ) -> dict[str, float]:
        """The distance of each of the images to the nearest labelled one; empty where none is labelled and scored."""
        weights = self.answerer.weights_sha256()
        taught = self._rows(weights, sorted(datastore.get_labeled_images()))
        rows = self._rows(weights, images)
        if not taught or not rows:
            return {}
        cosines = np.stack(list(rows.values())) @ np.stack(list(taught.values())).T
        return dict(zip(rows, (1 - cosines.max(axis=1)).tolist(), strict=True))

    def nothing_known(self) -> str:
        """What to do where nothing is known."""
        return "No labelled image has been scored with the current weights: label one, then POST /scoring/<name>."

    def _rows(self, weights: str, images: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Features of unit length, of the images that have some."""
        found = {}
        for image in images:
            row = self.features.get(weights, image)
            if row is not None and (length := float(np.linalg.norm(row))) > 0:
                found[image] = row.astype(np.float64) / length
        return found


def _scores(datastore: Datastore, image: str) -> dict[str, Any]:
    return dict(datastore.get_image_info(image).get(INFO, {}))


def _note(datastore: Datastore, image: str, scores: Mapping[str, Any]) -> None:
    with suppress(ImageNotFoundException):
        datastore.update_image_info(image, {INFO: dict(scores)})
