"""A clip answered frame by frame into one folder: each frame a line of ``frames.jsonl``, the best of all together."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtnet.cases import Clip
from mtnet.predictor import AnsweredFrame, Predictor, Progress
from mtnet.results import SegKind, Written, clear_results, write_results
from mtnet.results.findings_json import frame_to_dict
from mtnet.results.image_overlay import MOST_FRAMES
from mtnet.results.overlay_video import OverlayVideo, can_write_video
from mtnet.results.page import PageFrames
from mtnet.structures import (
    Findings,
    FrameTimings,
    Geometry,
    InputReport,
    Lesion,
    Plane,
    RefusedError,
    ReportLine,
    Volume,
)

MOST_LESIONS = 1000
"""Best-scored ones of a clip that stand in ``findings.json``, and so in the DICOM objects; ``frames.jsonl`` has all."""
MOST_MASK_BYTES = 1 << 30
"""Of the masks of a DICOM clip, which its DICOM SEG needs all at once."""

FRAMES = "frames.jsonl"
VIDEO = "overlay.mp4"
_DEFAULT_RATE = 25.0
_MASK_BYTES_A_PIXEL = 3
_WORK = ".clip.tmp-"


def answer_clip(
    predictor: Predictor,
    clip: Clip,
    folder: Path,
    *,
    seg: SegKind = "binary",
    capture: bool = True,
    page: bool = False,
    progress: Progress | None = None,
) -> Written:
    """Answer every frame, and write the results; besides a few frames for the overlay no pixels are kept, and for the
    page (``report.html``, where ``page`` asks for it) at most 13 MiB of small pictures.

    The masks of a DICOM clip are kept for its DICOM SEG while they take less than 1 GiB; those of a video are not: the
    overlay video shows them, and ``frames.jsonl`` has their sizes.

    Raises:
        RefusedError: a frame cannot be decoded right; nothing is then in the folder.
    """
    clear_results(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{_WORK}*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_WORK, dir=folder) as work, ExitStack() as stack:
        gathered = _Gathered(clip)
        shown = PageFrames(*clip.frames.shape, single=False) if page else None
        lines = stack.enter_context((Path(work) / FRAMES).open("w", encoding="utf-8"))
        video: OverlayVideo | None = None
        with clip.meter.stage("frames"):
            for answered, rate in _with_rate(predictor.frames(clip)):
                if video is None and can_write_video():
                    video = OverlayVideo(Path(work) / VIDEO, clip.frames.shape, rate, predictor.model)
                    stack.callback(video.close)
                if video is not None:
                    video.write(answered.frame.array, answered.findings)
                lines.write(json.dumps(frame_to_dict(answered.findings, *_told(answered)), allow_nan=False) + "\n")
                gathered.add(answered)
                if shown is not None:
                    frame = answered.frame
                    shown.add(frame.index, frame.array, answered.findings, frame.time_ms)
                if progress is not None:
                    progress(gathered.count, max(clip.count or 0, gathered.count))
        stack.close()
        made = {name: Path(work) / name for name in (FRAMES, VIDEO) if (Path(work) / name).is_file()}
        findings = gathered.findings(video is not None)
        return write_results(
            findings,
            None,
            folder,
            dicom_seg=seg,
            dicom_capture=capture,
            image=clip.header,
            frames=gathered.shown,
            made=made,
            page=shown or False,
            meter=clip.meter,
        )


def _told(answered: AnsweredFrame) -> tuple[int, float | None, float]:
    return answered.frame.index, answered.frame.time_ms, answered.latency_ms


def _with_rate(frames: Iterator[AnsweredFrame]) -> Iterator[tuple[AnsweredFrame, float]]:
    """Each frame with the frames a second that the first two of the clip are apart."""
    first = next(frames, None)
    if first is None:
        return
    second = next(frames, None)
    rate = _DEFAULT_RATE
    if second is not None and second.frame.time_ms is not None and first.frame.time_ms is not None:
        step_ms = second.frame.time_ms - first.frame.time_ms
        rate = min(max(1000.0 / step_ms, 1.0), 240.0) if step_ms > 0 else rate
    yield first, rate
    del first
    if second is not None:
        yield second, rate
        del second
    for answered in frames:
        yield answered, rate


class _Gathered:
    """What is kept of the frames that went by."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._last: Findings | None = None
        self._lesions: list[tuple[Lesion, int]] = []
        self._dropped = 0
        self._latencies_ms: list[float] = []
        self._lines: dict[str, tuple[ReportLine, int, int]] = {}
        self._shown: dict[int, tuple[float, NDArray[np.generic]]] = {}
        self._maps: list[tuple[NDArray[Any] | None, NDArray[Any] | None]] = []
        columns, rows = clip.frames.shape
        needed = columns * rows * (clip.count or 0) * _MASK_BYTES_A_PIXEL
        self._keeps_masks = clip.header is not None and needed <= MOST_MASK_BYTES
        self._masks_too_large = clip.header is not None and not self._keeps_masks

    @property
    def count(self) -> int:
        """Frames that went by."""
        return len(self._latencies_ms)

    @property
    def shown(self) -> dict[int, NDArray[np.generic]]:
        """The frames of the overlay: those with the best lesions, or the first where there is none."""
        return {index: pixels for index, (_, pixels) in sorted(self._shown.items())}

    def add(self, answered: AnsweredFrame) -> None:
        """Take a frame."""
        found, index = answered.findings, answered.frame.index
        self._latencies_ms.append(answered.latency_ms)
        self._lesions.extend((lesion, self.count - 1) for lesion in found.lesions)
        if len(self._lesions) > 2 * MOST_LESIONS:
            self._cut()
        for line in found.report.lines:
            if line not in self._clip.report.lines:
                first, at, times = self._lines.get(line.code, (line, index, 0))
                self._lines[line.code] = (first, at, times + 1)
        self._show(index, max((lesion.score for lesion in found.lesions), default=-1.0), answered.frame.array)
        if self._keeps_masks:
            maps = (found.label_map, found.lesion_map)
            label_map, lesion_map = (None if m is None else m.array[0, :, :, 0].copy() for m in maps)
            self._maps.append((label_map, lesion_map))
        self._last = replace(found, label_map=None, lesion_map=None, reconstruction=None)

    def findings(self, has_video: bool) -> Findings:
        """The findings of the clip as a whole.

        Raises:
            RefusedError: it had no frame.
        """
        if self._last is None:
            raise RefusedError([ReportLine("no_frames", "refused", "The clip holds no frame.")])
        self._cut()
        shape = (*self._clip.frames.shape, self.count)
        geometry = Geometry.from_parts(shape, self._last.geometry.spacing_mm)
        kept = [
            replace(lesion, number=number, **_moved(lesion, k, geometry))
            for number, (lesion, k) in enumerate(self._lesions, 1)
        ]
        median, p95 = (float(v) for v in np.percentile(self._latencies_ms, (50, 95)))
        label_map, lesion_map = self._merged_maps(geometry)
        return replace(
            self._last,
            geometry=geometry,
            lesions=tuple(kept),
            image_classes=(),
            label_map=label_map,
            lesion_map=lesion_map,
            reconstruction_error={},
            measured={},
            extras={},
            report=self._report(has_video),
            plane=Plane(self._clip.scale.spacing_mm, FrameTimings(self.count, median, p95)),
        )

    def _cut(self) -> None:
        """The best lesions, the earlier of equals."""
        self._lesions.sort(key=lambda entry: -entry[0].score)
        self._dropped += max(len(self._lesions) - MOST_LESIONS, 0)
        del self._lesions[MOST_LESIONS:]

    def _show(self, index: int, score: float, pixels: NDArray[np.generic]) -> None:
        """Keep the frame for the overlay if it is among the best; without any lesion the first one is."""
        if score < 0 and self._shown:
            return
        self._shown[index] = (score, pixels)
        if score >= 0:
            self._shown = {k: entry for k, entry in self._shown.items() if entry[0] >= 0}
        if len(self._shown) > MOST_FRAMES:
            del self._shown[min(self._shown, key=lambda k: (self._shown[k][0], -k))]

    def _merged_maps(self, geometry: Geometry) -> tuple[Volume | None, Volume | None]:
        """Masks of all frames; lesions that are not told are in the label map only."""
        if not self._maps:
            return None, None
        renumber: list[dict[int, int]] = [{} for _ in self._maps]
        for number, (lesion, k) in enumerate(self._lesions, 1):
            renumber[k][lesion.number] = number
        label_map, lesion_map = None, None
        if self._maps[0][0] is not None:
            stacked = np.stack([labels for labels, _ in self._maps if labels is not None], axis=-1)
            label_map = Volume(stacked[None], geometry, "SEG")
        if self._maps[0][1] is not None:
            numbered = np.zeros(geometry.shape, np.uint16)
            for k, (_, lesions) in enumerate(self._maps):
                for old, new in renumber[k].items():
                    numbered[:, :, k][lesions == old] = new
            lesion_map = Volume(numbered[None], geometry, "SEG")
        return label_map, lesion_map

    def _report(self, has_video: bool) -> InputReport:
        lines = [
            line
            if times == self.count
            else replace(line, message=f"{line.message} (First in frame {at}; frames: {times}.)")
            for line, at, times in self._lines.values()
        ]
        message = f"Each of the {self.count} frames was answered by itself; {FRAMES} has what was found on each."
        lines.append(ReportLine("frame_by_frame", "note", message))
        if self._dropped:
            message = f"Only the {MOST_LESIONS} best lesions are listed here; {self._dropped} more are in {FRAMES}."
            lines.append(ReportLine("lesions_left_out", "flagged", message))
        if self._masks_too_large:
            message = "The clip is too long for its masks to be kept; there is no DICOM SEG, and no mask file."
            lines.append(ReportLine("masks_left_out", "flagged", message))
        if not has_video:
            message = f"There is no {VIDEO}: OpenCV is not installed (pip install 'mtnet[video]')."
            lines.append(ReportLine("missing_extra", "note", message))
        return self._clip.report.plus(lines)


def _moved(lesion: Lesion, k: int, geometry: Geometry) -> dict[str, Any]:
    """Where a lesion of one frame lies in the clip, whose k counts frames."""
    i0, j0, _, i1, j1, _ = lesion.box_index
    box = (i0, j0, k - 0.5, i1, j1, k + 0.5)
    low_x, low_y, low_z, high_x, high_y, high_z = (float(v) for v in geometry.box_index_to_lps_mm(box))
    x, y, _ = lesion.centre_lps_mm
    return {
        "box_index": box,
        "box_lps_mm": (low_x, low_y, low_z, high_x, high_y, high_z),
        "centre_lps_mm": (x, y, float(k)),
    }
