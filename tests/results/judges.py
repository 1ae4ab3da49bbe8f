"""Outside judges of what the writers write."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray


def errors_of(path: Path, iod: str = "Segmentation") -> list[str]:
    """The lines of dciodvfy that name an error, once it has found the object to be one of ``iod``."""
    tool = shutil.which("dciodvfy")
    if tool is None:
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    run = subprocess.run([tool, "-new", str(path)], capture_output=True, text=True, errors="replace", check=False)
    lines = (run.stdout + run.stderr).splitlines()
    assert any(line.strip() == iod for line in lines), lines
    return [line for line in lines if line.startswith("Error")]


def filled(points: NDArray[np.floating], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels ``(rows, columns)`` whose centres lie in a closed polygon of (column, row), by crossings of a ray."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    inside = np.zeros(shape, bool)
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if y0 == y1:
            continue
        crosses = (min(y0, y1) <= y) & (y < max(y0, y1))
        inside ^= crosses & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    return inside
