"""Lung-PET-CT-Dx (TCIA): chest CT in DICOM, with a Pascal VOC file of boxes for each slice that shows the tumour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from mtnet.io.load import load
from mtnet.io.scan import scan
from mtnet.sources.layout import About, Draft, Found, Problem, Problems, set_root, visible
from mtnet.sources.manifest import Numbers
from mtnet.structures.report import RefusedError
from mtnet.structures.study import Series

ABOUT = About(
    title="Lung-PET-CT-Dx",
    licence="CC-BY-4.0",
    terms="free",
    cite="Li P, Wang S, Li T, Lu J, HuangFu Y, Wang D. A Large-Scale CT and PET/CT Dataset for Lung Cancer Diagnosis. "
    "The Cancer Imaging Archive, 2020. Clark K, et al. J Digit Imaging 2013;26:1045-1057.",
    url="https://doi.org/10.7937/TCIA.2020.NNC2-0461",
)
CLASSES = {
    "A": "adenocarcinoma",
    "B": "small_cell_carcinoma",
    "E": "large_cell_carcinoma",
    "G": "squamous_cell_carcinoma",
}
"""What the letter of a box stands for."""
LEAST_OVERLAP = 0.1
"""Boxes of neighbouring slices belong together from this intersection over union on."""
LARGEST_STEP = 2
"""Steps between two boxes of one lesion, at most: one slice without a box may lie between them."""
_DICOM_SUFFIXES = ("", ".dcm", ".ima", ".dicom")


@dataclass(frozen=True, slots=True)
class SliceBox:
    """A box on one slice: slice index ``k`` in the loaded volume, half-open ``(i, j)`` low and high, and its label."""

    k: float
    box: tuple[float, float, float, float]
    label: str


@dataclass(frozen=True, slots=True)
class _Annotation:
    path: Path
    size: tuple[int, int]
    boxes: tuple[tuple[tuple[float, float, float, float], str], ...]


def read(root: Path, problems: Problems) -> Found:
    """Read every annotated CT series under ``root``; each lies in a folder of its own, as TCIA's retriever puts it.

    A VOC file is named after the SOPInstanceUID of its slice. Corners are taken as edges of pixels (xmin 0 is -0.5 in
    index space). Boxes of neighbouring slices that overlap become one 3D box, which holds them all; boxes are those of
    the volume as ``mtnet.io.load`` gives it, and stand in LPS mm too. The group is the patient (the folder below
    ``root``); series without any box are left aside, for nobody looked at them.

    Raises:
        FileNotFoundError: there are no VOC files.
    """
    root = set_root(root, lambda folder: any(folder.rglob("*.xml")), "DICOM folders and a folder of VOC .xml files.")
    annotations: dict[str, _Annotation] = {}
    broken: set[str] = set()
    for path in sorted(path for path in root.rglob("*.xml") if not path.name.startswith(".")):
        found = _annotation(path, problems)
        if found is None:
            broken.add(path.stem)
        else:
            annotations[path.stem] = found
    drafts: list[Draft] = []
    used: set[str] = set()
    for folder in _dicom_folders(root):
        problems.looked()
        try:
            studies = scan(folder)
        except RefusedError as error:
            problems.append(Problem(folder, f"unreadable: {_told(error)}"))
            continue
        all_series = [
            series
            for study in studies
            for series in study.series
            if any(instance.path.parent == folder for instance in series.instances)
        ]
        for series in all_series:
            uids = {instance.sop_instance_uid for instance in series.instances}
            marked = uids & annotations.keys()
            used |= uids & (annotations.keys() | broken)
            if not marked or uids & broken:
                continue
            if len(all_series) > 1:
                problems.append(Problem(folder, f"holds {len(all_series)} series; put each into a folder of its own"))
                break
            draft = _draft(root, folder, series, {uid: annotations[uid] for uid in marked}, problems)
            if draft is not None:
                drafts.append(draft)
    problems += _orphans(root, annotations, used)
    return Found(root, ABOUT, tuple(drafts), boxes_from="annotation", grouped_by="patient")


def join_slices(boxes: Sequence[SliceBox]) -> list[tuple[Numbers, str]]:
    """3D boxes ``(i, j, k, i, j, k)`` from boxes of slices, each with its label, in the order of their first slice.

    Slice by slice, a box goes to the lesion of its label whose last box overlaps it most, if that is
    ``LEAST_OVERLAP`` or more and at most ``LARGEST_STEP`` slices away; else it begins a lesion.
    """
    lesions: list[list[SliceBox]] = []
    for k in sorted({box.k for box in boxes}):
        here = [box for box in boxes if box.k == k]
        matches = sorted(
            (
                (_overlap(lesion[-1].box, box.box), n, m)
                for n, lesion in enumerate(lesions)
                for m, box in enumerate(here)
                if lesion[-1].label == box.label and 0 < k - lesion[-1].k < LARGEST_STEP + 0.5
            ),
            reverse=True,
        )
        taken: set[int] = set()
        grown: set[int] = set()
        for overlap, n, m in matches:
            if overlap >= LEAST_OVERLAP and n not in grown and m not in taken:
                lesions[n].append(here[m])
                grown.add(n)
                taken.add(m)
        lesions += [[box] for m, box in enumerate(here) if m not in taken]
    return [(_around(lesion), lesion[0].label) for lesion in lesions]


def _around(lesion: Sequence[SliceBox]) -> Numbers:
    corners = np.array([box.box for box in lesion])
    slices = [box.k for box in lesion]
    low, high = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
    return (float(low[0]), float(low[1]), min(slices) - 0.5, float(high[0]), float(high[1]), max(slices) + 0.5)


def _overlap(one: Sequence[float], two: Sequence[float]) -> float:
    """Intersection over union of two boxes in a plane."""
    shared = 1.0
    for axis in range(2):
        shared *= max(0.0, min(one[axis + 2], two[axis + 2]) - max(one[axis], two[axis]))
    both = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, two))
    return shared / (both - shared)


def _annotation(path: Path, problems: list[Problem]) -> _Annotation | None:
    try:
        tree = ElementTree.parse(path).getroot()
        size = int(tree.findtext("size/width") or 0), int(tree.findtext("size/height") or 0)
        boxes = []
        for item in tree.iter("object"):
            corners = [float(item.findtext(f"bndbox/{name}") or "") for name in ("xmin", "ymin", "xmax", "ymax")]
            if not (corners[0] < corners[2] and corners[1] < corners[3]):
                problems.append(Problem(path, f"a box is empty: {corners}"))
                return None
            low_i, low_j, high_i, high_j = (corner - 0.5 for corner in corners)
            boxes.append(((low_i, low_j, high_i, high_j), (item.findtext("name") or "").strip().upper()))
    except (ElementTree.ParseError, ValueError, OSError) as error:
        problems.append(Problem(path, f"unreadable: expected a Pascal VOC file ({type(error).__name__})"))
        return None
    if not boxes:
        problems.append(Problem(path, "holds no box"))
        return None
    return _Annotation(path, size, tuple(boxes))


def _dicom_folders(root: Path) -> Iterator[Path]:
    """Folders that hold files other than VOC and texts."""
    for folder in sorted({path.parent for path in root.rglob("*") if path.is_file()}):
        if any(path.is_file() and path.suffix.lower() in _DICOM_SUFFIXES for path in visible(folder)):
            yield folder


def _draft(
    root: Path, folder: Path, series: Series, marked: dict[str, _Annotation], problems: list[Problem]
) -> Draft | None:
    stack = series.stacks[0]
    outside = marked.keys() - {instance.sop_instance_uid for instance in stack.instances}
    if outside:
        problems.append(Problem(folder, f"{len(outside)} annotated slices are not in the series' main stack"))
        return None
    try:
        volume = load(stack, series)
    except RefusedError as error:
        problems.append(Problem(folder, f"unreadable: {_told(error)}"))
        return None
    geometry = volume.geometry
    slices: list[SliceBox] = []
    for instance in stack.instances:
        annotation = marked.get(instance.sop_instance_uid)
        if annotation is None or instance.position_lps_mm is None:
            continue
        plane = (instance.columns or 0, instance.rows or 0)
        if all(annotation.size) and annotation.size != plane:
            problems.append(Problem(annotation.path, f"size mismatch: {annotation.size}, its slice {plane}"))
            return None
        k = float(geometry.lps_mm_to_index(instance.position_lps_mm)[2])
        slices += [SliceBox(round(k, 3), box, label) for box, label in annotation.boxes]
    joined = join_slices(slices)
    labels = {CLASSES[label] for _, label in joined if label in CLASSES}
    inside = folder.relative_to(root).parts
    patient = inside[0] if len(inside) > 1 else series.study_instance_uid
    return Draft(
        name=f"{patient}_{series.series_instance_uid}",
        image=folder,
        boxes=tuple(box for box, _ in joined),
        boxes_lps_mm=tuple(tuple(round(float(v), 3) for v in geometry.box_index_to_lps_mm(box)) for box, _ in joined),
        image_class=labels.pop() if len(labels) == 1 else None,
        values={"marked_slices": float(len({box.k for box in slices}))},
        group=patient,
    )


def _orphans(root: Path, annotations: dict[str, _Annotation], used: set[str]) -> Iterator[Problem]:
    """Annotations without their slice, of patients whose folder is there; others were not downloaded."""
    folders = [path.name for path in root.iterdir() if path.is_dir()]
    for uid, annotation in annotations.items():
        patient = annotation.path.parent.name
        if uid not in used and any(name != patient and name.endswith(patient) for name in folders):
            yield Problem(annotation.path, "no slice with this SOPInstanceUID")


def _told(error: RefusedError) -> str:
    return " ".join(line.message for line in error.lines)
