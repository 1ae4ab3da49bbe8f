"""``python -m benchmarks.folds JOB``: a training of the queue once for every fold, each scored on what it did not see.

The job itself tests on fold 0. Four further trainings with its recipe, called ``JOB-fold-1`` to ``JOB-fold-4``, test on
their fold and validate on the next; what they answer is pooled, so that every sample is scored once. Under the network
stand the two rows that look at no image, where the samples are crops, each with the paired difference.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.run_tables import Table, into_card, table_of
from benchmarks.runs import is_done, scored
from mtnet.evaluation.crop_baselines import crop_baselines
from mtnet.evaluation.records import joined
from mtnet.sources.manifest import Manifest, Split, read_manifest, write_manifest
from mtnet.training.queue import JOBS, STATE, Job, Queue, QueueError, read_jobs

FOLDS = 5
TABLES = {
    "lidc_suspicion": Table(
        "folds_lidc",
        "res_mtnet_nodule",
        "LIDC, every nodule scored by the training that did not see its patient's fold",
        ("classification.auroc", "classification.macro_f1", "regression.diameter_mm.mae"),
        {"lidc_suspicion": "Res-MTNet compact"},
        "lidc_suspicion",
    )
}
"""What is told of which job."""


def rotated(manifest: Manifest, fold: int) -> Manifest:
    """The manifest with ``fold`` as its test and the next one for validation."""
    splits: dict[int, Split] = {fold: "test", (fold + 1) % FOLDS: "val"}
    return replace(
        manifest,
        samples=tuple(replace(sample, split=splits.get(sample.fold, "train")) for sample in manifest.samples),
    )


def of_fold(job: Job, fold: int, state: Path) -> Job:
    """The job for a fold, with its manifest made ready in the queue's folder.

    Raises:
        FileNotFoundError: the job itself has not been prepared.
    """
    if fold == 0:
        return job
    own = replace(job, name=f"{job.name}-fold-{fold}")
    manifest = state / own.name / "manifest.json"
    if not manifest.is_file():
        manifest.parent.mkdir(parents=True, exist_ok=True)
        beside = state / job.name / f"fold-{fold}.json"
        write_manifest(rotated(read_manifest(state / job.name / "manifest.json"), fold), beside)
        # A link, since the manifest's paths are relative to its own folder.
        manifest.symlink_to(Path("..") / job.name / beside.name)
    return own


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is left, print the table; 1 where a training did not end."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.folds", description=__doc__.split("\n")[0])
    parser.add_argument("job", choices=TABLES)
    parser.add_argument("--state", type=Path, default=STATE, help=f"folder of the queue (default: {STATE})")
    parser.add_argument("--cards", action="store_true", help="also put the table into the card of the bundle")
    options = parser.parse_args(arguments)
    first = next(job for job in read_jobs(JOBS) if job.name == options.job)
    try:
        jobs = [of_fold(first, fold, options.state) for fold in range(FOLDS)]
        if not Queue(jobs, options.state).run():
            print("a training did not end; the queue's lines above say which", file=sys.stderr)
            return 1
    except (QueueError, FileNotFoundError) as error:
        print(f"refused: {error} Begin with: python -m mtnet.training.queue --only {first.name}", file=sys.stderr)
        return 1
    runs = [scored(job, options.state / job.name) for job in jobs if is_done(options.state / job.name)]
    pooled = joined(runs[0], runs[1:])
    manifest = read_manifest(options.state / first.name / "manifest.json")
    text = table_of(TABLES[first.name], {first.name: first}, {first.name: pooled}, crop_baselines(pooled, manifest))
    print(text)
    if options.cards:
        table = TABLES[first.name]
        card = Path("bundles") / table.bundle / "docs" / "README.md"
        card.write_text(
            into_card(card.read_text("utf-8"), table.name, text, f"python -m benchmarks.folds {first.name} --cards"),
            encoding="utf-8",
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
