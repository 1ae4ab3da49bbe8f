"""The manifest: every sample of one or several sources, with its group, targets, split and licence."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from math import isfinite
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any, Literal, get_args

from mtnet.io.atomic import atomic_path

SCHEMA_VERSION = "1.0"
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
Terms = Literal["free", "non_commercial", "research_only", "unknown"]
TERMS: tuple[Terms, ...] = get_args(Terms)
Numbers = tuple[float, ...]

_NO_VALUES: Mapping[str, float] = MappingProxyType({})
_NO_FILES: Mapping[str, Path] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Source:
    """One set of images: what it is, under which terms, and how it was read.

    Args:
        name: short lower-case name, the first part of every sample's ``id``.
        layout: the reader that read it (``busi``, ``polyp_folder``...).
        title: its name for people.
        licence: SPDX identifier, or ``LicenseRef-...`` where there is none.
        terms: what the licence lets people do with weights that the set touched, from ``free`` to ``unknown``.
        cite: how to cite it.
        url: where it is told about.
        grouped_by: what makes a group: ``groups.csv``, ``patient``, ``scan``, ``volume``, ``near_duplicates``,
            ``drawn``, or ``given`` (by the user).
        split_by: ``groups`` (fold = hash of the group), or the name of the official split that was taken.
        boxes_from: ``annotation``, ``mask_components``, or None where samples hold no boxes.
        files: further files of the set that some training needs, by name (LUNA16's ``candidates``).
    """

    name: str
    layout: str
    title: str
    licence: str
    terms: Terms
    cite: str
    url: str
    grouped_by: str
    split_by: str
    boxes_from: str | None = None
    files: Mapping[str, Path] = field(default_factory=lambda: _NO_FILES)

    def __post_init__(self) -> None:
        if not self.name or not all(c.isalnum() or c == "_" for c in self.name) or self.name != self.name.lower():
            raise ValueError(f"Source.name is {self.name!r}; expected lower-case letters, digits and '_'.")
        if self.terms not in TERMS:
            raise ValueError(f"Source.terms of {self.name!r} is {self.terms!r}; expected one of {', '.join(TERMS)}.")


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and everything that is known about it.

    Args:
        id: ``<source>/<name>``, unique in a manifest.
        source: name of its ``Source``.
        group: ``<source>:<group>``: patient, sequence or near-duplicates. A group never falls apart over folds.
        image: absolute path of the image; of a DICOM series its folder.
        split: where it belongs.
        fold: SHA-256 of ``group`` modulo 5 (of an official split its own fold). By default test is fold 0, val fold 1.
        masks: files whose union is the foreground (``mtnet.sources.masks.read_mask`` reads them); ``()`` is known to
            be empty, ``None`` is unknown.
        boxes: half-open boxes in continuous index space of the image as loaded, (i, j) or (i, j, k) lows, then highs;
            ``()`` is known to be none, ``None`` is unknown.
        boxes_lps_mm: the same boxes in LPS mm, of volumes.
        excluded_boxes: boxes (index space) of findings that count neither as hit nor as false alarm.
        image_class: its class, or None where there is none.
        values: numbers by a name that carries its unit. Names that start with ``crop_`` say how a crop was cut: they
            tell a truth away and are never a network's input.
        centre_lps_mm: where the one lesion of a crop lies in the patient.
        flags: what a user of the sample has to know: ``label_conflict`` (its group stands in several classes: trains
            only), ``colour_overlay``, ``stray_pixel``...
        licence: of its source.
    """

    id: str
    source: str
    group: str
    image: Path
    split: Split
    fold: int
    masks: tuple[Path, ...] | None = None
    boxes: tuple[Numbers, ...] | None = None
    boxes_lps_mm: tuple[Numbers, ...] | None = None
    excluded_boxes: tuple[Numbers, ...] = ()
    image_class: str | None = None
    values: Mapping[str, float] = field(default_factory=lambda: _NO_VALUES)
    centre_lps_mm: tuple[float, float, float] | None = None
    flags: tuple[str, ...] = ()
    licence: str = ""

    def __post_init__(self) -> None:
        if not self.id.startswith(f"{self.source}/") or self.id == f"{self.source}/":
            raise ValueError(f"Sample.id is {self.id!r}; expected {self.source}/<name>.")
        if not self.group.startswith(f"{self.source}:") or self.group == f"{self.source}:":
            raise ValueError(f"Sample.group of {self.id} is {self.group!r}; expected {self.source}:<group>.")
        if self.split not in SPLITS:
            raise ValueError(f"Sample.split of {self.id} is {self.split!r}; expected one of {', '.join(SPLITS)}.")
        if self.fold < 0:
            raise ValueError(f"Sample.fold of {self.id} is {self.fold}; expected 0 or more.")
        for name in ("boxes", "boxes_lps_mm", "excluded_boxes"):
            for box in getattr(self, name) or ():
                _check_box(box, f"Sample.{name} of {self.id}")
        if self.boxes_lps_mm is not None and len(self.boxes_lps_mm) != len(self.boxes or ()):
            raise ValueError(f"Sample.boxes_lps_mm of {self.id} holds another number of boxes than boxes.")
        for key, value in self.values.items():
            if not isfinite(value):
                raise ValueError(f"Sample.values[{key!r}] of {self.id} is {value}; expected a finite number.")


def _check_box(box: Numbers, where: str) -> None:
    half = len(box) // 2
    whole = len(box) in (4, 6) and all(isfinite(v) for v in box)
    if not whole or not all(low < high for low, high in zip(box[:half], box[half:], strict=True)):
        raise ValueError(f"{where} has {list(box)}; expected 2 or 3 lows, then as many highs above them.")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file that was left out on the user's word (``--skip-broken``), and why."""

    source: str
    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """Samples and the sources that they come from.

    Raises:
        ValueError: an id stands twice, a sample's source is not listed, or a group lies in two folds although its
            source is split by groups.
    """

    sources: tuple[Source, ...]
    samples: tuple[Sample, ...]
    left_out: tuple[LeftOut, ...] = ()

    def __post_init__(self) -> None:
        known = {source.name: source for source in self.sources}
        if len(known) != len(self.sources):
            raise ValueError("Manifest.sources names one source twice.")
        seen: set[str] = set()
        fold_of: dict[str, int] = {}
        for sample in self.samples:
            if sample.id in seen:
                raise ValueError(f"Manifest.samples has the id {sample.id} twice; an id is one image.")
            seen.add(sample.id)
            if sample.source not in known:
                raise ValueError(f"Sample {sample.id} is of source {sample.source!r}, which Manifest.sources lacks.")
            together = known[sample.source].split_by == "groups"
            if together and fold_of.setdefault(sample.group, sample.fold) != sample.fold:
                raise ValueError(f"Group {sample.group} lies in folds {fold_of[sample.group]} and {sample.fold}.")

    def select(self, split: Split | Literal["all"]) -> tuple[Sample, ...]:
        """The samples of one split, in the manifest's order; ``all`` gives every sample.

        Raises:
            ValueError: there is no split of that name.
        """
        if split == "all":
            return self.samples
        if split not in SPLITS:
            raise ValueError(f"There is no split {split!r}; expected {', '.join(SPLITS)} or all.")
        return tuple(sample for sample in self.samples if sample.split == split)

    def source(self, name: str) -> Source:
        """The source of that name.

        Raises:
            KeyError: there is none.
        """
        for source in self.sources:
            if source.name == name:
                return source
        raise KeyError(f"The manifest has no source {name!r}; it has {', '.join(s.name for s in self.sources)}.")

    @property
    def image_classes(self) -> tuple[str, ...]:
        """Every class that occurs, sorted."""
        return tuple(sorted({sample.image_class for sample in self.samples if sample.image_class is not None}))


def joined(*manifests: Manifest) -> Manifest:
    """One manifest with the samples of all, in order. A source that is in several must be told the same way in each.

    Raises:
        ValueError: an id is in two of them, or a source is told in two ways.
    """
    sources: dict[str, Source] = {}
    for manifest in manifests:
        for source in manifest.sources:
            if sources.setdefault(source.name, source) != source:
                raise ValueError(
                    f"The source {source.name!r} is told in two ways in the manifests to join (other set, split or "
                    "files). Prepare one of them under another name (--name)."
                )
    return Manifest(
        tuple(sources.values()),
        tuple(sample for manifest in manifests for sample in manifest.samples),
        tuple(item for manifest in manifests for item in manifest.left_out),
    )


def read_manifest(path: Path) -> Manifest:
    """Read a manifest. Its paths are relative to its folder and become absolute; no image is looked at.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: the file is no JSON, of another schema version, breaks the schema, or contradicts itself.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no manifest {path}. Make one with mtnet prepare.")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is not JSON text: {error}") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path.name} has schema_version {version!r}; this version of mtnet reads {SCHEMA_VERSION}. Is it a "
            "manifest of mtnet prepare?"
        )
    _check_document(document, path.name)
    folder = path.resolve().parent
    sources = tuple(_source_from(item, folder) for item in document["sources"])
    licences = {source.name: source.licence for source in sources}
    samples = tuple(_sample_from(item, folder, licences) for item in document["samples"])
    return Manifest(sources, samples, tuple(LeftOut(**item) for item in document["left_out"]))


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write a manifest, a sample a line, paths relative to its folder; checked against the schema first.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: the document breaks the schema.
    """
    path = Path(path)
    folder = path.resolve().parent
    samples = [_sample_to(sample, folder) for sample in manifest.samples]
    document = {
        "schema_version": SCHEMA_VERSION,
        "sources": [_source_to(source, folder) for source in manifest.sources],
        "left_out": [{"source": x.source, "file": x.file, "reason": x.reason} for x in manifest.left_out],
        "samples": samples,
    }
    _check_document(document, path.name)
    head = json.dumps({**document, "samples": []}, indent=1, ensure_ascii=False, allow_nan=False)
    lines = ",\n".join(f"  {json.dumps(sample, ensure_ascii=False, allow_nan=False)}" for sample in samples)
    text = head.removesuffix("[]\n}") + (f"[\n{lines}\n ]\n}}\n" if samples else "[]\n}\n")
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def schema() -> dict[str, Any]:
    """The published JSON Schema (draft-07) of a manifest."""
    text = resources.files("mtnet.sources").joinpath("schema", f"manifest-{SCHEMA_VERSION}.json").read_text("utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


def _check_document(document: Any, name: str) -> None:
    from jsonschema import Draft7Validator

    errors = sorted(Draft7Validator(schema()).iter_errors(document), key=lambda e: [str(p) for p in e.absolute_path])
    if errors:
        told = "\n".join(
            f"  {'.'.join(str(part) for part in error.absolute_path) or 'document'}: {error.message[:300]}"
            for error in errors[:5]
        )
        raise ValueError(f"{name} breaks the schema manifest-{SCHEMA_VERSION}.json:\n{told}")


def _source_to(source: Source, folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = {
        key: getattr(source, key)
        for key in ("name", "layout", "title", "licence", "terms", "cite", "url", "grouped_by", "split_by")
    }
    told["boxes_from"] = source.boxes_from
    told["files"] = {key: _relative(path, folder) for key, path in source.files.items()}
    return told


def _source_from(item: Mapping[str, Any], folder: Path) -> Source:
    files = {key: _absolute(path, folder) for key, path in item["files"].items()}
    return Source(**{**item, "files": files})


def _sample_to(sample: Sample, folder: Path) -> dict[str, Any]:
    """What is unknown or empty is left out, except that known to be empty (``[]``) is kept."""
    told: dict[str, Any] = {
        "id": sample.id,
        "source": sample.source,
        "group": sample.group,
        "split": sample.split,
        "fold": sample.fold,
        "image": _relative(sample.image, folder),
    }
    if sample.masks is not None:
        told["masks"] = [_relative(path, folder) for path in sample.masks]
    for name, key in (("boxes", "boxes_index"), ("boxes_lps_mm", "boxes_lps_mm")):
        boxes = getattr(sample, name)
        if boxes is not None:
            told[key] = [list(box) for box in boxes]
    if sample.excluded_boxes:
        told["excluded_boxes_index"] = [list(box) for box in sample.excluded_boxes]
    if sample.image_class is not None:
        told["image_class"] = sample.image_class
    if sample.values:
        told["values"] = dict(sample.values)
    if sample.centre_lps_mm is not None:
        told["centre_lps_mm"] = list(sample.centre_lps_mm)
    if sample.flags:
        told["flags"] = list(sample.flags)
    return told


def _sample_from(item: Mapping[str, Any], folder: Path, licences: Mapping[str, str]) -> Sample:
    centre = item.get("centre_lps_mm")
    return Sample(
        id=item["id"],
        source=item["source"],
        group=item["group"],
        image=_absolute(item["image"], folder),
        split=item["split"],
        fold=item["fold"],
        masks=None if "masks" not in item else tuple(_absolute(path, folder) for path in item["masks"]),
        boxes=_boxes(item.get("boxes_index")),
        boxes_lps_mm=_boxes(item.get("boxes_lps_mm")),
        excluded_boxes=_boxes(item.get("excluded_boxes_index")) or (),
        image_class=item.get("image_class"),
        values={key: float(value) for key, value in item.get("values", {}).items()},
        centre_lps_mm=None if centre is None else (float(centre[0]), float(centre[1]), float(centre[2])),
        flags=tuple(item.get("flags", ())),
        licence=licences.get(item["source"], ""),
    )


def _boxes(found: list[list[float]] | None) -> tuple[Numbers, ...] | None:
    return None if found is None else tuple(tuple(float(v) for v in box) for box in found)


def _relative(path: Path, folder: Path) -> str:
    return PurePath(os.path.relpath(path.parent.resolve() / path.name, folder)).as_posix()


def _absolute(text: str, folder: Path) -> Path:
    return Path(os.path.normpath(folder / text))
