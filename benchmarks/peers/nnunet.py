"""nnU-Net v2 on the samples of a manifest, by its own recipe: ``python -m benchmarks.peers.nnunet MANIFEST OUT``.

It plans, trains and predicts by its own commands (``pip install nnunetv2``), on our splits: ``train`` learns, ``val``
is its validation fold, ``test`` is answered without mirroring. ``OUT/records.json`` is what ``mtnet evaluate --compare
OUT`` takes. A training takes hours on a GPU and weeks on a CPU, so without a GPU it says so and ends.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mtnet.evaluation import segmentation
from mtnet.evaluation.records import RECORDS_FILE, Evaluated, SampleRecord, write_records
from mtnet.sources.manifest import Manifest, Sample, read_manifest
from mtnet.sources.masks import read_mask
from mtnet.structures import ModelInfo

NUMBER = 501
"""nnU-Net's number of the data set."""
NAME = f"Dataset{NUMBER}_mtnet"
_SPLITS = ("train", "val")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the data set, run nnU-Net's commands, note what it answered; 1 where something it needs is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.nnunet", description=__doc__.split("\n")[0])
    parser.add_argument("manifest", type=Path, help="that mtnet prepare wrote, of 2D images")
    parser.add_argument("out", type=Path, help="folder for data, plans, weights and records.json")
    parser.add_argument("--trainer", default="nnUNetTrainer", help="such as nnUNetTrainer_100epochs")
    options = parser.parse_args(arguments)
    if missing := what_is_missing():
        print(f"not run: {missing}", file=sys.stderr)
        return 1
    manifest = read_manifest(options.manifest)
    tested = write_dataset(manifest, options.out)
    folders = {f"nnUNet_{kind}": str(options.out / kind) for kind in ("raw", "preprocessed", "results")}
    for command in commands(options.out, options.trainer):
        if command[0] == "nnUNetv2_train":
            shutil.copy(options.out / "splits_final.json", options.out / "preprocessed" / NAME)
        subprocess.run(command, check=True, env={**os.environ, **folders})
    weights = next((options.out / "results" / NAME).rglob("checkpoint_final.pth"))
    write_records(records(tested, options.out / "answers", weights), options.out / RECORDS_FILE)
    print(
        f"written: {options.out / RECORDS_FILE}; mtnet evaluate BUNDLE {options.manifest} OUT --compare {options.out}"
    )
    return 0


def what_is_missing() -> str:
    """What keeps nnU-Net from running here; empty for nothing."""
    import torch

    if not torch.cuda.is_available():
        return "nnU-Net v2 trains for hours on a GPU, and torch sees none here. Run this where one is."
    if shutil.which("nnUNetv2_train") is None:
        return "nnU-Net v2 is not installed: pip install nnunetv2."
    return ""


def commands(out: Path, trainer: str) -> list[list[str]]:
    """nnU-Net's commands, in order."""
    which = ["-d", str(NUMBER), "-c", "2d", "-tr", trainer, "-f", "0"]
    return [
        ["nnUNetv2_plan_and_preprocess", "-d", str(NUMBER), "-c", "2d", "--verify_dataset_integrity"],
        ["nnUNetv2_train", str(NUMBER), "2d", "0", "-tr", trainer],
        ["nnUNetv2_predict", "-i", str(out / "test"), "-o", str(out / "answers"), *which, "--disable_tta"],
    ]


def write_dataset(manifest: Manifest, out: Path) -> dict[str, Sample]:
    """The samples with masks as an nnU-Net data set of RGB images; returns those to be tested by their case's name."""
    raw = out / "raw" / NAME
    places = {"train": raw / "imagesTr", "val": raw / "imagesTr", "test": out / "test"}
    for folder in (*places.values(), raw / "labelsTr"):
        folder.mkdir(parents=True, exist_ok=True)
    cases: dict[str, dict[str, Sample]] = {split: {} for split in places}
    for number, sample in enumerate(manifest.samples):
        if sample.masks is None or sample.split not in places:
            continue
        name = f"case{number:05d}"
        cases[sample.split][name] = sample
        with Image.open(sample.image) as image:
            image.convert("RGB").save(places[sample.split] / f"{name}_0000.png")
            if sample.split in _SPLITS:
                Image.fromarray(_mask(sample, image.size).T.astype(np.uint8)).save(raw / "labelsTr" / f"{name}.png")
    if not all(cases.values()):
        empty = ", ".join(split for split, found in cases.items() if not found)
        raise ValueError(f"The manifest has no samples with masks in {empty}; nnU-Net needs all three splits.")
    description = {
        "channel_names": {"0": "red", "1": "green", "2": "blue"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": sum(len(cases[split]) for split in _SPLITS),
        "file_ending": ".png",
        "overwrite_image_reader_writer": "NaturalImage2DIO",
    }
    (raw / "dataset.json").write_text(json.dumps(description, indent=1), encoding="ascii")
    splits = [{split: list(cases[split]) for split in _SPLITS}]
    (out / "splits_final.json").write_text(json.dumps(splits), encoding="ascii")
    return cases["test"]


def records(tested: dict[str, Sample], answers: Path, weights: Path) -> Evaluated:
    """What nnU-Net answered, noted as ``mtnet evaluate`` notes it."""
    noted = []
    for name, sample in tested.items():
        with Image.open(answers / f"{name}.png") as image:
            answer = (np.asarray(image) > 0).T
        note = segmentation.record_of(_mask(sample, answer.shape), answer, None)
        notes = {"segmentation": note}
        noted.append(SampleRecord(sample.id, sample.source, sample.group, str(sample.image), False, notes))
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return Evaluated(ModelInfo("nnU-Net v2", "2", digest, "the manifest's train split"), "test", tuple(noted))


def _mask(sample: Sample, size: Sequence[int]) -> np.ndarray:
    """``(i, j)``, columns first; all False where the lesion is known to be none."""
    mask = read_mask(sample)
    return np.zeros(tuple(size), dtype=bool) if mask is None else mask


if __name__ == "__main__":
    sys.exit(main())
