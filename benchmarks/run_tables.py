"""Tables of finished trainings for the cards of bundles: value, interval, and the paired difference to one of them.

A file of jobs (``data/peers.json``, ``data/ablations.json``) holds ``tables`` beside its ``jobs``, each with ``name``,
``bundle``, ``title``, ``metrics`` (full names of ``metrics.json``; of one source alone ``SOURCE:NAME``), ``rows`` (job
to what it is called) and ``reference``, the row that the others are held against. Networks on crops whose size tells
the nodule's have the two rows of what could be told without looking into them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.runs import KEPT, is_done, keep, kept, kept_baselines, network_of, scored
from mtnet.evaluation.bootstrap import DRAWS, Score
from mtnet.evaluation.crop_baselines import crop_baselines
from mtnet.evaluation.records import Evaluated
from mtnet.evaluation.report import score_text
from mtnet.evaluation.summary import compare, main_samples, scores_of
from mtnet.evaluation.tasks import Task, tasks_of
from mtnet.io.atomic import atomic_path
from mtnet.sources.manifest import read_manifest
from mtnet.training.queue import STATE, Job, read_bases, read_jobs


@dataclass(frozen=True, slots=True)
class Table:
    """What is compared, see the module.

    Raises:
        ValueError: the reference is no row, or there are no metrics.
    """

    name: str
    bundle: str
    title: str
    metrics: Sequence[str]
    rows: Mapping[str, str]
    reference: str

    def __post_init__(self) -> None:
        if self.reference not in self.rows or not self.metrics:
            raise ValueError(f"table {self.name}: {self.reference!r} is none of its rows, or it has no metrics.")


def read_tables(path: Path) -> tuple[list[Table], dict[str, Job]]:
    """The tables of a file, and every job that they may name: of the file, and of its bases.

    Raises:
        ValueError: a row is none of the jobs.
    """
    document = json.loads(path.read_text(encoding="utf-8"))
    jobs = {job.name: job for job in [*read_bases(path), *read_jobs(path)]}
    tables = [Table(**entry) for entry in document["tables"]]
    for table in tables:
        if missing := [name for name in table.rows if name not in jobs]:
            raise ValueError(f"{path}: table {table.name} names {', '.join(missing)}, which is no job.")
    return tables, jobs


def table_text(
    table: Table,
    jobs: Mapping[str, Job],
    state: Path = STATE,
    *,
    device: str = "cpu",
    draws: int = DRAWS,
) -> tuple[str, list[str]]:
    """A table as Markdown, and the jobs of it that are not done.

    A job is told that was trained below ``state``, or whose scores are kept. Values are of the test split with 95 %
    intervals over groups; under them the difference to the reference with its paired interval.
    """
    found = {name: run_of(jobs[name], state / name, device) for name in table.rows}
    runs = {name: run for name, run in found.items() if run is not None}
    baselines = baselines_of(jobs[table.reference], state / table.reference, device)
    return table_of(table, jobs, runs, baselines, draws=draws), [name for name in table.rows if name not in runs]


def run_of(job: Job, folder: Path, device: str = "cpu") -> Evaluated | None:
    """A job's answers on its test split, scored where it was trained here, else as they are kept, or None."""
    return scored(job, folder, device=device) if is_done(folder) else kept(job)


def baselines_of(job: Job, folder: Path, device: str = "cpu") -> Mapping[str, Evaluated]:
    """The rows under a job: what could be told without looking into its images, made or kept as its answers are."""
    if not is_done(folder):
        return kept_baselines(job)
    return crop_baselines(scored(job, folder, device=device), read_manifest(folder / "manifest.json"))


def table_of(
    table: Table,
    jobs: Mapping[str, Job],
    runs: Mapping[str, Evaluated],
    baselines: Mapping[str, Evaluated],
    *,
    draws: int = DRAWS,
) -> str:
    """A table of what was scored; rows without a run are empty, ``baselines`` stand under them."""
    reference = runs.get(table.reference)
    heads = ["", "parameters", *(f"{metric} (n)" for metric in table.metrics)]
    lines = [f"**{table.title}**", "", _line(heads), _line(["---"] * len(heads))]
    tasks: Sequence[Task] = ()
    for name, label in table.rows.items():
        network = network_of(jobs[name])
        size = f"{sum(parameter.numel() for parameter in network.parameters()):,}"
        tasks = tasks_of(network.outputs)  # type: ignore[arg-type]
        other = reference if name != table.reference else None
        cells = [_cell(metric, runs[name], other, tasks, draws) for metric in table.metrics] if name in runs else []
        empty = ["not trained yet"] + [""] * (len(table.metrics) - 1)
        lines.append(_line([label, size, *(cells or empty)]))
    for name, baseline in sorted(baselines.items()):
        cells = [_cell(metric, baseline, reference, tasks, draws) for metric in table.metrics]
        lines.append(_line([name.replace("_", " "), "", *cells]))
    epochs = sorted({int(jobs[name].overrides["max_epochs"]) for name in table.rows})
    under = (
        f"Under a value: less that of *{table.rows[table.reference]}*, paired. Test split, 95 % intervals by groups. "
        f"Each row is one training of {' or '.join(map(str, epochs))} epochs; intervals do not tell how far two "
        "trainings of one recipe lie apart."
    )
    return "\n".join([*lines, "", under])


def into_card(card: str, name: str, text: str, command: str) -> str:
    """A card with a table under its name: in the place of the one that it had, else at the end."""
    begins, ends = f"<!-- {name}: {command} -->", f"<!-- {name} ends -->"
    block = f"{begins}\n{text}\n{ends}"
    start = card.find(f"<!-- {name}: ")
    if start < 0:
        return f"{card.rstrip()}\n\n{block}\n"
    return card[:start] + block + card[card.index(ends) + len(ends) :]


def tell(jobs_file: Path, command: str, arguments: Sequence[str] | None = None) -> int:
    """The command: print every table of a file; 1 where a training is not done."""
    parser = argparse.ArgumentParser(prog=command, description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=Path, default=jobs_file, help=f"file of jobs and tables (default: {jobs_file})")
    parser.add_argument("--state", type=Path, default=STATE, help=f"folder of the queue (default: {STATE})")
    parser.add_argument("--only", action="append", metavar="NAME", help="this table alone (again and again)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cards", action="store_true", help="also put the tables into the cards of their bundles")
    parser.add_argument("--keep", action="store_true", help=f"also keep the scores of what was trained here in {KEPT}")
    options = parser.parse_args(arguments)
    tables, jobs = read_tables(options.jobs)
    if unknown := set(options.only or ()) - {table.name for table in tables}:
        parser.error(f"no table {', '.join(sorted(unknown))}; there are {', '.join(t.name for t in tables)}")
    chosen = [table for table in tables if not options.only or table.name in options.only]
    if options.keep:
        references = {table.reference for table in tables}
        for name in dict.fromkeys(name for table in chosen for name in table.rows):
            job, folder = jobs[name], options.state / name
            if is_done(folder):
                under = baselines_of(job, folder, options.device) if name in references else {}
                keep(job, scored(job, folder, device=options.device), under)
    missing: list[str] = []
    for table in chosen:
        text, left = table_text(table, jobs, options.state, device=options.device)
        print(text, end="\n\n")
        missing += left
        if options.cards and not left:
            card = Path("bundles") / table.bundle / "docs" / "README.md"
            with atomic_path(card) as path:
                path.write_text(into_card(card.read_text("utf-8"), table.name, text, command), encoding="utf-8")
    if missing:
        told = ", ".join(dict.fromkeys(missing))
        print(f"not trained yet: {told}. python -m mtnet.training.queue --jobs {options.jobs}", file=sys.stderr)
    return int(bool(missing))


def _cell(metric: str, run: Evaluated, reference: Evaluated | None, tasks: Sequence[Task], draws: int) -> str:
    source, name = metric.split(":") if ":" in metric else ("", metric)
    own = [task for task in tasks if name.startswith(f"{task.path}.")]
    mine = _of_source(run, source)
    scores = scores_of(mine.samples, own, draws)
    if name not in scores:
        return "–"
    told = f"{score_text(scores[name])} ({scores[name].n})"
    if reference is None:
        return told
    difference = compare(mine, _of_source(reference, source), own, draws).differences.get(name)
    return told if difference is None else f"{told}<br>{_signed(difference.difference)}"


def _of_source(run: Evaluated, source: str) -> Evaluated:
    """The samples that do not stand aside, of one source where one is named."""
    return replace(run, samples=tuple(one for one in main_samples(run) if not source or one.source == source))


def _signed(score: Score) -> str:
    if score.value is None:
        return "not defined"
    interval = "" if score.ci95 is None else f" ({score.ci95[0]:+.3f} to {score.ci95[1]:+.3f})"
    return f"{score.value:+.3f}{interval}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
