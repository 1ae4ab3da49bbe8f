"""Small studies and a tiny bundle for the tests of the batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mtnet.cases import ReadOptions
from mtnet.hosts.batch.run import Batch, Engine, run_batch
from mtnet.hosts.batch.sources import find_inputs
from mtnet.hosts.batch.stages import Places, Stages
from mtnet.hosts.batch.tasks import Outcome, Settings, Task
from mtnet.hosts.batch.worker import Start
from mtnet.predictor import Predictor
from mtnet.study_folder import WriteOptions
from tests.builders import WrittenSeries, write_ct_series

# What may differ between two runs over one study.
TIMED = ("costs", "files")


def write_study(folder: Path, seed: int = 0, **options: Any) -> WrittenSeries:
    """A small CT study that random weights find something in; another ``seed`` is another study."""
    how: dict[str, Any] = {
        "shape": (24, 20, 9),
        "spacing_mm": (2.5, 2.5, 6.0),
        "values": lambda p: np.sin((p + seed) / 9).prod(axis=-1) * 600 - 400,
        "study": f"study {seed}",
        "series": f"series {seed}",
        **options,
    }
    return write_ct_series(folder, **how)


class InProcess:
    """An engine without a process of its own, which notes what it is given."""

    def __init__(self, predictor: Predictor) -> None:
        self.given: list[str] = []
        self._predictor = predictor

    def __call__(self, tasks: Iterable[Task], start: Start) -> Iterator[Outcome]:
        settings, outcomes = start.settings, list[Outcome]()
        stages = Stages(
            self._predictor,
            ReadOptions(strict=settings.strict, repair=settings.repair),
            WriteOptions(settings.seg, settings.capture),
            Places(start.studies, start.work),
            start.known,
            told=lambda *_: None,
            done=outcomes.append,
        )
        for task in tasks:
            self.given.append(task.input.name)
            stages.tasks.put(task)
        stages.tasks.put(None)
        stages.run()
        yield from outcomes


def batch(source: Path | str, out: Path, bundle: Path, engine: Engine, **how: Any) -> Batch:
    """A batch over a source; ``settings`` and ``find`` are options of ``Settings`` and ``find_inputs``."""
    settings = Settings(str(bundle), device="cpu", **how.pop("settings", {}))
    inputs = find_inputs(str(source), **how.pop("find", {}))
    return run_batch(inputs, out, settings, engine, **how)


def by_name(done: Batch, out: Path) -> dict[str, Any]:
    """What became of each input, by its name in ``inputs.csv``."""
    lines = (out / "inputs.csv").read_text(encoding="utf-8").splitlines()[1:]
    names = dict(line.split(",", 1) for line in lines)
    return {names[name]: entry.outcome for name, entry in done.entries.items()}


def answer(folder: Path) -> dict[str, Any]:
    """What a folder of results says, without what it cost; every file that it lists is there and whole."""
    document: dict[str, Any] = json.loads((folder / "findings.json").read_text(encoding="utf-8"))
    hashes = {}
    for file in document["files"]:
        content = (folder / file["name"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file["sha256"], file["name"]
        hashes[file["name"]] = file["sha256"]
    assert {path.name for path in folder.iterdir()} == {*hashes, "findings.json"}
    told = {key: value for key, value in document.items() if key not in TIMED}
    masks = {name: sha256 for name, sha256 in hashes.items() if name.endswith(".nii.gz")}
    return {**told, "masks": masks}
