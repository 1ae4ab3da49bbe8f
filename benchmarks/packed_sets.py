"""Trainings that travel: a job's images at its training size in 8 bits, and the queue on a machine without the sets.

``python -m benchmarks.gpu_pack`` packs them; ``python -m benchmarks.packed_sets`` (``make train-packed`` there) unpacks
them and runs the queue for these jobs. Splits ``train`` and ``val`` travel; what is tested is tested at home.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from PIL import Image

from mtnet.sources.manifest import Manifest, Sample, read_manifest, write_manifest
from mtnet.sources.masks import read_mask
from mtnet.systems.chest_ct import HU_WINDOW
from mtnet.training.queue import JOBS, STATE, Job, prepare_commands
from mtnet.training.queue import main as run_queue
from mtnet.training.samples import LoadSampled
from mtnet.transforms.pictures import IMAGENET_MEAN, IMAGENET_STD

_VOLUME = (".nii", ".nii.gz")
_PICTURE = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_SPLITS = ("train", "val")


class NotPackedError(Exception):
    """A job whose images cannot travel; the text says why."""


def pack_job(job: Job, state: Path, folder: Path) -> Manifest:
    """Write a job's manifest with its images below ``folder``, pictures as they come out of the deterministic steps.

    A network sees the same values to half of one of 255 steps; its masks are the same.

    Args:
        job: of a queue.
        state: of the queue; a manifest that it has is taken, else the sets are prepared.
        folder: to write to; made.

    Raises:
        NotPackedError: the config has no deterministic steps (chests are composed where they are trained on), or an
            image is neither a picture nor a NIfTI volume.
        CalledProcessError: ``mtnet prepare`` refused a set.
    """
    parser = ConfigParser()
    parser.read_config(job.config)
    if "deterministic_transforms" not in parser["train"]:
        raise NotPackedError(f"{job.name}: its config draws or cuts its samples while it trains.")
    for name, value in job.overrides.items():
        parser[name] = value
    steps = parser.get_parsed_content("train#deterministic_transforms")
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as workplace:
        prepared = state / job.name / "manifest.json"
        if not prepared.is_file():
            # Some sets are written anew beside their manifest.
            prepared = Path(workplace, "manifest.json")
            for command in prepare_commands(job, prepared):
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        manifest = read_manifest(prepared)
        chosen = [sample for sample in manifest.samples if sample.split in _SPLITS]
        packed = [_packed(sample, number, steps, folder) for number, sample in enumerate(chosen)]
    # What a source names beside its samples stays behind.
    small = Manifest(tuple(replace(source, files={}) for source in manifest.sources), tuple(packed))
    write_manifest(small, folder / "manifest.json")
    for image in [*folder.glob("images/*.png")]:
        # Lossless, and a third smaller than PNG on the way.
        Image.open(image).convert("RGB").save(image.with_suffix(".webp"), lossless=True)
        image.unlink()
    return small


def unpack(folder: Path) -> list[str]:
    """Turn what travelled below ``folder``, a job each, into what is trained on; the names of all packed jobs."""
    for image in folder.glob("*/images/*.webp"):
        Image.open(image).save(image.with_suffix(".png"))
        image.unlink()
    return sorted(place.parent.name for place in folder.glob("*/manifest.json"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Unpack, and run the queue for what was packed; 0 when all of it is trained."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.packed_sets", description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=Path, default=JOBS)
    parser.add_argument("--state", type=Path, default=STATE)
    parser.add_argument("--pieces", type=int, help="end after so many pieces")
    options = parser.parse_args(arguments)
    names = unpack(options.state)
    if not names:
        print(f"There are no packed sets in {options.state}; make gpu-pack packs them.", file=sys.stderr)
        return 1
    told = ["--jobs", str(options.jobs), "--state", str(options.state)]
    pieces = [] if options.pieces is None else ["--pieces", str(options.pieces)]
    return run_queue([*told, *pieces, *(word for name in names for word in ("--only", name))])


def _packed(sample: Sample, number: int, steps: Any, folder: Path) -> Sample:
    name = sample.image.name.lower()
    if name.endswith(_VOLUME):
        return _packed_volume(sample, number, folder)
    if not name.endswith(_PICTURE):
        raise NotPackedError(f"{sample.id}: {sample.image.name} is neither a picture nor a NIfTI volume.")
    item: dict[str, Any] = {"id": sample.id, "image": str(sample.image)}
    if sample.masks is not None:
        item["masks"] = [str(mask) for mask in sample.masks]
    before = LoadSampled(masks=False)({"image": str(sample.image)})["image"].shape[:2]
    taken = steps(item)
    mean, spread = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    grey = (taken["image"].as_tensor() * spread + mean).clamp(0, 1) * 255
    image = folder / "images" / f"{number:05d}.png"
    image.parent.mkdir(exist_ok=True)
    Image.fromarray(grey.round().byte().permute(1, 2, 0).numpy()).save(image, compress_level=0)
    masks = sample.masks
    if sample.masks:
        masks = (folder / "masks" / f"{number:05d}.png",)
        masks[0].parent.mkdir(exist_ok=True)
        Image.fromarray((taken["label"][0].numpy() > 0).astype(np.uint8) * 255).save(masks[0], optimize=True)
    rows, columns = taken["image"].shape[1:]
    factor = np.array([columns / before[0], rows / before[1]] * 2)
    boxes = None if sample.boxes is None else tuple(_scaled(box, factor) for box in sample.boxes)
    excluded = tuple(_scaled(box, factor) for box in sample.excluded_boxes)
    return replace(sample, image=image, masks=masks, boxes=boxes, excluded_boxes=excluded)


def _scaled(box: Sequence[float], factor: np.ndarray) -> tuple[float, ...]:
    """A box on an image that was stretched: faces of pixels lie at halves."""
    return tuple(float(value) for value in (np.asarray(box) + 0.5) * factor - 0.5)


def _packed_volume(sample: Sample, number: int, folder: Path) -> Sample:
    """A volume in HU in 8 bits over the window that networks see; each step is 5.5 HU."""
    import nibabel

    image = folder / "volumes" / f"{number:05d}.nii.gz"
    image.parent.mkdir(exist_ok=True)
    volume = nibabel.load(sample.image)
    low, high = HU_WINDOW
    steps = (np.clip(np.asanyarray(volume.dataobj), low, high) - low) * (255 / (high - low))
    packed = nibabel.Nifti1Image(np.round(steps).astype(np.uint8), volume.affine)
    packed.header.set_xyzt_units("mm")
    packed.header.set_slope_inter((high - low) / 255, low)
    # nibabel writes integers as they are where slope and intercept are told by hand.
    nibabel.save(packed, image)
    masks = sample.masks
    if sample.masks:
        masks = (folder / "volumes" / f"{number:05d}_mask.nii.gz",)
        inside = read_mask(sample)
        kept = np.zeros(volume.shape, np.uint8) if inside is None else inside.astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(kept, volume.affine), masks[0])
    return replace(sample, image=image, masks=masks)


if __name__ == "__main__":
    sys.exit(main())
