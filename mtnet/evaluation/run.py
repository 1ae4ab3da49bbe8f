"""A network over the samples of a manifest, one after the other; of each only numbers are kept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mtnet.evaluation.pictures import WorstMasks
from mtnet.evaluation.records import Evaluated, Refusal, SampleRecord
from mtnet.evaluation.tasks import TRAINING_DISTANCE, Answered, Task, tasks_of
from mtnet.points import points_at
from mtnet.predictor import Case, Predictor, ReadOptions
from mtnet.sources.manifest import Manifest, Sample
from mtnet.sources.masks import read_mask
from mtnet.structures import RefusedError, ReportLine

EvaluatedSplit = Literal["train", "val", "test", "all"]
Progress = Callable[[int, int], None]

CONFLICT = "label_conflict"
"""Flag of an image that stands in two classes: it trains only, and scores with it stand beside the others."""
_OF_FOREIGN = ("reconstruction", TRAINING_DISTANCE.path)
_FOLD = {"test": 0, "val": 1}
_TOLD = 10
_SYNTHETIC = ("phantom", "composed_ct")
"""Layouts whose images were made here."""


def tasks_for(predictor: Predictor) -> tuple[Task, ...]:
    """What a predictor is scored for: its outputs, and where its weights are calibrated the distance of images from
    what they were trained for."""
    tasks = tasks_of(predictor.network.outputs)
    calibrated = predictor.calibration is not None and bool(predictor.calibration.thresholds)
    return (*tasks, TRAINING_DISTANCE) if calibrated else tasks


def chosen(manifest: Manifest, split: EvaluatedSplit) -> list[tuple[Sample, bool]]:
    """The samples to score, and of each whether it stands aside.

    Images with ``label_conflict`` train only, so those of the fold from which a split is taken are added to it, aside.

    Raises:
        ValueError: there is no such split, or it is empty.
    """
    picked = {sample.id for sample in manifest.select(split)}
    fold = _FOLD.get(split)
    samples = [
        (sample, CONFLICT in sample.flags)
        for sample in manifest.samples
        if sample.id in picked or (CONFLICT in sample.flags and sample.fold == fold)
    ]
    if not any(not aside for _, aside in samples):
        splits = ", ".join(sorted({sample.split for sample in manifest.samples})) or "no samples"
        raise ValueError(f"The manifest has no sample of split {split!r}; it has {splits}. Choose with --split.")
    return samples


def evaluate(
    predictor: Predictor,
    manifest: Manifest,
    split: EvaluatedSplit = "test",
    *,
    foreign: Collection[str] = (),
    options: ReadOptions | None = None,
    progress: Progress | None = None,
    worst: WorstMasks | None = None,
    features: dict[str, NDArray[np.float64]] | None = None,
) -> Evaluated:
    """Answer every sample of a split and note what its scores need.

    Args:
        predictor: of the bundle.
        manifest: of one or several sources.
        split: ``train``, ``val``, ``test`` or ``all``.
        foreign: sources of images that the network was not trained on, all of which are answered too, and count for
            ``auroc_foreign`` of ``reconstruction`` and ``training_distance`` alone.
        options: how images are read.
        progress: called with samples done and samples to do.
        worst: is shown every mask.
        features: is given the features ``(D,)`` of every sample by its id.

    Raises:
        FileNotFoundError: files of the manifest are missing.
        ValueError: there is no such split or source, no sample has a truth for any of the network's outputs, an
            output's kind has no metric, or not one image could be answered.
    """
    unknown = sorted(set(foreign) - {source.name for source in manifest.sources})
    if unknown:
        told = ", ".join(source.name for source in manifest.sources)
        raise ValueError(f"The manifest has no source {', '.join(unknown)}; it has {told}.")
    tasks = tasks_for(predictor)
    predictor.keeps_features |= features is not None
    samples = [(s, aside) for s, aside in chosen(manifest, split) if s.source not in foreign]
    strange = [s for s in manifest.samples if s.source in foreign]
    check_truth(tasks, [s for s, _ in samples], split)
    wanted = [(s, aside) for s, aside in samples if any(task.wants(s) for task in tasks)]
    jobs = [*((s, aside, False) for s, aside in wanted), *((s, False, True) for s in strange)]
    check_files([sample for sample, _, _ in jobs])
    records, refused = [], []
    options = options or ReadOptions()
    for done, (sample, aside, unlike) in enumerate(jobs):
        if progress is not None:
            progress(done, len(jobs))
        try:
            records.append(record_of(predictor, tasks, sample, options, aside, unlike, worst, features))
        except RefusedError as error:
            refused.append(Refusal(sample.id, " ".join(line.message for line in error.lines)))
    if progress is not None:
        progress(len(jobs), len(jobs))
    if not records:
        raise ValueError(
            f"None of the {len(jobs)} images was answered, so there is nothing to score. The first, {refused[0].id}: "
            f"{refused[0].reason}"
        )
    return Evaluated(
        predictor.model,
        split,
        tuple(records),
        tuple(refused),
        len(samples) - len(wanted),
        (*_unscored(tasks, [s for s, _ in samples]), *_synthetic(manifest, [s for s, _ in wanted])),
        {
            "allow_outside": "yes" if options.allow_outside else "no",
            "foreign": ",".join(sorted(foreign)),
            **_mirrored(predictor),
        },
    )


def record_of(
    predictor: Predictor,
    tasks: Sequence[Task],
    sample: Sample,
    options: ReadOptions,
    aside: bool = False,
    foreign: bool = False,
    worst: WorstMasks | None = None,
    features: dict[str, NDArray[np.float64]] | None = None,
) -> SampleRecord:
    """Answer one sample and note what the tasks want of it.

    Raises:
        RefusedError: its image or a mask cannot be read right, or the network is not made for it.
    """
    case = predictor.read(sample.image, _placed(predictor, sample, options))
    answers = predictor.infer(case)
    findings = predictor.finish(case, answers)
    if features is not None and answers.features is not None:
        features[sample.id] = answers.features[0]
    region = predictor.inferer.region
    answered = Answered(
        sample,
        case,
        answers,
        findings,
        None if foreign else mask_of(sample, case),
        region.hu_window if region is not None else None,
        foreign,
    )
    noted = {}
    for task in tasks:
        if foreign and task.path not in _OF_FOREIGN:
            continue
        note = task.measure(answered)
        if note is not None:
            noted[task.path] = note
    if worst is not None and "segmentation" in noted and not aside:
        worst.see(answered, noted["segmentation"])
    return SampleRecord(sample.id, sample.source, sample.group, str(sample.image), aside, noted)


def mask_of(sample: Sample, case: Case) -> NDArray[np.bool_] | None:
    """The known foreground ``(i, j, k)`` on the grid of the image; None where it is unknown.

    Raises:
        RefusedError: a mask cannot be read, or is of another size than its image.
    """
    if sample.masks is None:
        return None
    shape = case.volume.geometry.shape
    mask = read_mask(sample)
    if mask is None:
        return np.zeros(shape, dtype=np.bool_)
    mask = mask[..., None] if mask.ndim == 2 else mask
    if mask.shape != shape:
        message = (
            f"The mask has {_times(mask.shape)} voxels and the image {_times(shape)}. Mend the file, or prepare the "
            "source again."
        )
        raise RefusedError([ReportLine("mask_size", "refused", message, sample.id)])
    return mask


def check_files(samples: Iterable[Sample]) -> None:
    """Raise a ``FileNotFoundError`` that lists the files that are missing, before anything is run."""
    missing = [
        (sample.id, path) for sample in samples for path in (sample.image, *(sample.masks or ())) if not path.exists()
    ]
    if missing:
        told = "\n".join(f"  {name}: {path}" for name, path in missing[:_TOLD])
        more = f"\n  and {len(missing) - _TOLD} more" if len(missing) > _TOLD else ""
        raise FileNotFoundError(
            f"The manifest names {len(missing)} file(s) that do not exist. Have they been moved? Prepare the source "
            f"again.\n{told}{more}"
        )


def check_truth(tasks: Sequence[Task], samples: Sequence[Sample], split: str) -> None:
    """Raise a ``ValueError`` where no sample has the truth for any task: the manifest is of another kind."""
    if any(task.wants(sample) for task in tasks for sample in samples):
        return
    wanted = ", ".join(task.path for task in tasks)
    classes = sorted({s.image_class for s in samples if s.image_class})
    values = sorted({key for s in samples for key in s.values})
    there = {
        "masks": any(s.masks is not None for s in samples),
        "boxes": any(s.boxes is not None for s in samples),
        f"classes ({', '.join(classes)})": bool(classes),
        f"values ({', '.join(values)})": bool(values),
    }
    held = [name for name, is_there in there.items() if is_there]
    raise ValueError(
        f"The bundle answers {wanted}, and no sample of split {split!r} has the truth for that: the manifest holds "
        f"{', '.join(held) or 'images alone'}. Is it the manifest of another bundle's data?"
    )


def _unscored(tasks: Sequence[Task], samples: Sequence[Sample]) -> Iterable[str]:
    for task in tasks:
        if task is TRAINING_DISTANCE:
            continue
        with_truth = sum(task.wants(sample) for sample in samples)
        if not with_truth:
            yield f"{task.path} is not scored: no sample has the truth for it."
        elif with_truth < len(samples):
            yield f"{task.path} is scored on {with_truth} of {len(samples)} samples; the others lack the truth for it."


def _synthetic(manifest: Manifest, samples: Sequence[Sample]) -> Iterable[str]:
    scored = {sample.source for sample in samples}
    for source in manifest.sources:
        if source.name in scored and source.layout in _SYNTHETIC:
            yield f"{source.name} is synthetic ({source.title}): its scores are no scores on patients."


def _mirrored(predictor: Predictor) -> dict[str, str]:
    axes = predictor.inferer.mirror_axes
    return {"mirrored": axes} if axes else {}


def _placed(predictor: Predictor, sample: Sample, options: ReadOptions) -> ReadOptions:
    """A network of points is asked about the sample's place."""
    if sample.centre_lps_mm is None or predictor.patch is None:
        return options
    return replace(options, points=points_at([sample.centre_lps_mm]))


def _times(shape: Sequence[int]) -> str:
    return " x ".join(str(n) for n in shape)
