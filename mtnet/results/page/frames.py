"""Frames of an image or clip as a page shows them: pictures that a browser can draw, and masks of the same size."""

from __future__ import annotations

import base64
import gzip
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtnet.results.image_overlay import displayed
from mtnet.results.page.grid import packed_nifti
from mtnet.results.page.marks import class_codes, legend, lesion_code
from mtnet.results.page.scene import Scene, lesion_entry
from mtnet.structures import Findings, Lesion

MOST_PICTURE_BYTES = 13 << 20
"""Of all frames of a page together; in base64 they take a third more."""
_BEST_FRAMES = 12
_IMAGE_SIDE_PX, _FRAME_SIDE_PX = 1600, 800
_JPEG_QUALITY = 88


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    picture: bytes
    kind: str
    codes: bytes | None
    lesions: tuple[str, ...]
    score: float
    time_ms: float | None


class PageFrames:
    """Takes the frames of a clip one by one; within a limit it keeps evenly spaced ones and those of the best lesions.

    A single image is kept without loss, frames of a clip as JPEG; both are made smaller where they are very large.

    Args:
        columns, rows: of every frame.
        single: whether there is one frame only, kept without loss.
        most_bytes: of all pictures together.
    """

    def __init__(self, columns: int, rows: int, *, single: bool, most_bytes: int = MOST_PICTURE_BYTES) -> None:
        self._single, self._most_bytes = single, most_bytes
        self.source_size = columns, rows
        scale = min(1.0, (_IMAGE_SIDE_PX if single else _FRAME_SIDE_PX) / max(columns, rows))
        self.size = max(round(columns * scale), 1), max(round(rows * scale), 1)
        self._kept: dict[int, _Kept] = {}
        self._step = 1
        self._bytes = 0

    @classmethod
    def of_image(cls, pixels: NDArray[np.generic], findings: Findings) -> PageFrames:
        """The one frame ``(C, i, j)`` of an image."""
        frames = cls(pixels.shape[1], pixels.shape[2], single=True)
        frames.add(0, pixels, findings)
        return frames

    def add(self, index: int, pixels: NDArray[np.generic], findings: Findings, time_ms: float | None = None) -> None:
        """Take frame ``index``, counted from 0, with what was found on it alone."""
        score = max((lesion.score for lesion in findings.lesions), default=-1.0)
        if index % self._step and score < self._least_best():
            return
        picture, kind = self._picture(pixels)
        codes = _frame_codes(findings, self.size)
        lesions = tuple(lesion.tracking_uid for lesion in findings.lesions)
        packed = None if codes is None else gzip.compress(codes.tobytes(), 1, mtime=0)
        self._kept[index] = _Kept(picture, kind, packed, lesions, score, time_ms)
        self._bytes += len(picture)
        while self._bytes > self._most_bytes and len(self._kept) > _BEST_FRAMES + 1:
            self._step *= 2
            self._thin()

    def scene(self, findings: Findings) -> Scene:
        """The frames that were kept, with the lesions of all findings that lie on them."""
        spacing = findings.plane.spacing_mm if findings.plane else None
        order = sorted(self._kept)
        codes = self._codes(order, findings.lesions)
        count = findings.geometry.shape[2]
        captions = [_caption(index, count, self._kept[index].time_ms) for index in order]
        entries, places = [], {}
        for lesion in findings.lesions:
            frame = lesion.frame or 0
            nearest = int(np.abs(np.array(order) - frame).argmin())
            places[lesion.number] = f"frame {frame + 1} of {count}" if count > 1 else ""
            entries.append({**lesion_entry(lesion, self._box(lesion, nearest)), "shown": order[nearest] == frame})
        data = {
            "kind": "frames",
            "shape": [*self.size, len(order)],
            "spacing": None if spacing is None else self._spacing(spacing),
            "slices": captions,
            "pictures": [self._uri(index) for index in order],
            "legend": [] if codes is None else legend(findings, codes),
            "lesions": entries,
        }
        blobs = {} if codes is None else {"masks": packed_nifti(codes, np.eye(4))}
        return Scene(data, blobs, places)

    def _least_best(self) -> float:
        """The score that a frame needs to be among the best; nothing beats it where no frame has a lesion."""
        scores = sorted((kept.score for kept in self._kept.values() if kept.score >= 0), reverse=True)
        return scores[_BEST_FRAMES - 1] if len(scores) >= _BEST_FRAMES else 0.0

    def _thin(self) -> None:
        least = self._least_best()
        best = sorted((i for i, k in self._kept.items() if k.score >= least), key=lambda i: -self._kept[i].score)
        for index in [i for i in self._kept if i % self._step and i not in best[:_BEST_FRAMES]]:
            self._bytes -= len(self._kept.pop(index).picture)

    def _picture(self, pixels: NDArray[np.generic]) -> tuple[bytes, str]:
        from PIL import Image

        shown = displayed(pixels)
        grey = pixels.shape[0] == 1
        picture = Image.fromarray(np.ascontiguousarray(shown[..., 0]) if grey else shown)
        if picture.size != self.size:
            picture = picture.resize(self.size, Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        if self._single:
            picture.save(stream, format="PNG", optimize=True)
            return stream.getvalue(), "png"
        picture.save(stream, format="JPEG", quality=_JPEG_QUALITY)
        return stream.getvalue(), "jpeg"

    def _codes(self, order: list[int], lesions: tuple[Lesion, ...]) -> NDArray[np.uint8] | None:
        """``(columns, rows, frames)`` codes, lesions by their number among all."""
        if all(self._kept[index].codes is None for index in order):
            return None
        numbers = {lesion.tracking_uid: lesion.number for lesion in lesions}
        codes = np.zeros((*self.size, len(order)), np.uint8)
        for k, index in enumerate(order):
            kept = self._kept[index]
            if kept.codes is None:
                continue
            local = np.frombuffer(gzip.decompress(kept.codes), np.uint8).reshape(self.size)
            codes[:, :, k] = _renumbered(kept.lesions, numbers)[local]
        return codes

    def _box(self, lesion: Lesion, frame: int) -> NDArray[np.float64]:
        i0, j0, _, i1, j1, _ = lesion.box_index
        scale = np.array(self.size) / np.array(self.source_size)
        low, high = (np.array([i, j]) for i, j in ((i0, j0), (i1, j1)))
        low, high = ((side + 0.5) * scale - 0.5 for side in (low, high))
        return np.array([*low, frame - 0.5, *high, frame + 0.5])

    def _spacing(self, spacing_mm: tuple[float, float]) -> list[float]:
        return [round(s * n / m, 6) for s, n, m in zip(spacing_mm, self.source_size, self.size, strict=True)]

    def _uri(self, index: int) -> str:
        kept = self._kept[index]
        return f"data:image/{kept.kind};base64,{base64.b64encode(kept.picture).decode('ascii')}"


def _caption(index: int, count: int, time_ms: float | None) -> str:
    if count == 1:
        return ""
    return f"frame {index + 1} of {count}" + ("" if time_ms is None else f", {time_ms / 1000:.2f} s")


def _frame_codes(findings: Findings, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """``(columns, rows)`` codes of one frame; lesions by their number on it."""
    from PIL import Image

    if findings.label_map is None and findings.lesion_map is None:
        return None
    codes = np.zeros(findings.geometry.shape[:2], np.uint8)
    by_number = {lesion.number: lesion_code(lesion.number) for lesion in findings.lesions}
    for one, code_of in ((findings.label_map, class_codes(findings)), (findings.lesion_map, by_number)):
        if one is not None:
            plane = one.array[0, :, :, 0]
            for value, code in code_of.items():
                codes[plane == value] = code
    if codes.shape == size:
        return codes
    resized = Image.fromarray(np.ascontiguousarray(codes.T)).resize(size, Image.Resampling.NEAREST)
    return np.ascontiguousarray(np.asarray(resized, dtype=np.uint8).T)


def _renumbered(tracking_uids: tuple[str, ...], numbers: Mapping[str, int]) -> NDArray[np.uint8]:
    """From codes of one frame to codes of all; lesions that are not told lose theirs."""
    table = np.arange(256, dtype=np.uint8)
    table[lesion_code(1) :] = 0
    for local, uid in enumerate(tracking_uids, start=1):
        if uid in numbers:
            table[lesion_code(local)] = lesion_code(numbers[uid])
    return table
