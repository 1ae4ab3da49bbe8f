"""The words of a page: what to know first, the answers about the image, and where all of it comes from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape

from mtnet.results.notice import training_notice
from mtnet.results.page.lesion_table import measure_name, measured_words
from mtnet.structures import DOMAIN_VERDICTS, Findings, ImageClass, InputReport, ReportLine

BURNT_IN = (
    "The image may show burnt-in text, such as the name of the patient or a date: look at it before this page leaves "
    "the house."
)


def headline(findings: Findings) -> str:
    """What was found, in a few words: ``2 lesions found``."""
    count = len(findings.lesions)
    told = "at given places" if any(lesion.place_given for lesion in findings.lesions) else "found"
    if count:
        return f"{count} lesion{'' if count == 1 else 's'} {told}"
    present = [answer.name for answer in findings.image_classes if answer.present]
    return f"No lesion found; {', '.join(present)}" if present else "No lesion found"


def notices(findings: Findings, may_show_text: bool) -> str:
    """What whoever uses the answers has to know: what is flagged or was repaired, and what the weights saw."""
    trained = training_notice(findings.model).removeprefix("Research use only.").strip()
    lines = [("Weights", trained)] if trained and trained != "Not a medical device." else []
    lines += [
        (_kind(line), without_names(line.message, findings)) for line in findings.report if line.severity != "note"
    ]
    if may_show_text:
        lines.append(("Burnt-in text", BURNT_IN))
    if not lines:
        return ""
    told = "".join(f"<li><b>{escape(kind)}:</b> {escape(text)}</li>" for kind, text in lines)
    return (
        f'<section class="notices" aria-labelledby="know"><h2 id="know">Know before use</h2><ul>{told}</ul></section>'
    )


def _threshold(one: ImageClass, classes: Iterable[ImageClass]) -> str:
    """Of classes that exclude each other one is present, the most probable: its probability is the threshold of all."""
    alike = [other for other in classes if other.output == one.output]
    exclusive = len(alike) > 1 and all(other.threshold == max(c.probability for c in alike) for other in alike)
    return "the highest score" if exclusive else f"{one.threshold:.2f}"


def image_answers(findings: Findings) -> str:
    """Image classes with their scores, and what was measured of the image as a whole."""
    parts = []
    if findings.image_classes:
        rows = "".join(
            f'<tr{" class=present" if c.present else ""}><th scope="row">{escape(c.name.replace("_", " "))}</th>'
            f"<td>{escape(c.output.replace('_', ' '))}</td>"
            f'<td class="number">{c.probability:.2f}</td>'
            f'<td class="number">{_threshold(c, findings.image_classes)}</td>'
            f"<td>{'present' if c.present else 'absent'}</td></tr>"
            for c in findings.image_classes
        )
        heads = _heads(("Class", ""), ("Question", ""), ("Score", "number"), ("Threshold", "number"), ("Answer", ""))
        caption = "Scores are from 0 to 1, after the calibration that the bundle holds; present from the threshold on."
        parts.append(_card("The image as a whole", "classes", _table(caption, heads, rows)))
    measured = [(measure_name(key)[0], measured_words(one)) for key, one in findings.measured.items()]
    measured += [
        (f"Redrawn image: {measure_name(key)[0].lower()}", f"{value:.1f} {measure_name(key)[1]}".strip())
        for key, value in findings.reconstruction_error.items()
    ]
    if measured:
        rows = "".join(
            f'<tr><th scope="row">{escape(name)}</th><td class="number">{escape(value)}</td></tr>'
            for name, value in measured
        )
        table = _table("Of the image as a whole.", _heads(("Measure", ""), ("Value", "number")), rows)
        parts.append(_card("Measurements", "measured", table))
    return "".join(parts)


def details(findings: Findings, licences: str) -> str:
    """What folds open: the input report, the model, the source, the options, and whose code draws the page."""
    model = findings.model
    report = _report_table(findings.report, findings)
    parts = [
        _folded("Input report", report, opened=True),
        _folded(
            "Model and weights",
            _pairs(
                ("Model", f"{model.name} {model.version}"),
                ("Weights, SHA-256", model.weights_sha256),
                ("Licence of the weights", model.weights_licence or "not told"),
                ("Trained on", model.training_data or "not told"),
                ("Intended use", model.intended_use),
            ),
            opened=True,
        ),
        _folded("Source", _pairs(*_source(findings)) + _choices(findings)),
        _folded("Options and costs", _pairs(*findings.options.items(), *_costs(findings))),
    ]
    if findings.extras:
        told = json.dumps(dict(findings.extras), indent=2, ensure_ascii=False)
        parts.append(_folded("Further answers", f"<pre>{escape(told)}</pre>"))
    if licences:
        parts.append(_folded("Licences of the viewer", f"<pre>{escape(licences)}</pre>"))
    return f'<section class="details" aria-label="Details">{"".join(parts)}</section>'


def without_names(text: str, findings: Findings) -> str:
    """A message without the names of source files: people put patients' names into them."""
    stack = findings.source.stack
    names = {findings.source.file_name, *((i.path.name for i in stack.instances) if stack else ())}
    for name in sorted(filter(None, names), key=len, reverse=True):
        text = text.replace(name, "the source file")
    return text


def _kind(line: ReportLine) -> str:
    if line.severity == "flagged":
        outside = line.code.endswith("_outside") or (
            line.code in DOMAIN_VERDICTS and not line.code.endswith("_unknown")
        )
        return "Unlike the training data" if outside else "Flagged"
    return line.severity.capitalize()


def _report_table(report: InputReport, findings: Findings) -> str:
    if not report.lines:
        return '<p class="quiet">Nothing was noticed.</p>'
    rows = "".join(
        f'<tr><td class="severity">{escape(line.severity)}</td><td>{escape(without_names(line.message, findings))}</td>'
        f"<td><code>{escape(line.code)}</code></td></tr>"
        for line in sorted(report.lines, key=lambda one: one.severity == "note")
    )
    return _table("", _heads(("Kind", ""), ("What was noticed", ""), ("Code", "")), rows)


def _source(findings: Findings) -> list[tuple[str, str]]:
    source, geometry, plane = findings.source, findings.geometry, findings.plane
    shape = " × ".join(str(n) for n in geometry.shape)
    pairs = [
        ("Study", source.study_instance_uid),
        ("Series", source.series_instance_uid),
        ("Image", source.sop_instance_uid),
        ("Kind", "" if source.study_instance_uid else "a file that is no DICOM"),
        ("Size", f"{shape} {'voxels' if plane is None else 'columns, rows, frames'}"),
    ]
    spacing: Sequence[float] | None = geometry.spacing_mm if plane is None else plane.spacing_mm
    told = "not known" if spacing is None else " × ".join(f"{s:.4g}" for s in spacing) + " mm"
    pairs.append(("Voxel size" if plane is None else "Pixel size", told))
    if plane is not None and plane.timings is not None:
        timings = plane.timings
        took = f"median {timings.median_ms:.1f} ms, 95th percentile {timings.p95_ms:.1f} ms"
        pairs.append(("Frames answered", f"{timings.count}; from pixels to findings {took}"))
    return [(name, value) for name, value in pairs if value]


def _choices(findings: Findings) -> str:
    if not findings.source.choices:
        return ""
    rows = "".join(
        f"<tr><td>{'taken' if c.taken else 'passed over'}</td><td><code>{escape(c.series_instance_uid)}</code></td>"
        f"<td>{escape(c.reason)}</td></tr>"
        for c in findings.source.choices
    )
    return _table("Why this series.", _heads(("", ""), ("Series", ""), ("Reason", "")), rows)


def _costs(findings: Findings) -> Iterable[tuple[str, str]]:
    return ((f"Time, {cost.stage}", f"{cost.seconds:.1f} s") for cost in findings.costs)


def _card(title: str, name: str, content: str) -> str:
    return f'<section class="card" aria-labelledby="{name}-title"><h2 id="{name}-title">{title}</h2>{content}</section>'


def _folded(title: str, content: str, *, opened: bool = False) -> str:
    return f"<details{' open' if opened else ''}><summary>{title}</summary><div>{content}</div></details>"


def _heads(*names: tuple[str, str]) -> str:
    return "".join(f'<th scope="col"{f" class={kind}" if kind else ""}>{name}</th>' for name, kind in names)


def _table(caption: str, heads: str, rows: str) -> str:
    told = f"<caption>{caption}</caption>" if caption else ""
    return f'<div class="scroll"><table>{told}<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def _pairs(*pairs: tuple[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in pairs)}</dl>"
