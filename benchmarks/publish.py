"""``python -m benchmarks.publish JOB``: the weights of a finished training into its bundle, calibrated.

Temperatures are fitted on split ``val`` and folded into the last layers, so that a host that knows of no calibration
answers with calibrated chances too. Thresholds of what is unlike the training data and operating points are fitted
after that and stored beside the weights. The curve goes into the card's folder, the SHA-256 into ``metadata.json``;
what the card says is written by hand.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.runs import is_done
from mtnet.bundle import Bundle
from mtnet.evaluation.calibrate import calibration_of
from mtnet.evaluation.run import evaluate
from mtnet.inference.calibration import calibration_file, write_calibration
from mtnet.io.atomic import atomic_path
from mtnet.nets import MultiTaskNet, load_state, save_state
from mtnet.nets.heads import ClassificationHead
from mtnet.predictor import Predictor
from mtnet.sources.manifest import read_manifest
from mtnet.training.queue import JOBS, STATE, read_jobs

LARGEST_BYTES = 20_000_000
"""Of all weights of a bundle."""


def fold_temperatures(network: MultiTaskNet, temperatures: Mapping[str, float]) -> None:
    """Divide logits by their temperatures in the layers that make them.

    Raises:
        ValueError: an output with a temperature is not of a ``ClassificationHead``.
    """
    heads = {m.name: m for m in network.modules() if isinstance(m, ClassificationHead)}
    for name, temperature in temperatures.items():
        if name not in heads:
            raise ValueError(f"{name!r} has a temperature and no linear layer to fold it into.")
        values = len(heads[name].outputs[0].labels)
        with torch.no_grad():
            heads[name].linear.weight[:values] /= temperature
            heads[name].linear.bias[:values] /= temperature


def note_digest(metadata: Path, name: str, digest: str) -> None:
    """Put the SHA-256 of weights where ``weights_sha256`` of theirs stands in the metadata.

    Raises:
        ValueError: nothing is said of weights by that name; what they are is written by hand.
    """
    text = metadata.read_text("utf-8")
    told = json.loads(text)
    if name != "model.pt":
        told = told.get("other_weights", {}).get(name, {})
    if "weights_sha256" not in told:
        where = "its top level" if name == "model.pt" else f"other_weights#{name}"
        raise ValueError(f'{metadata}: no weights_sha256 at {where}; write "weights_sha256": "{name}" there first.')
    said, key = told["weights_sha256"], '"weights_sha256": '
    with atomic_path(metadata) as path:
        path.write_text(text.replace(f'{key}"{said}"', f'{key}"{digest}"', 1), encoding="utf-8")


def publish(trained: Path, bundle: Path, name: str) -> dict[str, Any]:
    """Put the weights of a training's folder into a bundle as ``models/NAME``; what was fitted, for the card."""
    target = bundle / "models" / name
    target.parent.mkdir(exist_ok=True)
    manifest = read_manifest(trained / "manifest.json")
    calibration_file(trained / "model.pt").unlink(missing_ok=True)
    raw = Predictor.from_bundle(bundle, weights=trained / "model.pt")
    fitted = None
    if any(spec.kind == "global" and spec.labels for spec in raw.network.outputs):
        fitted = calibration_of(evaluate(raw, manifest, "val"), raw.network.outputs)
    network: MultiTaskNet = Bundle.read(bundle).build("network_def")
    load_state(network, trained / "model.pt")
    if fitted is not None:
        fold_temperatures(network, fitted.temperatures)
    save_state(network, target)
    calibration_file(target).unlink(missing_ok=True)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    note_digest(bundle / "configs" / "metadata.json", name, digest)

    features: dict[str, Any] = {}
    ready = Predictor.from_bundle(bundle, weights=target)
    evaluated = evaluate(ready, manifest, "val", features=features)
    found = calibration_of(evaluated, ready.network.outputs, features)
    told = {} if fitted is None else {**fitted.fitted_on, "by": dict(fitted.temperatures)}
    write_calibration(replace(found, temperatures={}, fitted_on={**found.fitted_on, "folded": told}), target)

    shutil.copyfile(trained / "curve.png", bundle / "docs" / f"{target.stem}_training.png")
    size = sum(file.stat().st_size for file in target.parent.iterdir())
    if size > LARGEST_BYTES:
        raise ValueError(f"{target.parent} has {size} bytes; expected at most {LARGEST_BYTES}.")
    return {"sha256": digest, "bytes": target.stat().st_size, "folded": told, "thresholds": dict(found.thresholds)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Publish one job; 1 where it is not done."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.publish", description=__doc__.split("\n")[0])
    parser.add_argument("job")
    parser.add_argument("--name", default="model.pt", help="file below models/ (default: model.pt)")
    parser.add_argument("--state", type=Path, default=STATE, help=f"folder of the queue (default: {STATE})")
    options = parser.parse_args(arguments)
    job = next((job for job in read_jobs(JOBS) if job.name == options.job), None)
    if job is None:
        parser.error(f"there is no job {options.job!r} in {JOBS}")
    if not is_done(options.state / job.name):
        print(f"{job.name} is not done; python -m mtnet.training.queue --only {job.name}", file=sys.stderr)
        return 1
    print(json.dumps(publish(options.state / job.name, Path(job.config).parents[1], options.name), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
