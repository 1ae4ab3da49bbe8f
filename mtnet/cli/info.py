"""``mtnet info``: versions, devices and bundles, for bug reports and for programs."""

from __future__ import annotations

import argparse
from typing import Any

PACKAGES = (
    "mtnet",
    "torch",
    "monai",
    "numpy",
    "scipy",
    "nibabel",
    "pydicom",
    "highdicom",
    "SimpleITK",
    "itk",
    "pytorch-ignite",
    "python-gdcm",
    "pylibjpeg-openjpeg",
    "pyjpegls",
)


def add_parser(commands: Any) -> None:
    """Add ``mtnet info`` to the command line."""
    parser = commands.add_parser(
        "info", help="versions, devices and bundles", description="Versions, devices and bundles. Example: mtnet info"
    )
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the account."""
    import json

    account = collect()
    if args.json:
        print(json.dumps(account, indent=2))
        return 0
    for name, version in account["packages"].items():
        print(f"{name:20} {version or 'not installed'}")
    print(f"{'python':20} {account['python']} on {account['platform']}")
    for device in account["devices"]:
        half = ", ".join(device["half_precision"]) or "none"
        print(f"{'device':20} {device['name']}: {device['description']}; half precision: {half}")
    for bundle in account["bundles"]:
        print(f"{'bundle':20} {bundle['name']} {bundle['version']}")
    return 0


def collect() -> dict[str, Any]:
    """Versions of mtnet and what it stands on, the devices that torch sees, and the bundles that ``--bundle`` finds."""
    import platform
    from importlib import metadata

    import torch

    from mtnet.bundle import list_bundles
    from mtnet.inference.precision import fast_precision

    packages: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = None

    devices = [
        {
            "name": "cpu",
            "description": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
            "half_precision": [p for p in (fast_precision("cpu"),) if p != "float32"],
        }
    ]
    devices += [
        {
            "name": f"cuda:{index}",
            "description": torch.cuda.get_device_name(index),
            "half_precision": [p for p in (fast_precision(f"cuda:{index}"),) if p != "float32"],
        }
        for index in range(torch.cuda.device_count())
    ]
    return {
        "packages": packages,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": devices,
        "bundles": [{"name": name, "version": version} for name, version in list_bundles()],
    }
