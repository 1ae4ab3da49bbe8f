"""One small file with all that ``make bench-cuda`` needs on a machine with a GPU and without a network.

``python -m benchmarks.gpu_pack OUT.tar.gz``: what git holds of mtnet, its tests, benchmarks and the shipped chest
bundle, and the pure wheels that such a machine lacks (it has Python 3.12, torch 2.11, numpy, scipy, pytest, hypothesis,
pillow, psutil and tqdm).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
KEPT = (
    "mtnet",
    "benchmarks",
    "tests",
    "bundles/chest_ct_multitask",
    "setup.cfg",
    "pyproject.toml",
    "Makefile",
    "LICENSE",
)
WHEELS = ("monai", "pydicom", "nibabel", "pytorch-ignite", "importlib_resources")
MOST_BYTES = 60 << 20


def main(arguments: list[str] | None = None) -> int:
    """Write the pack and say how large it is; returns 1 where it is larger than it may be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    options = parser.parse_args(arguments)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", *KEPT], cwd=REPOSITORY, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    with tempfile.TemporaryDirectory() as folder, tarfile.open(options.out, "w:gz") as pack:
        for name in filter(None, listed):
            if (REPOSITORY / name).is_file():
                pack.add(REPOSITORY / name, f"gpu-pack/{name}")
        for wheel in fetch_wheels(Path(folder)):
            pack.add(wheel, f"gpu-pack/wheels/{wheel.name}")
    size = options.out.stat().st_size
    print(f"{options.out}: {size / 2**20:.1f} MiB")
    return int(size > MOST_BYTES)


def fetch_wheels(folder: Path) -> list[Path]:
    """Wheels for any platform, of the versions that are installed here where they are."""
    wanted = []
    for name in WHEELS:
        try:
            wanted.append(f"{name}=={version(name)}")
        except ModuleNotFoundError:
            wanted.append(name)
    for one in wanted:
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--only-binary=:all:",
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
