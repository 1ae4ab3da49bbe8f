"""Scanning and loading DICOM with mtnet, MONAI's readers, SimpleITK, dcm2niix and plain pydicom.

``python -m benchmarks.reading`` measures on the real study and on a drawn one, writes
``benchmarks/results/reading--<machine>.json`` and rewrites ``benchmarks/RESULTS.md``, which says how it was done.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pydicom
import SimpleITK as sitk
from monai.data import ITKReader, PydicomReader

from benchmarks.machine import describe_machine, machine_slug
from benchmarks.measure import compare
from benchmarks.readers import (
    be_quiet,
    convert_with_dcm2niix,
    load_with_simpleitk,
    monai_loader,
    reader_versions,
    series_of_simpleitk,
)
from benchmarks.scoreboard import DATA
from benchmarks.tables import RESULTS, write_tables
from mtnet.io.read import load_from_study
from mtnet.io.scan import scan
from tests.builders import write_ct_series

Work = Mapping[str, Callable[[], object]]


def loaders(folder: Path) -> Work:
    """What is measured on the folder of one series: from its path to the pixels in memory."""
    files = sorted(map(str, folder.iterdir()))
    (ordered,) = series_of_simpleitk(folder)
    itk_loader, pydicom_loader = monai_loader(ITKReader()), monai_loader(PydicomReader())
    return {
        "mtnet": lambda: _load_with_mtnet(folder),
        "SimpleITK": lambda: [load_with_simpleitk(names) for names in series_of_simpleitk(folder)],
        "SimpleITK without its scan": lambda: load_with_simpleitk(ordered),
        "MONAI ITKReader": lambda: itk_loader(folder),
        "MONAI PydicomReader": lambda: pydicom_loader(folder),
        "dcm2niix": lambda: _with_dcm2niix(folder),
        "pydicom": lambda: [pydicom.dcmread(file).pixel_array for file in files],
    }


def scanners(folder: Path) -> Work:
    """What is measured on a folder of many files: which series it holds, from the headers."""
    files = sorted(map(str, folder.iterdir()))
    return {
        "mtnet": lambda: scan(folder),
        "SimpleITK": lambda: sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)),
        "pydicom": lambda: [pydicom.dcmread(file, stop_before_pixels=True) for file in files],
    }


def _load_with_mtnet(folder: Path) -> object:
    (study,) = scan(folder)
    ((series, stack),) = [(series, stack) for series in study.series for stack in series.stacks]
    return load_from_study(study, series, stack)


def _with_dcm2niix(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as out:
        convert_with_dcm2niix(folder, Path(out))


def measure(work: Work, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds, and seconds of the processor with those of child processes, of every contender in every round.

    Each round runs all of them, beginning with another one each time, after one run each that does not count.
    """
    for once in work.values():
        once()
    names = list(work)
    taken: dict[str, dict[str, list[float]]] = {
        kind: {name: [] for name in names} for kind in ("seconds", "cpu_seconds")
    }
    for number in range(rounds):
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            started, cpu_started = time.perf_counter(), _cpu_seconds()
            kept = work[name]()
            taken["seconds"][name].append(time.perf_counter() - started)
            taken["cpu_seconds"][name].append(_cpu_seconds() - cpu_started)
            del kept
            print(f"round {number + 1}/{rounds} {name}: {taken['seconds'][name][-1]:.2f} s", file=sys.stderr)
    return taken


def _cpu_seconds() -> float:
    """Of this process and of the children that have ended."""
    told = os.times()
    return time.process_time() + told.children_user + told.children_system


def measure_loading(folder: Path, rounds: int) -> dict[str, Any]:
    """All loaders on one folder, and mtnet's ratios to each of the others."""
    taken = measure(loaders(folder), rounds)
    return {
        "files": sum(1 for _ in folder.iterdir()),
        "mib": round(sum(file.stat().st_size for file in folder.iterdir()) / 2**20, 1),
        **taken,
        "ratios": _ratios(taken["seconds"]),
        "ratios_cpu": _ratios(taken["cpu_seconds"]),
    }


def measure_scanning(folder: Path, rounds: int) -> dict[str, Any]:
    """All scanners on one folder, in files per second too."""
    taken = measure(scanners(folder), rounds)
    files = sum(1 for _ in folder.iterdir())
    rates = {name: files / statistics.median(seconds) for name, seconds in taken["seconds"].items()}
    return {"files": files, **taken, "files_per_second": rates}


def _ratios(seconds: Mapping[str, list[float]]) -> dict[str, dict[str, Any]]:
    return {name: compare(seconds["mtnet"], theirs) for name, theirs in seconds.items() if name != "mtnet"}


def largest_series(study: Path) -> Path:
    """The folder with the most DICOM files under ``study``."""
    return max({file.parent for file in study.rglob("*.dcm")}, key=lambda folder: sum(1 for _ in folder.iterdir()))


def main(arguments: list[str] | None = None) -> None:
    """Draw the studies, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=Path, default=DATA / "chest_ct_study", help="the real study")
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 400), help="voxels of the drawn series")
    parser.add_argument("--files", type=int, default=5000, help="of the folder that is scanned")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--remark", default="", help="what the reader of the table has to know of this run")
    options = parser.parse_args(arguments)
    be_quiet()
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as made:
        drawn, small = Path(made) / "drawn", Path(made) / "small"
        write_ct_series(drawn, shape=tuple(options.shape), spacing_mm=(0.7, 0.7, 1.0))
        write_ct_series(small, shape=(16, 16, options.files), spacing_mm=(0.7, 0.7, 0.5))
        result = {
            "benchmark": "reading",
            "machine": machine,
            "versions": reader_versions(),
            "remark": options.remark,
            "rounds": options.rounds,
            "loading": {
                "real": measure_loading(largest_series(options.study), options.rounds),
                "drawn": measure_loading(drawn, options.rounds),
            },
            "scanning": measure_scanning(small, options.rounds),
        }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"reading--{machine_slug(machine)}.json").write_text(json.dumps(result, indent=2) + "\n")
    write_tables()


if __name__ == "__main__":
    main()
