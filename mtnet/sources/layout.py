"""What every reader of a layout shares: what it hands on, and looking into folders."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtnet.io.image2d import PICTURE_SUFFIXES
from mtnet.sources.manifest import Numbers, Split, Terms

VOLUME_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
"""3D image formats by file name; the longer of two endings first."""

_IGNORED = re.compile(r"(licen[cs]e|readme|attribution|citation)\b.*|thumbs\.db|desktop\.ini", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class About:
    """What is known about a set before its files are looked at; see ``Source`` for the fields."""

    title: str
    licence: str
    terms: Terms
    cite: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """A file of a set that is not as the layout says."""

    file: Path
    reason: str


class Problems(list[Problem]):
    """Collects what is wrong with a set; ``looked`` is called for each image that is about to be looked at."""

    def __init__(self, looked: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.looked = looked


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """A sample before it has a group, a fold and a split; other fields as in ``Sample``.

    Args:
        name: the part of the id behind the source.
        group: where the layout itself tells it (a patient).
        official: the split that the publisher put it in, where the layout tells it.
        official_fold: the publisher's fold, where there is one.
        fingerprint: what near-duplicates are found by; of pictures only.
    """

    name: str
    image: Path
    masks: tuple[Path, ...] | None = None
    boxes: tuple[Numbers, ...] | None = None
    boxes_lps_mm: tuple[Numbers, ...] | None = None
    excluded_boxes: tuple[Numbers, ...] = ()
    image_class: str | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    centre_lps_mm: tuple[float, float, float] | None = None
    flags: tuple[str, ...] = ()
    group: str | None = None
    official: Split | None = None
    official_fold: int | None = None
    fingerprint: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a reader found under a root; what is wrong there went to the ``Problems`` that it was given.

    Args:
        root: the folder that ``groups.csv`` names images from.
        about: the set.
        drafts: its images, in the order of their names.
        boxes_from: see ``Source``.
        grouped_by: what ``Draft.group`` is, where the layout tells groups.
        files: see ``Source``.
        split_by: see ``Source``, where the layout itself tells every sample's fold.
        write: writes the files that drafts name and that are not there yet; called once nothing stands in the way.
    """

    root: Path
    about: About
    drafts: tuple[Draft, ...]
    boxes_from: str | None = None
    grouped_by: str | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    split_by: str | None = None
    write: Callable[[], None] | None = None


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, sorted as people count (2 before 10), without hidden files and licence texts."""
    entries = (
        entry for entry in folder.iterdir() if not entry.name.startswith((".", "__MACOSX")) and not _is_text(entry)
    )
    return sorted(entries, key=lambda entry: natural(entry.name))


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts numbers in names by their value."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.findall(r"\d+|\D+", name)]


def _is_text(entry: Path) -> bool:
    return entry.is_file() and _IGNORED.fullmatch(entry.name) is not None


def subfolder(folder: Path, *names: str) -> Path | None:
    """The first subfolder that has one of the names, whatever its case."""
    held = {entry.name.lower(): entry for entry in visible(folder) if entry.is_dir()}
    return next((held[name.lower()] for name in names if name.lower() in held), None)


def set_root(root: Path, fits: Callable[[Path], bool], expected: str) -> Path:
    """``root``, or its only subfolder that fits (archives often unpack into a folder of their own).

    Raises:
        FileNotFoundError: there is no folder ``root``, or nothing in it fits.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {root}.")
    if fits(root):
        return root
    inside = [entry for entry in visible(root) if entry.is_dir() and fits(entry)]
    if len(inside) == 1:
        return inside[0]
    raise FileNotFoundError(f"{root} is not laid out as expected: {expected}")


def suffix_of(path: Path, suffixes: Sequence[str]) -> str | None:
    """The ending that the path's name has among ``suffixes``, or None."""
    name = path.name.lower()
    return next((suffix for suffix in suffixes if name.endswith(suffix) and len(name) > len(suffix)), None)


def stem_of(path: Path, suffixes: Sequence[str] = PICTURE_SUFFIXES) -> str:
    """The name without its ending; ``.nii.gz`` is one ending."""
    suffix = suffix_of(path, suffixes)
    return path.name[: -len(suffix)] if suffix else path.stem


def files_by_stem(folder: Path, suffixes: Sequence[str], problems: list[Problem]) -> dict[str, Path]:
    """The images of a folder by stem. Everything else in it, and a second file of one stem, becomes a problem."""
    found: dict[str, Path] = {}
    for entry in visible(folder):
        if entry.is_dir():
            problems.append(Problem(entry, "foreign folder: expected images only"))
            continue
        suffix = suffix_of(entry, suffixes)
        if suffix is None:
            if _is_data_of(entry, folder):
                continue
            problems.append(Problem(entry, f"foreign file: expected {', '.join(suffixes)}"))
            continue
        stem = stem_of(entry, suffixes)
        if stem in found:
            problems.append(Problem(entry, f"a second file of this name; {found[stem].name} is there too"))
            continue
        found[stem] = entry
    return found


def _is_data_of(entry: Path, folder: Path) -> bool:
    """Whether a file holds the pixels of a header beside it (``.mhd`` with ``.raw``)."""
    return entry.suffix.lower() in (".raw", ".zraw") and any(
        (folder / f"{entry.stem}{header}").is_file() for header in (".mhd", ".nhdr")
    )


def foreign_images(root: Path, suffixes: Sequence[str]) -> Iterator[Problem]:
    """Images that lie beside the folders of a set, where none belong."""
    for entry in visible(root):
        if entry.is_file() and suffix_of(entry, suffixes) is not None:
            yield Problem(entry, "foreign file: images belong into the folders of the set")


def drafts_of(drafts: Iterable[Draft | None]) -> tuple[Draft, ...]:
    """The drafts that there are."""
    return tuple(draft for draft in drafts if draft is not None)
