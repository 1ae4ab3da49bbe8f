"""A set in its official layout to a manifest: look at every file, group, fold, split."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mtnet.phantoms.families import Family
from mtnet.sources import (
    busi,
    chest_ct_nifti,
    composed_ct,
    endotect,
    folder,
    isic2018,
    kvasir_seg,
    lidc_voi,
    luna16,
    lung_pet_ct_dx,
    phantom,
    polyp_folder,
)
from mtnet.sources.folds import conflicting, fold_of, read_groups, read_split_list, split_of
from mtnet.sources.layout import Draft, Found, Problem, Problems
from mtnet.sources.manifest import TERMS, LeftOut, Manifest, Sample, Source, Split, Terms
from mtnet.sources.near_duplicates import Agreement, agreement, find_groups

CONFLICT = "label_conflict"
_MARKS = (CONFLICT, "colour_overlay")
OFFICIAL: Mapping[str, tuple[str, ...]] = {
    "kvasir_seg": kvasir_seg.OFFICIAL,
    "polyp_folder": polyp_folder.OFFICIAL,
    "isic2018": isic2018.OFFICIAL,
    "luna16": luna16.OFFICIAL,
    "folder": folder.OFFICIAL,
}
"""Official splits by source; each source also has ``groups``."""
NAMED_BY_USER = ("polyp_folder", "chest_ct_nifti", "folder")
"""Layouts of many sets: the source is named after its folder where no name is given."""


@dataclass(frozen=True, slots=True)
class Request:
    """What ``mtnet prepare`` is asked.

    Args:
        layout: one of ``LAYOUTS``.
        root: the set's folder (of ``phantom`` where to draw).
        out: the manifest to write; files that a set needs are written beside it.
        name: the source's name; by default that of the layout, or of the folder for ``NAMED_BY_USER``.
        split_by: ``groups``, an official split of the layout, or the path of a CSV with ``id`` and ``split``.
        find_groups: find near-duplicates even where ``groups.csv`` tells groups.
        title, licence, terms: in place of what is known about the set.
        count, first_seed, family, spacing_mm: of ``phantom``; of ``composed_ct`` too, but the family.
        background: of ``composed_ct``.
        skip_broken: compose although files are broken.
    """

    layout: str
    root: Path
    out: Path
    name: str | None = None
    split_by: str = "groups"
    find_groups: bool = False
    title: str | None = None
    licence: str | None = None
    terms: Terms | None = None
    count: int = 20
    first_seed: int = 0
    family: Family = "train"
    spacing_mm: tuple[float, float, float] = phantom.SPACING_MM
    background: Path | None = None
    skip_broken: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What came of it.

    Args:
        manifest: the samples that can be used.
        problems: files that are not as the layout says; their images are not in the manifest.
        divided: groups that the split puts on two sides (possible in official splits and lists only).
        agreement: of look-alikes with the groups of ``groups.csv``, where there are pictures and such a table.
        write: writes the files that the manifest names and that are not there yet.
    """

    manifest: Manifest
    problems: tuple[Problem, ...]
    divided: tuple[str, ...]
    agreement: Agreement | None
    write: Callable[[], None]


def prepare(request: Request, looked: Callable[[], None] = lambda: None) -> Prepared:
    """Read a set and make its manifest. Nothing is written, except by ``phantom``, which draws into its root,
    and ``composed_ct``, which composes beside ``out``.

    Args:
        request: what is asked.
        looked: called for each image that is about to be looked at.

    Raises:
        FileNotFoundError: the folder, or what the layout asks for in it, is not there.
        ValueError: the layout, split or name is not known, a table is broken, or no image can be used.
    """
    if request.layout not in LAYOUTS:
        raise ValueError(f"There is no source {request.layout!r}; expected {', '.join(LAYOUTS)}.")
    _check_split(request)
    problems = Problems(looked)
    found = LAYOUTS[request.layout](request, problems)
    name = source_name(request)
    found = _once(found, problems)
    rows = _group_rows(found, problems)
    alike = _look_alikes(found)
    groups, grouped_by = _groups(found, rows, alike, anew=request.find_groups)
    kept = [(_flagged(draft, rows), f"{name}:{groups[draft.name]}") for draft in found.drafts if draft.name in groups]
    if not kept and not problems:
        raise ValueError(f"{request.root} holds no image of the layout {request.layout}.")
    official = found.split_by or "groups" if request.split_by == "groups" else _split_name(request.split_by)
    about = found.about
    source = Source(
        name=name,
        layout=request.layout,
        title=request.title or about.title,
        licence=request.licence or about.licence,
        terms=request.terms or about.terms,
        cite=about.cite,
        url=about.url,
        grouped_by=grouped_by,
        split_by=official,
        boxes_from=found.boxes_from,
        files=dict(found.files),
    )
    samples = _samples(source, kept, _conflicts(kept, alike, rows), _listed(request))
    left_out = tuple(LeftOut(name, _where(p.file, request.root), p.reason) for p in problems)
    return Prepared(
        Manifest((source,), samples, left_out),
        tuple(problems),
        _divided(samples),
        _compared(rows, alike),
        found.write or _nothing,
    )


def source_name(request: Request) -> str:
    """The name of the source: as asked, else the layout's, or of a layout of many sets the folder's.

    Raises:
        ValueError: the name asked for has other characters than lower-case letters, digits and ``_``.
    """
    if request.name is not None:
        if not re.fullmatch(r"[a-z0-9_]+", request.name):
            raise ValueError(f"The name {request.name!r} has other characters than lower-case letters, digits and _.")
        return request.name
    if request.layout == "composed_ct":
        return f"composed_ct_{'drawn' if request.background is None else 'real'}"
    if request.layout not in NAMED_BY_USER:
        return request.layout
    return re.sub(r"[^a-z0-9]+", "_", request.root.resolve().name.lower()).strip("_") or request.layout


def _nothing() -> None:
    """A set whose files are all there."""


def _check_split(request: Request) -> None:
    known = ("groups", *OFFICIAL.get(request.layout, ()))
    if request.split_by not in known and not request.split_by.endswith(".csv"):
        raise ValueError(
            f"{request.layout} has no split {request.split_by!r}; expected {', '.join(known)}, or a CSV file with the "
            "columns id and split."
        )
    if request.terms is not None and request.terms not in TERMS:
        raise ValueError(f"There are no terms {request.terms!r}; expected one of {', '.join(TERMS)}.")


def _split_name(split_by: str) -> str:
    return Path(split_by).name if split_by.endswith(".csv") else split_by


def _listed(request: Request) -> dict[str, Split] | None:
    return read_split_list(Path(request.split_by)) if request.split_by.endswith(".csv") else None


def _once(found: Found, problems: list[Problem]) -> Found:
    """The drafts without a second one of a name, for a name becomes an id."""
    first: dict[str, Draft] = {}
    for draft in found.drafts:
        if first.setdefault(draft.name, draft) is not draft:
            where = _where(first[draft.name].image, found.root)
            problems.append(Problem(draft.image, f"a second image of the name {draft.name}; {where} has it too"))
    return replace(found, drafts=tuple(first.values()))


def _group_rows(found: Found, problems: list[Problem]) -> dict[str, dict[str, str]] | None:
    """The rows of ``groups.csv`` by draft; None where there is no such table."""
    table = found.root / "groups.csv"
    if not table.is_file():
        return None
    rows = read_groups(table)
    named: dict[str, dict[str, str]] = {}
    for draft in found.drafts:
        row = rows.get(_where(draft.image, found.root)) or rows.get(draft.name)
        if row is None or not row["group"]:
            problems.append(Problem(draft.image, "groups.csv does not name it, or gives it no group"))
        else:
            named[draft.name] = row
    return named


def _flagged(draft: Draft, rows: Mapping[str, Mapping[str, str]] | None) -> Draft:
    """The draft with what ``groups.csv`` marks by 1."""
    row = (rows or {}).get(draft.name, {})
    marks = [flag for flag in _MARKS if row.get(flag) == "1"]
    return replace(draft, flags=(*draft.flags, *marks)) if marks else draft


def _look_alikes(found: Found) -> dict[str, str]:
    """For each picture the name of the first picture that looks like it."""
    pictures = [(draft.name, draft.fingerprint) for draft in found.drafts if draft.fingerprint is not None]
    first: dict[int, str] = {}
    numbers = find_groups([fingerprint for _, fingerprint in pictures])
    return {name: first.setdefault(number, name) for (name, _), number in zip(pictures, numbers, strict=True)}


def _groups(
    found: Found, rows: Mapping[str, Mapping[str, str]] | None, alike: Mapping[str, str], *, anew: bool
) -> tuple[dict[str, str], str]:
    """The group of each draft, and what makes one: ``groups.csv``, what the layout tells, else looks."""
    if rows is not None and not anew:
        return {name: row["group"] for name, row in rows.items()}, "groups.csv"
    told = {draft.name: draft.group for draft in found.drafts if draft.group is not None}
    if found.grouped_by is not None:
        return told, found.grouped_by
    if len(told) == len(found.drafts):
        return told, "given"
    # Who looks like an image of a told group belongs to that.
    of_alike = {alike[name]: group for name, group in told.items() if name in alike}
    return {
        draft.name: told.get(draft.name) or of_alike.get(alike[draft.name], alike[draft.name]) for draft in found.drafts
    }, "near_duplicates"


def _compared(rows: Mapping[str, Mapping[str, str]] | None, alike: Mapping[str, str]) -> Agreement | None:
    both = [name for name in rows or {} if name in alike]
    return agreement([alike[name] for name in both], [(rows or {})[name]["group"] for name in both]) if both else None


def _conflicts(
    kept: Sequence[tuple[Draft, str]], alike: Mapping[str, str], rows: Mapping[str, Mapping[str, str]] | None
) -> set[str]:
    """Groups with an image that stands in two classes: as ``groups.csv`` marks it, else by look-alikes.

    A patient or a sequence may well have images of several classes; the same picture may not.
    """
    if any(CONFLICT in row for row in (rows or {}).values()):
        return {group for draft, group in kept if CONFLICT in draft.flags}
    pictures = [(alike[draft.name], draft.image_class, group) for draft, group in kept if draft.name in alike]
    twofold = conflicting([leader for leader, _, _ in pictures], [image_class for _, image_class, _ in pictures])
    return {group for leader, _, group in pictures if leader in twofold}


def _samples(
    source: Source,
    kept: Sequence[tuple[Draft, str]],
    conflicts: set[str],
    listed: Mapping[str, Split] | None,
) -> tuple[Sample, ...]:
    missing = [draft.name for draft, _ in kept if listed is not None and f"{source.name}/{draft.name}" not in listed]
    if missing:
        raise ValueError(
            f"{source.split_by} has no split for {len(missing)} images, the first is {source.name}/{missing[0]}. Add "
            "them, or split by groups."
        )
    return tuple(
        _sample(
            source, draft, group, conflict=group in conflicts, listed=(listed or {}).get(f"{source.name}/{draft.name}")
        )
        for draft, group in kept
    )


def _sample(source: Source, draft: Draft, group: str, *, conflict: bool, listed: Split | None) -> Sample:
    fold = fold_of(group) if draft.official_fold is None else draft.official_fold
    official = draft.official or listed
    if official is None and source.split_by != "groups":
        # The publisher names who tests; the others are ours to split.
        official = "val" if split_of(fold) == "val" else "train"
    split = official or ("train" if conflict else split_of(fold))
    flags = (*draft.flags, CONFLICT) if conflict and CONFLICT not in draft.flags else draft.flags
    return Sample(
        id=f"{source.name}/{draft.name}",
        source=source.name,
        group=group,
        image=draft.image,
        split=split,
        fold=fold,
        masks=draft.masks,
        boxes=draft.boxes,
        boxes_lps_mm=draft.boxes_lps_mm,
        excluded_boxes=draft.excluded_boxes,
        image_class=draft.image_class,
        values=dict(draft.values),
        centre_lps_mm=draft.centre_lps_mm,
        flags=flags,
        licence=source.licence,
    )


def _divided(samples: Sequence[Sample]) -> tuple[str, ...]:
    seen: dict[str, set[str]] = {}
    for sample in samples:
        seen.setdefault(sample.group, set()).add(sample.split)
    return tuple(group for group, splits in seen.items() if len(splits) > 1)


def _where(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _read_lidc(request: Request, problems: Problems) -> Found:
    return lidc_voi.read(request.root, problems, request.out.parent / f"{source_name(request)}_nifti")


def _read_composed(request: Request, problems: Problems) -> Found:
    return composed_ct.read(
        request.root,
        problems,
        request.out.parent / f"{source_name(request)}_nifti",
        background=request.background,
        count=request.count,
        first=request.first_seed,
        spacing_mm=request.spacing_mm,
        go_on=request.skip_broken,
    )


def _read_phantom(request: Request, problems: Problems) -> Found:
    return phantom.read(
        request.root,
        problems,
        count=request.count,
        first_seed=request.first_seed,
        family=request.family,
        spacing_mm=request.spacing_mm,
    )


LAYOUTS: Mapping[str, Callable[[Request, Problems], Found]] = {
    "busi": lambda request, problems: busi.read(request.root, problems),
    "kvasir_seg": lambda request, problems: kvasir_seg.read(request.root, problems, request.split_by),
    "endotect": lambda request, problems: endotect.read(request.root, problems),
    "polyp_folder": lambda request, problems: polyp_folder.read(request.root, problems, request.split_by),
    "isic2018": lambda request, problems: isic2018.read(request.root, problems, request.split_by),
    "lidc_voi": _read_lidc,
    "luna16": lambda request, problems: luna16.read(request.root, problems, request.split_by),
    "lung_pet_ct_dx": lambda request, problems: lung_pet_ct_dx.read(request.root, problems),
    "chest_ct_nifti": lambda request, problems: chest_ct_nifti.read(request.root, problems),
    "composed_ct": _read_composed,
    "phantom": _read_phantom,
    "folder": lambda request, problems: folder.read(request.root, problems, request.split_by),
}
"""Every source that can be named, and how it is read."""
