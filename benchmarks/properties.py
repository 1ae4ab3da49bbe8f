"""``python -m benchmarks.properties BUNDLE``: MONAI's ``check_properties`` of a bundle's configs, without data."""

from __future__ import annotations

import sys
from pathlib import Path

CONFIGS = {"train": "train", "evaluate": "infer", "inference": "infer"}


def missing(bundle: Path) -> dict[str, list[str]]:
    """By config, what it lacks or has in the wrong place.

    Raises:
        KeyError: a required id is missing altogether.
    """
    from monai.bundle import ConfigWorkflow

    found = {}
    for name, kind in CONFIGS.items():
        workflow = ConfigWorkflow(
            config_file=str(bundle / "configs" / f"{name}.json"),
            meta_file=str(bundle / "configs" / "metadata.json"),
            workflow_type=kind,
            logging_file=False,
            device="$torch.device('cpu')",
        )
        workflow.initialize()
        found[name] = workflow.check_properties() or []
    return found


def main() -> int:
    """Print what is missing."""
    found = missing(Path(sys.argv[1]))
    print(found)
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
