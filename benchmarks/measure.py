"""Measuring contenders in turns, and result files that say by themselves what was measured and what was claimed."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine, machine_slug

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
SCHEMA = FOLDER / "schema" / "result-1.0.json"

Work = Mapping[str, Callable[[], object]]


def in_turns(work: Work, rounds: int, warm_up: bool = True) -> dict[str, dict[str, Any]]:
    """Seconds, and seconds of the processor, of every contender in every round.

    After one run each that does not count, each round runs all of them, beginning with another one each time.
    """
    taken: dict[str, dict[str, Any]] = {name: {"seconds": [], "cpu_seconds": []} for name in work}
    if warm_up:
        for once in work.values():
            once()
    for number in range(rounds):
        turn = number % len(work)
        for name in (*list(work)[turn:], *list(work)[:turn]):
            started, cpu_started = time.perf_counter(), time.process_time()
            work[name]()
            taken[name]["seconds"].append(time.perf_counter() - started)
            taken[name]["cpu_seconds"].append(time.process_time() - cpu_started)
            print(f"round {number + 1}/{rounds} {name}: {taken[name]['seconds'][-1]:.2f} s", file=sys.stderr)
    return taken


def compare(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Ratio of medians, with the range of the ratios of single rounds as its noise."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "ratio_of_medians": statistics.median(ours) / statistics.median(theirs),
        "lowest_round": min(ratios),
        "highest_round": max(ratios),
    }


def claim(
    says: str, value: float, limit: float, *, unit: str = "", at_least: bool = False, rounds: Sequence[float] = ()
) -> dict[str, Any]:
    """One line of what is to be reached: the measured value, its limit, and the range within single rounds."""
    return {
        "says": says,
        "value": value,
        "unit": unit,
        "limit": limit,
        "at_least": at_least,
        "reached": bool(value >= limit if at_least else value <= limit),
        "rounds": [min(rounds), max(rounds)] if rounds else None,
    }


def ratio_claim(says: str, ours: Sequence[float], theirs: Sequence[float], limit: float) -> dict[str, Any]:
    """A claim about a ratio of medians."""
    compared = compare(ours, theirs)
    return claim(
        says, compared["ratio_of_medians"], limit, rounds=(compared["lowest_round"], compared["highest_round"])
    )


def write_result(
    name: str,
    setting: Mapping[str, Any],
    contenders: Mapping[str, Mapping[str, Any]],
    claims: Sequence[Mapping[str, Any]],
    machine: Mapping[str, Any] | None = None,
) -> Path:
    """Write one benchmark's result, checked against the schema; returns the file.

    Args:
        name: of the benchmark.
        setting: what was measured on: sizes, counts, options.
        contenders: for each, lists of ``seconds``, ``cpu_seconds`` and ``peak_over_base_bytes``, and ``facts``.
        claims: what is to be reached, as ``claim`` makes it.
        machine: described when the measurement began; now by default.
    """
    machine = dict(machine or describe_machine())
    result = {
        "schema": "mtnet-benchmark-1.0",
        "benchmark": name,
        "machine": machine,
        "setting": dict(setting),
        "contenders": contenders,
        "claims": list(claims),
    }
    try:
        import jsonschema
    except ImportError:
        # It has no pure wheel, so the machine of make bench-cuda lacks it; a test checks all files that are kept.
        print("jsonschema is not installed: the result is not checked against its schema", file=sys.stderr)
    else:
        jsonschema.validate(result, json.loads(SCHEMA.read_text()))
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}--{machine_slug(machine)}.json"
    file.write_text(json.dumps(result, indent=2) + "\n")
    return file


def tell(claims: Sequence[Mapping[str, Any]]) -> str:
    """Claims as lines: whether each is reached, what was measured, and the limit."""
    lines = []
    for one in claims:
        mark = "reached" if one["reached"] else "MISSED "
        sign = ">=" if one["at_least"] else "<="
        unit = f" {one['unit']}" if one["unit"] else ""
        noise = f" (rounds {one['rounds'][0]:.3f} to {one['rounds'][1]:.3f})" if one["rounds"] else ""
        lines.append(f"{mark}  {one['value']:.3f}{unit} {sign} {one['limit']:g}{unit}{noise}  {one['says']}")
    return "\n".join(lines)
