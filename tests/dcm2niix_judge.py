"""dcm2niix as the outside judge of volumes: its wheel's program, not the system's, which is older."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from mtnet.structures import Geometry


@dataclass(frozen=True)
class Judged:
    """One image in RAS+ index order: values ``(i, j, k)`` and affine."""

    name: str
    values: NDArray[np.float64]
    affine_ras: NDArray[np.float64]


def convert_with_dcm2niix(folder: Path, out: Path) -> list[Judged]:
    """Run dcm2niix over a folder; file names are ``<series UID>_<series number>``. Colour is left out.

    What it writes as a time series is given volume by volume.
    """
    import dcm2niix

    out.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [dcm2niix.bin, "-z", "n", "-b", "n", "-f", "%j_%s", "-o", str(out), str(folder)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    paths = [path for path in sorted(out.glob("*.nii")) if not nibabel.load(path).get_data_dtype().names]
    judged = [read_canonical(path) for path in paths]
    return [
        Judged(one.name, values, one.affine_ras)
        for one in judged
        for values in (np.moveaxis(one.values, 3, 0) if one.values.ndim == 4 else [one.values])
    ]


def read_canonical(path: Path) -> Judged:
    """A NIfTI file in the index order and direction nearest to RAS+."""
    image = nibabel.as_closest_canonical(nibabel.load(path))
    return Judged(path.name, np.asarray(image.dataobj, dtype=np.float64), np.asarray(image.affine))


def worst_distance_mm(one: Judged, two: Judged) -> float:
    """Largest distance between voxel centres of equal index; infinite where the shapes differ."""
    if one.values.shape != two.values.shape:
        return float("inf")
    grids = [Geometry.from_ras(each.values.shape, each.affine_ras) for each in (one, two)]
    last = np.asarray(one.values.shape) - 1
    corners = np.array([[0, 0, 0], last, *(np.diag(last))], dtype=float)
    return float(np.linalg.norm(grids[0].index_to_lps_mm(corners) - grids[1].index_to_lps_mm(corners), axis=1).max())
