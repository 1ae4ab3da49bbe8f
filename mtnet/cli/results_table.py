"""The table that ends ``mtnet infer`` and ``mtnet demo``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mtnet.cli.terminal import plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mtnet.structures import Findings, Lesion, Measured
    from mtnet.study_folder import StudyOutcome

_HEAD = ("", "lesion", "score", "centre LPS (mm)", "longest x short (mm)", "volume (mm3)", "most likely")
_FLAT_HEAD = ("", "lesion", "score", "frame", "box (columns, rows)", "longest x short", "area", "most likely")
_MOST_ROWS = 50


def print_outcome(outcome: StudyOutcome) -> None:
    """Print what was found in one study, or to standard error why it was refused."""
    if outcome.written is None:
        for line in outcome.refusal:
            where = f" [{line.where}]" if line.where else ""
            print(plain(f"refused: {line.message}{where} ({line.code})"), file=sys.stderr)
        return
    findings = outcome.written.findings
    for choice in findings.source.choices:
        print(plain(f"series {_short(choice.series_instance_uid)}: {choice.reason}"))
    for line in findings.report:
        if line.severity != "note":
            print(plain(f"{line.severity}: {line.message} ({line.code})"))
    print()
    if findings.lesions:
        _print_table(findings)
    else:
        print("No lesion found.")
    _print_measured(findings)
    for answer in findings.image_classes:
        print(f"{answer.output}: {answer.name} {answer.probability:.2f} ({'present' if answer.present else 'absent'})")
    for key, value in findings.reconstruction_error.items():
        print(f"reconstruction: {key} {value:.1f}")
    timings = findings.plane.timings if findings.plane else None
    if timings is not None:
        print(
            f"{timings.count} frames; from pixels to findings median {timings.median_ms:.1f} ms, "
            f"95th percentile {timings.p95_ms:.1f} ms"
        )
    print(f"\n{_costs(findings)}")
    print(f"written to {outcome.folder}: {', '.join(file.name for file in outcome.written.files)}")
    dicom = outcome.written.dicom
    for name, one in (("DICOM SEG", dicom.seg), ("DICOM SR", dicom.report), ("capture", dicom.capture)):
        if not one.written:
            print(f"no {name}: {one.reason}")
    model = findings.model
    print(f"{model.name} {model.version}, trained on {model.training_data}. Weights: {model.weights_licence}.")
    print(model.intended_use)


def _print_measured(findings: Findings) -> None:
    for lesion in findings.lesions:
        if lesion.measured:
            print(f"lesion {lesion.number}: {_measured_words(lesion.measured)}")
    if findings.measured:
        print(_measured_words(findings.measured))
    if any(lesion.mask_drawn for lesion in findings.lesions):
        print("Masks are balls of the measured diameter, drawn: no outline was seen.")


def _measured_words(measured: Mapping[str, Measured]) -> str:
    """Measured values by their keys, with the error that the network expects: ``diameter_mm 8.1 +- 1.2``."""
    return ", ".join(
        f"{key} {one.value:.1f}" + ("" if one.sd is None else f" +- {one.sd:.1f}") for key, one in measured.items()
    )


def _print_table(findings: Findings) -> None:
    flat = findings.plane is not None
    shown = findings.lesions[:_MOST_ROWS] if flat else findings.lesions
    rows = [_FLAT_HEAD if flat else _HEAD, *((_flat_row if flat else _row)(lesion) for lesion in shown)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    if len(shown) < len(findings.lesions):
        print(f"... and {len(findings.lesions) - len(shown)} more in findings.json")


def _flat_row(lesion: Lesion) -> tuple[str, ...]:
    """A lesion of an image or clip: its place in pixels, its size in mm where that is known."""
    i0, j0, _, i1, j1, _ = lesion.box_index
    sizes, unit = [lesion.longest_axial_diameter_mm, lesion.short_axial_diameter_mm], "mm"
    if sizes[0] is None:
        sizes, unit = [lesion.measures.get(f"{axis}_diameter_px") for axis in ("longest", "short")], "px"
    area = next(
        (f"{lesion.measures[f'area_{u}']:.0f} {u}" for u in ("mm2", "px") if f"area_{u}" in lesion.measures), "-"
    )
    return (
        *_row(lesion)[:3],
        str(lesion.frame),
        f"{i0 + 0.5:.0f}-{i1 + 0.5:.0f}, {j0 + 0.5:.0f}-{j1 + 0.5:.0f}",
        "-" if sizes[0] is None else " x ".join(f"{v:.1f}" for v in sizes if v is not None) + f" {unit}",
        area,
        _row(lesion)[6],
    )


def _row(lesion: Lesion) -> tuple[str, ...]:
    best = [max(classes, key=lambda name: classes[name]) for classes in lesion.class_probabilities.values()]
    axes = (lesion.longest_axial_diameter_mm, lesion.short_axial_diameter_mm)
    return (
        str(lesion.number),
        lesion.label,
        "given" if lesion.place_given else f"{lesion.score:.2f}",
        " ".join(f"{v:.1f}" for v in lesion.centre_lps_mm),
        "drawn" if lesion.mask_drawn else " x ".join("-" if v is None else f"{v:.1f}" for v in axes),
        "-" if lesion.volume_mm3 is None else f"{lesion.volume_mm3:.0f}",
        ", ".join(name.replace("_", " ") for name in best),
    )


def _costs(findings: Findings) -> str:
    stages = ", ".join(f"{cost.stage} {cost.seconds:.1f} s" for cost in findings.costs)
    total = sum(cost.seconds for cost in findings.costs)
    peak = max((cost.peak_memory_bytes for cost in findings.costs), default=0)
    return f"{total:.1f} s in all ({stages}); peak memory {peak / 2**30:.2f} GiB"


def _short(uid: str) -> str:
    return f"...{uid[-8:]}" if len(uid) > 8 else uid
