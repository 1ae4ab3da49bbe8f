"""How alike YOLO-Med's two tasks see small and large lesions: ``python -m benchmarks.task_features``.

The maps of both decoders, before and after the interaction, each as the length of its feature vector at every cell, are
correlated over the cells of a level (Pearson), image by image. Images are those of the test split with a lesion; small
are those whose lesions cover less than the median. Intervals are drawn over groups.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.runs import predictor_of
from mtnet.answers import prepared
from mtnet.evaluation.bootstrap import mean_of, score
from mtnet.evaluation.report import score_text
from mtnet.evaluation.run import mask_of
from mtnet.predictor import Predictor
from mtnet.sources.manifest import Sample, read_manifest
from mtnet.training.queue import JOBS, STATE, read_jobs

TASKS = ("segmentation", "detection")
Levels = Mapping[str, Sequence[Tensor]]


@contextmanager
def exchanged(network: nn.Module) -> Iterator[dict[str, Levels]]:
    """The joined levels as they go into the interaction (``before``) and come out (``after``), of the last pass inside.

    Raises:
        ValueError: the network has no interaction.
    """
    interaction = getattr(network, "interaction", None)
    if interaction is None:
        raise ValueError("The network has no interaction between tasks; choose a job that has one.")
    seen: dict[str, Levels] = {}

    maps = list(zip(interaction.map_task, interaction.map_level, strict=True))

    def joined(levels: Levels) -> Levels:
        return {name: [levels[name][level] for task, level in maps if task == name] for name in TASKS}

    def note(module: nn.Module, given: tuple[Levels], told: Levels) -> None:
        seen["before"], seen["after"] = joined(given[0]), joined(told)

    handle = interaction.register_forward_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


def correlations(levels: Levels) -> list[float]:
    """Pearson's correlation over cells of the two tasks' feature lengths, one a level ``(1, C, H, W)``; nan where one
    of the maps is flat."""
    found = []
    for first, second in zip(*(levels[task] for task in TASKS), strict=True):
        lengths = [level[0].float().norm(dim=0).flatten() for level in (first, second)]
        flat = min(float(length.std(correction=0)) for length in lengths) == 0
        found.append(float("nan") if flat else float(torch.corrcoef(torch.stack(lengths))[0, 1]))
    return found


def of_sample(predictor: Predictor, sample: Sample) -> tuple[float, dict[str, list[float]]]:
    """The share of an image that its lesions cover, and the correlations before and after the interaction."""
    case = predictor.read(sample.image)
    mask = mask_of(sample, case)
    image, _ = prepared(case, predictor.preprocessing)
    padded, _, _ = predictor.inferer.padded(image[None], predictor.network)
    with exchanged(predictor.network) as seen, torch.no_grad():
        predictor.network(padded.to(predictor.device))
    return float(np.mean(mask)), {when: correlations(levels) for when, levels in seen.items()}  # type: ignore[arg-type]


def table_text(predictor: Predictor, samples: Sequence[Sample]) -> str:
    """The table as Markdown.

    Raises:
        ValueError: no sample has a lesion.
    """
    chosen = [sample for sample in samples if sample.masks]
    if not chosen:
        raise ValueError("No sample of the split has a lesion.")
    shares, found = zip(*(of_sample(predictor, sample) for sample in chosen), strict=True)
    small = np.asarray(shares) < np.median(shares)
    groups = np.asarray([sample.group for sample in chosen])
    strides = next(spec.strides for spec in predictor.network.outputs if spec.kind == "boxes")
    lines = ["| lesions | stride | n | before the interaction | after it |", "| --- | --- | --- | --- | --- |"]
    for name, which in (("small", small), ("large", ~small)):
        for level, stride in enumerate(strides):
            cells = []
            for when in ("before", "after"):
                values = np.asarray([one[when][level] for one in found])
                known = which & np.isfinite(values)
                told = mean_of(values[known], np.flatnonzero(known))
                cells.append(score_text(score(told, groups.tolist())))
            lines.append(f"| {name} | {stride} | {int(which.sum())} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.task_features", description=__doc__.split("\n")[0])
    parser.add_argument(
        "job", nargs="?", default="polyps_yolo_med_256", help="of the queue (default: the one that ships)"
    )
    parser.add_argument("--jobs", type=Path, default=JOBS)
    parser.add_argument("--state", type=Path, default=STATE)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    job = next((job for job in read_jobs(options.jobs) if job.name == options.job), None)
    if job is None:
        parser.error(f"{options.jobs} has no job {options.job}")
    folder = options.state / job.name
    if not (folder / "model.pt").is_file():
        print(f"{job.name} is not trained yet: python -m mtnet.training.queue --only {job.name}", file=sys.stderr)
        return 1
    manifest = read_manifest(folder / "manifest.json")
    print(table_text(predictor_of(job, folder, options.device), manifest.select("test")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
