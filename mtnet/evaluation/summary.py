"""Scores from what was noted: of all samples, of each source, with the images that stand in two classes, and against
another network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mtnet.evaluation.bootstrap import DRAWS, Metric, Score, difference, score
from mtnet.evaluation.records import Evaluated, SampleRecord, notes_of
from mtnet.evaluation.tasks import Task
from mtnet.structures import ModelInfo

Scores = Mapping[str, Score]
"""Full name (``segmentation.dice``, ``regression.diameter_mm.mae``) to score, in the order in which they are told."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Two networks on the same samples.

    Args:
        here: the score of the network that was evaluated.
        other: that of the other one.
        difference: here less other, with its paired interval.
    """

    here: Score
    other: Score
    difference: Score


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that two networks were compared by; ``samples`` were answered by both."""

    model: ModelInfo
    samples: int
    differences: Mapping[str, Difference]


@dataclass(frozen=True, slots=True)
class Summary:
    """The scores of one evaluation.

    Args:
        scores: of the samples that do not stand aside.
        by_source: the same for each source, where there are several.
        with_conflicts: with the images that stand in two classes; empty where there are none.
        comparison: with another network, where one was given.
        baselines: with what could be told of crops without looking into them (``crop_baselines``), by its name.
    """

    scores: Scores
    by_source: Mapping[str, Scores] = field(default_factory=dict)
    with_conflicts: Scores = field(default_factory=dict)
    comparison: Comparison | None = None
    baselines: Mapping[str, Comparison] = field(default_factory=dict)


def summarise(
    evaluated: Evaluated,
    tasks: Sequence[Task],
    other: Evaluated | None = None,
    baselines: Mapping[str, Evaluated] | None = None,
    draws: int = DRAWS,
) -> Summary:
    """All scores with their intervals.

    Args:
        evaluated: what was noted.
        tasks: of the network.
        other: another network on the same manifest.
        baselines: by name, of the same samples.
        draws: of the bootstrap.

    Raises:
        ValueError: ``other`` has answered none of the samples.
    """
    main = main_samples(evaluated)
    sources = list(dict.fromkeys(sample.source for sample in main))
    aside = len(main) < len(evaluated.samples)
    return Summary(
        scores_of(main, tasks, draws),
        {name: scores_of([s for s in main if s.source == name], tasks, draws) for name in sources}
        if len(sources) > 1
        else {},
        scores_of(evaluated.samples, tasks, draws) if aside else {},
        None if other is None else compare(evaluated, other, tasks, draws),
        {name: compare(evaluated, one, tasks, draws) for name, one in (baselines or {}).items()},
    )


def main_samples(evaluated: Evaluated) -> list[SampleRecord]:
    """Those that do not stand aside."""
    return [sample for sample in evaluated.samples if not sample.aside]


def metrics_of(samples: Sequence[SampleRecord], tasks: Sequence[Task]) -> dict[str, Metric]:
    """Every metric by its full name."""
    return {
        f"{task.path}.{name}": metric
        for task in tasks
        for name, metric in task.metrics(notes_of(samples, task.path)).items()
    }


def scores_of(samples: Sequence[SampleRecord], tasks: Sequence[Task], draws: int = DRAWS) -> dict[str, Score]:
    """Every score by its full name; the interval is over groups."""
    groups = [sample.group for sample in samples]
    return {name: score(metric, groups, draws) for name, metric in metrics_of(samples, tasks).items()}


def compare(here: Evaluated, other: Evaluated, tasks: Sequence[Task], draws: int = DRAWS) -> Comparison:
    """The differences of two networks over the samples that both have answered, with paired intervals.

    A metric that one of the two lacks, or that counts other samples in the two, is left out.

    Raises:
        ValueError: no sample was answered by both.
    """
    known = {sample.id: sample for sample in main_samples(other)}
    shared = [sample for sample in main_samples(here) if sample.id in known]
    if not shared:
        raise ValueError(
            "The network to compare with has answered none of these samples; evaluate both on one manifest and split."
        )
    groups = [sample.group for sample in shared]
    first = metrics_of([known[sample.id] for sample in shared], tasks)
    second = metrics_of(shared, tasks)
    told = {}
    for name, metric in second.items():
        if name in first and first[name].rows.tolist() == metric.rows.tolist():
            told[name] = Difference(
                score(metric, groups, draws),
                score(first[name], groups, draws),
                difference(first[name], metric, groups, draws),
            )
    return Comparison(other.model, len(shared), told)
