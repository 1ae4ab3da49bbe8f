"""Every verb of ``python -m monai.bundle`` on every bundle, from another folder, on small made data.

``python -m benchmarks.verbs`` runs each command in a process of its own, as a user types it, and writes the table of
``docs/verbs.md``; ``--bundle NAME`` writes that bundle's column anew. It ends with status 1 where a verb fails.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.hosts.monai_metadata import METADATA_20240725
from tests.training.made import write_chests, write_pictures

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "verbs.md"
MONAI = ("-m", "monai.bundle")
NO_GPU = "Cannot find any GPU devices"
"""What MONAI's TensorRT export says on a machine without one; everything before it has worked then."""
_TOLD = 8000
"""Characters of a failed command's end: torchrun's summary stands behind the traceback of the process that failed."""


@dataclass(frozen=True, slots=True)
class Small:
    """Options that make a bundle's verbs quick, each one an override of one id.

    Args:
        train, evaluate, infer: of the three configs.
        volume: whether it reads chests rather than pictures.
        input_shape: of an export.
    """

    train: tuple[str, ...]
    evaluate: tuple[str, ...]
    infer: tuple[str, ...]
    input_shape: tuple[int, ...]
    volume: bool = False


_BATCH = ("--batch_size", "2")
_GRID = "[6,6,6]"
SMALL = {
    "chest_ct_multitask": Small(
        (
            *("--train#preprocessing#spacing_mm", _GRID, "--patch_size", "[16,16,16]", "--bags_per_epoch", "2"),
            *("--patches_per_bag", "2", "--val_interval", "1", "--precision", "float32", "--dataset_dir", "kept"),
        ),
        ("--spacing_mm", _GRID, "--window", "16", "--overlap", "0"),
        ("--spacing_mm", _GRID, "--window", "[16,16,16]", "--overlap", "0"),
        (1, 1, 32, 32, 32),
        volume=True,
    ),
    "yolo_med_polyp": Small((*_BATCH, "--size", "64"), ("--size", "64"), ("--size", "64"), (1, 3, 64, 96)),
    "breast_ultrasound_multitask": Small(
        (*_BATCH, "--size", "[64,64]"), ("--size", "[64,64]"), ("--size", "[64,64]"), (1, 3, 64, 96)
    ),
    "unet_v2_polyp": Small(
        (*_BATCH, "--size", "[64,64]"), ("--size", "[64,64]"), ("--size", "[64,64]"), (1, 3, 64, 96)
    ),
    "res_mtnet_nodule": Small(_BATCH, (), ("--at", "[[0,0,0]]"), (1, 3, 64, 64), volume=True),
}


@dataclass(frozen=True, slots=True)
class Place:
    """A copy of a bundle in a temporary folder, the made data, and the other folder that commands run in."""

    name: str
    root: Path
    manifest: Path
    study: Path

    @property
    def bundle(self) -> Path:
        """The copy."""
        return self.root / self.name

    def file(self, name: str) -> str:
        """A config file of the copy."""
        return str(self.bundle / "configs" / f"{name}.json")


def prepared(name: str, root: Path) -> Place:
    """Copy a bundle without its weights, and make the data that it trains on."""
    shutil.copytree(REPOSITORY / "bundles" / name, root / name, ignore=shutil.ignore_patterns("models"))
    (root / "elsewhere").mkdir()
    data = root / "data"
    manifest = write_chests(data) if SMALL[name].volume else write_pictures(data)
    (root / "schema.json").write_text(json.dumps(METADATA_20240725), encoding="ascii")
    return Place(name, root, manifest, data / ("0.nii.gz" if SMALL[name].volume else "0.png"))


def commands(place: Place) -> dict[str, list[str]]:
    """The verbs in the order in which they build on each other, each as the arguments of Python."""
    small = SMALL[place.name]
    told = ("--manifest", str(place.manifest), "--workers", "0", "--device", "$torch.device('cpu')")
    run = (*MONAI, "run", "--config_file")
    train = (*told, *small.train)
    both = str([place.file("train"), place.file("multi_gpu_train")])
    net = (
        *("--config_file", place.file("inference"), "--meta_file", place.file("metadata")),
        *("--ckpt_file", str(place.bundle / "models" / "model.pt")),
    )
    schema = place.root / "schema.json"
    digest = hashlib.sha256(schema.read_bytes()).hexdigest()
    shape = ("--input_shape", str(list(small.input_shape)))
    meta = ("--meta_file", place.file("metadata"))
    return {
        "train": [*run, place.file("train"), *train, "--max_epochs", "1", "--work_dir", "one"],
        "train, two processes": [
            *("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
            # A parameter that a process left out would show in the second step.
            *(*run, both, *train, "--max_epochs", "2", "--work_dir", "two"),
        ],
        "evaluate": [*run, place.file("evaluate"), *told, *small.evaluate, "--split", "all"],
        "infer": [
            *(*run, place.file("inference"), "--workflow_type", "infer", *small.infer),
            *("--dataset_dir", str(place.study), "--output_dir", "answers", "--device", "$torch.device('cpu')"),
        ],
        "verify_metadata": [
            *(*MONAI, "verify_metadata", *meta, "--filepath", str(schema)),
            *("--hash_val", digest, "--hash_type", "sha256"),
        ],
        "verify_net_in_out": [
            *(*MONAI, "verify_net_in_out", "pred_view", *meta, "--config_file", place.file("inference")),
            *("--device", "cpu"),
        ],
        "ckpt_export": [*MONAI, "ckpt_export", "network_def", "--filepath", "model.ts", *net],
        "onnx_export": [
            *(*MONAI, "onnx_export", "--args_file", place.file("onnx_export"), "--filepath", "model.onnx"),
            *(*net, *shape),
        ],
        "trt_export": [
            *(*MONAI, "trt_export", "network_def", "--filepath", "model_trt.ts", *net, *shape),
            *("--network_def#layout", "tuple", "--device", "0"),
        ],
        "answers of the exports": ["-m", "benchmarks.exports", str(place.bundle), *map(str, small.input_shape)],
        "check_properties": ["-m", "benchmarks.properties", str(place.bundle)],
    }


def failure(place: Place, verb: str, status: int, said: str) -> str:
    """Why a verb counts as failed, from its exit status and what it said; empty where it does not."""
    elsewhere = place.root / "elsewhere"
    if verb == "trt_export":
        return "" if status == 0 or NO_GPU in said else said[-_TOLD:]
    if status:
        return said[-_TOLD:]
    made = {
        "train": place.bundle / "models" / "model.pt.sha256",
        "train, two processes": elsewhere / "two" / "checkpoint.pt",
        "evaluate": elsewhere / "evaluation" / "metrics.csv",
        "infer": elsewhere / "answers" / "findings.json",
        "ckpt_export": elsewhere / "model.ts",
        "onnx_export": elsewhere / "model.onnx",
    }.get(verb)
    return f"{made.name} was not written" if made is not None and not made.is_file() else ""


def told_of(place: Place, verb: str, said: str) -> str:
    """The table's cell of a verb that did not fail."""
    return "up to the missing GPU" if verb == "trt_export" and NO_GPU in said else "yes"


def run_verb(place: Place, arguments: Sequence[str]) -> tuple[int, str]:
    """Run one command in a process of its own, in the other folder: exit status and everything it said."""
    ours = arguments[1].startswith(("benchmarks.", "tests."))
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=place.root / "elsewhere",
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)} if ours else None,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def table(cells: dict[str, dict[str, str]]) -> str:
    """The page's table: verbs down, bundles across."""
    names = list(cells)
    lines = [f"| verb | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    lines += [f"| {verb} | {' | '.join(cells[name][verb] for name in names)} |" for verb in cells[names[0]]]
    return "\n".join(lines)


def cells_of(page: str) -> dict[str, dict[str, str]]:
    """The page's cells, by bundle and verb."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in _split(page)[1].splitlines() if line]
    names, verbs = rows[0][1:], rows[2:]
    return {name: {row[0]: row[column] for row in verbs} for column, name in enumerate(names, start=1)}


def with_cells(page: str, cells: dict[str, dict[str, str]]) -> str:
    """The page with its table made anew."""
    return f"{_split(page)[0]}\n{table(cells)}\n"


def _split(page: str) -> tuple[str, str]:
    head, marker, rest = page.partition("<!-- table -->\n")
    return head + marker, rest


def main(argv: Sequence[str] | None = None) -> int:
    """Run the table."""
    parser = argparse.ArgumentParser(prog="verbs", description=__doc__)
    parser.add_argument("--bundle", choices=list(SMALL), action="append", help="only this one's column; repeatable")
    asked = parser.parse_args(argv).bundle
    cells = cells_of(PAGE.read_text(encoding="utf-8")) if asked else {}
    failed = 0
    for name in asked or SMALL:
        with tempfile.TemporaryDirectory() as folder:
            place = prepared(name, Path(folder))
            cells[name] = {}
            for verb, arguments in commands(place).items():
                status, said = run_verb(place, arguments)
                why = failure(place, verb, status, said)
                cells[name][verb] = "**no**" if why else told_of(place, verb, said)
                failed += bool(why)
                print(f"{name}: {verb}: {cells[name][verb]}\n{why}".rstrip(), flush=True)
    PAGE.write_text(with_cells(PAGE.read_text(encoding="utf-8"), cells), encoding="utf-8")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
