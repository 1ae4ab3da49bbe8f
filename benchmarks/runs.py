"""Trainings of the queue that are done: their networks as predictors, scored once by ``mtnet evaluate``'s own code.

What was scored can be kept in the repository, sample by sample, without weights and pixels. Tables are made from it
where the trainings are not, also those whose trainings were done on several machines.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from torch import nn

from mtnet.bundle import Bundle
from mtnet.evaluation.records import RECORDS_FILE, Evaluated, read_records, write_records
from mtnet.evaluation.run import EvaluatedSplit, Progress, evaluate
from mtnet.nets import load_state
from mtnet.predictor import Predictor
from mtnet.sources.manifest import read_manifest
from mtnet.structures import ModelInfo
from mtnet.training.queue import Job

KEPT = Path("benchmarks/results/runs")


def network_of(job: Job, **options: Any) -> nn.Module:
    """The network that a job trains, with its first weights.

    Args:
        job: of a queue.
        options: overrides beside the job's own.
    """
    parser = ConfigParser()
    parser.read_config(job.config)
    for name, value in {**job.overrides, **options}.items():
        parser[name] = value
    network: nn.Module = parser.get_parsed_content("network_def")
    return network


def predictor_of(job: Job, folder: Path, device: str = "cpu") -> Predictor:
    """A finished job's network in the chain of its bundle, with the job's options (``size``, ``spatial_dims``...).

    Args:
        job: of a queue.
        folder: of its state.
        device: where the network runs.

    Raises:
        FileNotFoundError: there are no weights yet.
    """
    weights = folder / "model.pt"
    if not weights.is_file():
        raise FileNotFoundError(f"{weights} is missing: the queue has not published weights of {job.name!r} yet.")
    network = network_of(job)
    load_state(network, weights)
    bundle = Bundle.read(Path(job.config).parents[1])
    bundle.config.update({name: value for name, value in job.overrides.items() if name in bundle.config})
    manifest = read_manifest(folder / "manifest.json")
    model = ModelInfo(
        name=job.name,
        version=bundle.metadata["version"],
        weights_sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        training_data=", ".join(source.title for source in manifest.sources),
    )
    # A peer is no MultiTaskNet; the predictor asks for outputs and an answer alone.
    parts: Any = (network, bundle.build("preprocessing"), bundle.build("inferer"))
    return Predictor(*parts, model, device, bundle.input_domain())


def scored(
    job: Job, folder: Path, split: EvaluatedSplit = "test", device: str = "cpu", progress: Progress | None = None
) -> Evaluated:
    """What a finished job's network answers on a split of its manifest; kept, and made again for other weights.

    ``FOLDER/scores-SPLIT/records.json`` is what ``mtnet evaluate --compare`` takes.
    """
    records, weights = folder / f"scores-{split}" / RECORDS_FILE, folder / "model.pt"
    if records.is_file() and weights.is_file():
        kept = read_records(records)
        if kept.model.weights_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest():
            return kept
    predictor = predictor_of(job, folder, device)
    evaluated = evaluate(predictor, read_manifest(folder / "manifest.json"), split, progress=progress)
    records.parent.mkdir(exist_ok=True)
    write_records(evaluated, records)
    return evaluated


def kept_file(job: Job, baseline: str = "") -> Path:
    """Where the records of a job's test split are kept, or those of a row under it; another job has another file."""
    return KEPT / f"{'--'.join(part for part in (job.name, job.digest, baseline) if part)}.json"


def keep(job: Job, evaluated: Evaluated, baselines: Mapping[str, Evaluated] | None = None) -> None:
    """Keep records of a job, and of the rows under it, without the folders of this machine."""
    KEPT.mkdir(parents=True, exist_ok=True)
    for earlier in KEPT.glob(f"{job.name}--*.json"):
        earlier.unlink()
    for baseline, records in {"": evaluated, **(baselines or {})}.items():
        samples = tuple(replace(one, image=Path(one.image).name) for one in records.samples)
        write_records(replace(records, samples=samples), kept_file(job, baseline))


def kept(job: Job) -> Evaluated | None:
    """What ``keep`` kept of a job as it is now."""
    own = kept_file(job)
    return read_records(own) if own.is_file() else None


def kept_baselines(job: Job) -> dict[str, Evaluated]:
    """The rows under a job as it is now that ``keep`` kept."""
    files = KEPT.glob(f"{kept_file(job).stem}--*.json")
    return {path.stem.rpartition("--")[2]: read_records(path) for path in files}


def is_done(folder: Path) -> bool:
    """Whether a job's last epoch is behind it."""
    curve = folder / "curve.json"
    if not curve.is_file():
        return False
    told = json.loads(curve.read_text(encoding="ascii"))
    return bool(told["epochs"]) and told["epochs"][-1]["epoch"] >= told["max_epochs"]
