"""``summary.html``: what became of a batch on one page that works offline."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from mtnet.hosts.batch.summary import Row
from mtnet.hosts.batch.tasks import STATES
from mtnet.io.atomic import atomic_path

_SLOWEST = 10
_BINS = 12
_WIDTH, _HEIGHT = 360, 110
_WORDS = {"answered": "answered", "refused": "refused", "set_aside": "set aside", "failed": "failed"}
_TITLES = {
    "lesions": "Lesions a study",
    "best_score": "Best score of a study",
    "largest_diameter_mm": "Largest diameter (mm)",
    "lesion_volume_mm3": "Lesion volume, together (mm³)",
    "seconds": "Seconds a study",
    "peak_memory_mib": "Peak memory (MiB)",
}
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1a1a1a;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
table{border-collapse:collapse}th,td{padding:.25rem .8rem .25rem 0;text-align:left;border-bottom:1px solid #ccc}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(22rem,1fr));gap:1rem}
figure{margin:0}figcaption{font-weight:600}svg{width:100%;height:auto}rect{fill:#2a6fb0}
@media(prefers-color-scheme:dark){body{color:#eee;background:#181818}rect{fill:#6ab0f3}text{fill:#eee}}
"""


def write_page(table: Sequence[Row], path: Path, *, model: str) -> None:
    """Write the page.

    Args:
        table: the rows of ``summary.rows``.
        path: of the page.
        model: which bundle answered.
    """
    count = Counter(row["state"] for row in table)
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'><title>Batch</title>",
        f"<style>{_STYLE}</style></head><body><main><h1>{len(table)} studies through {escape(model)}</h1>",
        "<p>Research use only. Not a medical device.</p>",
        _table(("", "studies"), [(_WORDS[state], count[state]) for state in STATES]),
        _reasons(table),
        _distributions([row for row in table if row["state"] == "answered"]),
        _slow(table),
        "</main></body></html>",
    ]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")


def _reasons(table: Sequence[Row]) -> str:
    by_reason = Counter((row["state"], row["code"]) for row in table if row["state"] != "answered")
    if not by_reason:
        return ""
    example = {(row["state"], row["code"]): row["message"] for row in table}
    lines = [(_WORDS[k[0]], k[1], n, example[k]) for k, n in by_reason.most_common()]
    return "<h2>Not answered, by reason</h2>" + _table(("", "reason", "studies", "such as"), lines)


def _slow(table: Sequence[Row]) -> str:
    timed = sorted((row for row in table if "seconds" in row), key=lambda row: -row["seconds"])[:_SLOWEST]
    if not timed:
        return ""
    stages = sorted({key for row in timed for key in row if key.startswith("seconds.")})
    head = ("study", "item", "", *(key.removeprefix("seconds.") for key in stages), "seconds")
    lines = [
        (row["id"], row["item"], _WORDS[row["state"]], *(row.get(key, "") for key in stages), row["seconds"])
        for row in timed
    ]
    return "<h2>Slowest studies</h2>" + _table(head, lines)


def _distributions(answered: Sequence[Row]) -> str:
    names = [*_TITLES, *sorted({k for row in answered for k in row if k.startswith(("probability.", "measured."))})]
    plots = []
    for name in names:
        values = [float(row[name]) for row in answered if row.get(name) is not None]
        if values:
            plots.append(_histogram(_TITLES.get(name, name), values))
    return f"<h2>Distributions</h2><div class='plots'>{''.join(plots)}</div>" if plots else ""


def _histogram(title: str, values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    width = (high - low) / _BINS or 1.0
    counts = Counter(min(int((value - low) / width), _BINS - 1) for value in values)
    most, step = max(counts.values()), _WIDTH / _BINS
    bars = "".join(
        f"<rect x='{n * step + 1:.1f}' y='{_HEIGHT * (1 - counts[n] / most):.1f}' width='{step - 2:.1f}' "
        f"height='{_HEIGHT * counts[n] / most:.1f}'><title>{low + n * width:.4g} to {low + (n + 1) * width:.4g}: "
        f"{counts[n]}</title></rect>"
        for n in range(_BINS)
        if counts[n]
    )
    middle = statistics.median(values)
    told = f"{len(values)} studies, {low:.4g} to {high:.4g}, median {middle:.4g}"
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' aria-label='{escape(title)}: {told}'>{bars}</svg>"
        f"{told}</figure>"
    )


def _table(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    numeric = [bool(lines) and isinstance(lines[0][n], int | float) for n in range(len(head))]
    marks = [" class='number'" if one else "" for one in numeric]
    top = "".join(f"<th scope='col'{mark}>{escape(name)}</th>" for name, mark in zip(head, marks, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{mark}>{escape(_cell(v))}</td>" for v, mark in zip(line, marks, strict=True)) + "</tr>"
        for line in lines
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
