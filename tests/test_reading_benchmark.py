"""What the reading benchmark compares does the same work."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.reading import loaders, measure, scanners
from tests.builders import write_ct_series


def test_every_reader_that_gives_a_volume_gives_the_same_one(tmp_path: Path) -> None:
    write_ct_series(tmp_path)
    work = loaders(tmp_path)
    ours = work["mtnet"]().array[0]
    (scanned,) = work["SimpleITK"]()
    others = [scanned, *(work[name]() for name in ("SimpleITK without its scan", "MONAI ITKReader"))]
    others.append(work["MONAI PydicomReader"]())
    for told in others:
        # MONAI's readers order the slices down the normal.
        assert any(np.allclose(ours, each, atol=0.5) for each in (told.values, told.values[..., ::-1]))


def test_every_contender_is_timed_in_every_round(tmp_path: Path) -> None:
    write_ct_series(tmp_path, shape=(8, 8, 3))
    for work in (loaders(tmp_path), scanners(tmp_path)):
        taken = measure(work, rounds=2)
        for kind in ("seconds", "cpu_seconds"):
            assert {name: len(each) for name, each in taken[kind].items()} == dict.fromkeys(work, 2)
