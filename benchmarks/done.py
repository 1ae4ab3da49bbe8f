"""Every line of what is to be reached with its measured value: ``python -m benchmarks.done``.

Reads ``benchmarks/results/*.json``, which ``make bench`` and ``make bench-cuda`` write; ``--measure`` measures first.
"""

from __future__ import annotations

import argparse
import json
import sys

from benchmarks.measure import RESULTS, tell


def main(arguments: list[str] | None = None) -> int:
    """Print the claims of every result; returns 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true", help="run all benchmarks of the CPU first")
    options = parser.parse_args(arguments)
    if options.measure:
        from benchmarks import batch, boxes, engine, memory, receiving, runtimes, steps, study, systems

        for benchmark in (engine, boxes, steps, runtimes, memory, study, receiving, batch, systems):
            benchmark.main([])
    missed = False
    for file in sorted(RESULTS.glob("*.json")):
        result = json.loads(file.read_text())
        claims = result.get("claims", [])
        if claims:
            machine = result["machine"]
            where = machine.get("gpu") or f"{machine['cpu']}, {machine['cores']} cores"
            print(f"{result['benchmark']} ({where}, {machine['date']}, load before {machine['load_before']})")
            print(tell(claims))
        missed |= any(not one["reached"] for one in claims)
    if not any(RESULTS.glob("cuda--*.json")):
        print("cuda: measured on no GPU yet; on a machine that has one: make bench-cuda")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
