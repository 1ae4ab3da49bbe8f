"""What was noted of every sample, in memory and in ``records.json``, from which every score can be made again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mtnet.io.atomic import atomic_path
from mtnet.structures import ModelInfo

SCHEMA_VERSION = "1.0"
RECORDS_FILE = "records.json"


@dataclass(frozen=True, slots=True)
class SampleRecord:
    """One sample.

    Args:
        id, source, group: as in the manifest.
        image: its image file.
        aside: it stands in two classes; main scores leave it out.
        notes: task path to what its metric noted.
    """

    id: str
    source: str
    group: str
    image: str
    aside: bool = False
    notes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A sample that was not answered, and why."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One network on the samples of one split.

    Args:
        model: the network.
        split: of the manifest.
        samples: that were answered.
        refused: that were not.
        without_truth: how many samples of the split hold nothing that could be scored.
        notes: sentences on tasks that could not be scored.
        options: how images were read and answered.
    """

    model: ModelInfo
    split: str
    samples: tuple[SampleRecord, ...]
    refused: tuple[Refusal, ...] = ()
    without_truth: int = 0
    notes: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)


def write_records(evaluated: Evaluated, path: Path) -> None:
    """Write everything that was noted, a sample a line."""
    document = asdict(evaluated)
    samples = ",\n".join(json.dumps(sample, allow_nan=False) for sample in document.pop("samples"))
    head = json.dumps({"schema_version": SCHEMA_VERSION, **document}, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(f'{head[:-1]}, "samples": [\n{samples}\n]}}\n', encoding="utf-8")


def read_records(path: Path) -> Evaluated:
    """Read what ``write_records`` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, or one of another version.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected the folder of an earlier mtnet evaluate.")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        version = document.pop("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(f"schema_version is {version!r}; this version of mtnet reads {SCHEMA_VERSION}")
        return Evaluated(
            model=ModelInfo(**document.pop("model")),
            samples=tuple(SampleRecord(**sample) for sample in document.pop("samples")),
            refused=tuple(Refusal(**one) for one in document.pop("refused")),
            notes=tuple(document.pop("notes")),
            **document,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path.name} is no record of mtnet evaluate ({error}). Evaluate that network again."
        ) from error


def joined(evaluated: Evaluated, earlier: Iterable[Evaluated]) -> Evaluated:
    """One evaluation with the samples of earlier ones too: of a network trained anew for each fold, say.

    Raises:
        ValueError: a sample was scored in two of them.
    """
    parts = [evaluated, *earlier]
    samples = tuple(sample for part in parts for sample in part.samples)
    twice = [name for name, count in Counter(sample.id for sample in samples).items() if count > 1]
    if twice:
        raise ValueError(f"{len(twice)} sample(s) were scored in two of the runs to join, such as {twice[0]}.")
    weights = ",".join(part.model.weights_sha256[:12] for part in parts)
    return replace(
        evaluated,
        samples=samples,
        refused=tuple(one for part in parts for one in part.refused),
        without_truth=sum(part.without_truth for part in parts),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        options={**evaluated.options, "joined_weights": weights},
    )


def notes_of(samples: Iterable[SampleRecord], path: str) -> list[Mapping[str, Any] | None]:
    """What one task noted of each sample; None where nothing."""
    return [sample.notes.get(path) for sample in samples]
