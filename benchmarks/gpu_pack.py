"""One small file with all that a machine with a GPU and without a network needs, to measure and to train.

``python -m benchmarks.gpu_pack OUT.tar.gz``: what git holds of mtnet, its tests, benchmarks, jobs and bundles' configs,
the shipped chest bundle, the pure wheels that such a machine lacks (it has Python 3.12, torch 2.11 with torchvision,
numpy, scipy, pytest, hypothesis, pillow, psutil and tqdm), and the images of trainings in 8 bits at their size, job
after job as long as they fit. There: ``make bench-cuda``, ``make train-packed``; ``.cache/train`` is what comes back.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.packed_sets import NotPackedError, pack_job
from mtnet.training.queue import JOBS, STATE, Job, read_jobs

REPOSITORY = Path(__file__).parents[1]
KEPT = (
    "mtnet",
    "benchmarks",
    "tests",
    "bundles/chest_ct_multitask",
    "bundles/*/configs",
    "data",
    "setup.cfg",
    "pyproject.toml",
    "Makefile",
    "LICENSE",
)
WHEELS = ("monai", "pydicom", "nibabel", "pytorch-ignite", "importlib_resources", "fire", "termcolor", "timm", "attrs")
PINNED = ("jsonschema==4.17.3", "pyrsistent==0.20.0")
"""The last ones that are Python alone."""
MOST_BYTES = 60 << 20
_TRAINED = ".cache/train"
_SEEN = ("size", "spatial_dims")
"""Overrides on which it depends what a network sees of an image."""


def main(arguments: list[str] | None = None) -> int:
    """Write the pack and say how large it is; returns 1 where it is larger than it may be."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--jobs", type=Path, default=JOBS, help=f"file of jobs whose images travel (default: {JOBS})")
    parser.add_argument("--only", action="append", metavar="NAME", help="this job alone (again and again)")
    options = parser.parse_args(arguments)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", *KEPT], cwd=REPOSITORY, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    jobs = [job for job in read_jobs(options.jobs) if not options.only or job.name in options.only]
    with tempfile.TemporaryDirectory() as folder, tarfile.open(options.out, "w:gz") as pack:
        for name in filter(None, listed):
            if (REPOSITORY / name).is_file():
                pack.add(REPOSITORY / name, f"gpu-pack/{name}")
        for wheel in fetch_wheels(Path(folder)):
            pack.add(wheel, f"gpu-pack/wheels/{wheel.name}")
        pack_sets(pack, options.out, jobs, Path(folder))
    size = options.out.stat().st_size
    print(f"{options.out}: {size / 2**20:.1f} MiB")
    return int(size > MOST_BYTES)


def pack_sets(pack: tarfile.TarFile, out: Path, jobs: Sequence[Job], workplace: Path) -> list[str]:
    """Add the images of one job after the other as long as they fit; the names of those that are in.

    A job that sees the images of an earlier one gets a link to them.
    """
    taken = []
    images: dict[str, str] = {}
    for job in jobs:
        seen = json.dumps([job.config, job.prepare, *(job.overrides.get(name) for name in _SEEN)])
        if seen in images:
            link = tarfile.TarInfo(f"gpu-pack/{_TRAINED}/{job.name}/manifest.json")
            link.type, link.linkname = tarfile.SYMTYPE, f"../{images[seen]}/manifest.json"
            pack.addfile(link)
            taken.append(job.name)
            continue
        place = workplace / "sets" / job.name
        try:
            manifest = pack_job(job, STATE, place)
        except NotPackedError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
        if out.stat().st_size + size > MOST_BYTES:
            print(
                f"left out: {job.name} takes {size / 2**20:.1f} MiB, which do not fit; --only packs it", file=sys.stderr
            )
            continue
        pack.add(place, f"gpu-pack/{_TRAINED}/{job.name}")
        taken.append(job.name)
        images[seen] = job.name
        print(f"{job.name}: {len(manifest.samples)} samples, {size / 2**20:.1f} MiB")
    return taken


def fetch_wheels(folder: Path) -> list[Path]:
    """Wheels for any platform, of the versions that are installed here where they are."""
    wanted = []
    for name in WHEELS:
        try:
            wanted.append(f"{name}=={version(name)}")
        except ModuleNotFoundError:
            wanted.append(name)
    for one in (*wanted, *PINNED):
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--only-binary=:all:",
                # pip would take a compiled one where there is one for this machine.
                "--platform",
                "any",
                "--dest",
                folder,
                one,
            ],
            check=True,
        )
    found = sorted(folder.glob("*.whl"))
    compiled = [wheel.name for wheel in found if not wheel.name.endswith("-none-any.whl")]
    if compiled:
        raise SystemExit(f"{', '.join(compiled)} is for one platform only; leave it out or bring another version.")
    return found


if __name__ == "__main__":
    sys.exit(main())
