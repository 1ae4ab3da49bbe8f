"""``report.html``: scores, plots and worst cases of one evaluation in one file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from mtnet.evaluation.bootstrap import Score
from mtnet.evaluation.files import RULES
from mtnet.evaluation.records import Evaluated, SampleRecord
from mtnet.evaluation.summary import Comparison, Scores, Summary, main_samples
from mtnet.io.atomic import atomic_path

MOST_WORST = 15
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: .6em 0 1.6em } th, td { padding: .15em .9em .15em 0; text-align: left }
th { border-bottom: 1px solid #999 } td.n { text-align: right; font-variant-numeric: tabular-nums }
.plots { display: flex; flex-wrap: wrap; gap: 1em } figure { margin: 0 } figcaption { font-weight: 600 }
.note { color: #555 } .picture { image-rendering: pixelated; max-width: 320px }
"""


def write_report(
    evaluated: Evaluated,
    summary: Summary,
    path: Path,
    plots: Mapping[str, str],
    pictures: Mapping[str, bytes],
) -> None:
    """Write the report.

    Args:
        evaluated: what was noted.
        summary: the scores.
        path: the file.
        plots: title to SVG (``mtnet.evaluation.plots``).
        pictures: sample id to PNG of the worst cases; empty where none are wanted.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(_page(evaluated, summary, plots, pictures), encoding="utf-8")


def score_text(score: Score) -> str:
    """``0.812 (0.774 to 0.851)``, with the unit where there is one."""
    if score.value is None:
        return "not defined"
    unit = f" {score.unit}" if score.unit else ""
    interval = "" if score.ci95 is None else f" ({score.ci95[0]:.3f} to {score.ci95[1]:.3f})"
    return f"{score.value:.3f}{interval}{unit}"


def worst(samples: Sequence[SampleRecord]) -> dict[str, list[tuple[str, str]]]:
    """For each task its worst samples: id and what went wrong, worst first."""
    told: dict[str, list[tuple[float, str, str]]] = {}
    for sample in samples:
        for path, note in sample.notes.items():
            if path == "segmentation" and note["dice"] < 1:
                text = f"Dice {note['dice']:.3f}, lesion {note['truth_share']:.1%} of the image"
                told.setdefault(path, []).append((note["dice"], sample.id, text))
            elif path == "detection":
                missed = sum(s is None or s < note["threshold"] for s in note["hit_scores"])
                false = sum(s >= note["threshold"] for s in note["false_scores"])
                if missed or false:
                    text = f"{missed} of {note['objects']} lesion(s) missed, {false} false box(es)"
                    told.setdefault(path, []).append((-(missed + false), sample.id, text))
            elif path == "classification" and "target" in note:
                right = note["probabilities"][note["target"]]
                answer = max(note["probabilities"], key=note["probabilities"].__getitem__)
                if answer != note["target"]:
                    text = f"{note['target']} taken for {answer} ({note['probabilities'][answer]:.2f})"
                    told.setdefault(path, []).append((right, sample.id, text))
            elif path.startswith("regression."):
                text = f"{note['found']:.2f} measured, {note['truth']:.2f} known {note['unit']}"
                told.setdefault(path, []).append((-abs(note["found"] - note["truth"]), sample.id, text))
    return {path: [(name, text) for _, name, text in sorted(rows)[:MOST_WORST]] for path, rows in told.items()}


def _page(evaluated: Evaluated, summary: Summary, plots: Mapping[str, str], pictures: Mapping[str, bytes]) -> str:
    model, main = evaluated.model, main_samples(evaluated)
    groups = len({sample.group for sample in main})
    parts = [
        f"<h1>{escape(model.name)} {escape(model.version)}</h1>",
        f"<p>{len(main)} samples of {groups} groups, split <b>{escape(evaluated.split)}</b>. Trained on "
        f"{escape(model.training_data)}. Weights {escape(model.weights_sha256[:12])}, "
        f"{escape(model.weights_licence or 'no licence stated')}.</p>",
        f"<p><b>{escape(model.intended_use)}</b></p>",
        *(f'<p class="note">{escape(note)}</p>' for note in evaluated.notes),
        *_refused(evaluated),
        "<h2>Scores</h2>",
        _score_table(summary.scores),
    ]
    for name, scores in summary.by_source.items():
        parts += [f"<h3>{escape(name)} alone</h3>", _score_table(scores)]
    if summary.with_conflicts:
        aside = len(evaluated.samples) - len(main)
        parts += [
            f"<h3>With the {aside} image(s) that stand in two classes</h3>",
            '<p class="note">These train only, so the network may have seen them.</p>',
            _score_table(summary.with_conflicts),
        ]
    if summary.comparison is not None:
        parts += _comparison(summary.comparison)
    for baseline in summary.baselines.values():
        parts += _comparison(baseline)
    if plots:
        shown = "".join(_plot(title, svg) for title, svg in plots.items())
        parts += ["<h2>Plots</h2>", f'<div class="plots">{shown}</div>']
    parts += ["<h2>Worst cases</h2>"]
    for path, rows in worst(main).items():
        parts += [f"<h3>{escape(path)}</h3>", _table(("sample", "what"), [(escape(a), escape(b)) for a, b in rows])]
    if pictures:
        shown = "".join(_picture(name, png) for name, png in pictures.items())
        parts += [
            "<h3>Masks</h3><p class='note'>Known border green, answered border orange. Pictures may show burned-in "
            f"text: keep this file to yourself.</p><div class='plots'>{shown}</div>"
        ]
    parts += ["<h2>Rules</h2>", _table(("of", "rule"), [(escape(a), escape(b)) for a, b in RULES.items()])]
    head = f"<meta charset='utf-8'><title>{escape(model.name)}: evaluation</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _refused(evaluated: Evaluated) -> Iterable[str]:
    if evaluated.refused:
        yield f"<p><b>{len(evaluated.refused)} sample(s) were refused and count in no score:</b></p>"
        yield _table(("sample", "why"), [(escape(one.id), escape(one.reason)) for one in evaluated.refused])


def _score_table(scores: Scores) -> str:
    rows = [
        (escape(name), escape(score_text(score)), str(score.n), str(score.groups)) for name, score in scores.items()
    ]
    return _table(("metric", "value (95 % interval)", "n", "groups"), rows)


def _comparison(comparison: Comparison) -> list[str]:
    other = comparison.model
    rows = [
        (
            escape(name),
            escape(score_text(one.here)),
            escape(score_text(one.other)),
            escape(score_text(one.difference)),
            str(one.difference.n),
        )
        for name, one in comparison.differences.items()
    ]
    return [
        f"<h2>Against {escape(' '.join((other.name, other.version, other.weights_sha256[:12])).strip())}</h2>",
        f"<p>{comparison.samples} samples that both have answered; intervals of differences are paired.</p>",
        _table(("metric", "here", "other", "difference", "n"), rows),
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells hold HTML already."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _plot(title: str, svg: str) -> str:
    data = base64.b64encode(svg.encode()).decode()
    text = escape(title)
    return f"<figure><figcaption>{text}</figcaption><img alt='{text}' src='data:image/svg+xml;base64,{data}'></figure>"


def _picture(name: str, png: bytes) -> str:
    data, text = base64.b64encode(png).decode(), escape(name, quote=True)
    return (
        f"<figure><figcaption>{text}</figcaption><img class='picture' alt='{text}' "
        f"src='data:image/png;base64,{data}'></figure>"
    )
