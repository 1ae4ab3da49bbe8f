"""The part of ``RESULTS.md`` on what one encoder saves and on how fast the systems are."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

METHOD = """\
## One encoder for all tasks, and every system beside a plain U-Net

- Written by `python -m benchmarks.systems` (`--device cuda` compiles and runs in half precision; the CPU runs float32,
  eager). Networks have random weights; one pass over random images, without pre- and postprocessing.
- *One encoder*: the chest-CT network with its four tasks, against the same network with segmentation alone, and against
  the sum of four networks of one task each. GMAC count attention and are exact; the goals are 1.75 and 0.6.
- *Beside smp*: `segmentation_models_pytorch.Unet` with the same encoder (of its full width, also beside a `compact`
  network) on the same image. It gives one mask; a system gives all of its outputs. smp has no 3D, so the windows of the
  3D network stand alone.
- All contenders of a row in one process, in turns, after two passes that do not count. Ratios are medians of the ratios
  of single rounds; their range stands beside them, and where it holds 1 **no claim** is made.
"""


def systems_table(file: Path) -> str:
    """The tables of one result file."""
    result = json.loads(file.read_text())
    machine = result["machine"]
    lines = [
        f"### {result['device']}, {result['precision']}",
        "",
        f"torch {machine['torch']} with {machine['threads']} threads, Python {machine['python']}, {machine['system']}; "
        f"{machine['date']}, load before {machine['load_before']}, {result['rounds']} rounds.",
        "",
    ]
    if result["sharing"]:
        lines += [
            "| four tasks, one encoder | s | GMAC | to segmentation: time (rounds) | GMAC | to four networks: time "
            "(rounds) | GMAC |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        lines += [_sharing_row(name, one) for name, one in result["sharing"].items()]
        lines.append("")
    if result["races"]:
        lines += [
            "| system | image or window | a second | GMAC | smp U-Net of | a second | GMAC | mtnet's time to smp's "
            "(rounds) |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        lines += [_race_row(name, one) for name, one in result["races"].items()]
        lines.append("")
    return "\n".join(lines)


def _sharing_row(name: str, one: dict[str, Any]) -> str:
    cells = []
    for goal in (one["to_segmentation"], one["to_four_networks"]):
        missed = "" if goal["gmac"] <= goal["at_most"] else f", goal {goal['at_most']} missed"
        cells += [_range(goal["time"]), f"{goal['gmac']:.3f}{missed}"]
    seconds = statistics.median(one["seconds"]["all"])
    return f"| {name} | {seconds:.3f} | {one['gmac']['all']:.3f} | {' | '.join(cells)} |"


def _race_row(name: str, one: dict[str, Any]) -> str:
    size = " × ".join(map(str, one["image"]))
    ours = f"{one['images_per_second']['mtnet']:.2f} | {one['gmac']['mtnet']:.3f}"
    if "peer" not in one:
        return f"| {name} | {size} | {ours} | | | | |"
    theirs = f"{one['images_per_second']['smp']:.2f} | {one['gmac']['smp']:.3f}"
    ratio = one["time_to_peer"]
    claim = ", no claim" if ratio["lowest_round"] <= 1.0 <= ratio["highest_round"] else ""
    return f"| {name} | {size} | {ours} | {one['peer']} | {theirs} | {_range(ratio)}{claim} |"


def _range(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.3f} ({ratio['lowest_round']:.3f} to {ratio['highest_round']:.3f})"
