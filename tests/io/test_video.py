"""Video files: every frame in order with its time, upright, or a refusal with its code."""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mtnet.io.limits import Limits
from mtnet.io.video import Video
from mtnet.structures.report import RefusedError

cv2 = pytest.importorskip("cv2", reason="mtnet[video] is not installed")

COLUMNS, ROWS, COUNT = 64, 48, 20
KINDS = [("a.mp4", "mp4v"), ("a.mov", "mp4v"), ("a.avi", "FFV1"), ("a.mkv", "FFV1"), ("a.webm", "VP80")]


def drawn(number: int) -> NDArray[np.uint8]:
    """RGB, (rows, columns, 3): blue below, and a block at the top left whose red tells the frame's number."""
    frame = np.zeros((ROWS, COLUMNS, 3), np.uint8)
    frame[ROWS // 2 :, :, 2] = 200
    frame[: ROWS // 2, : COLUMNS // 2, 0] = 10 * number
    return frame


def write_video(path: Path, codec: str, count: int = COUNT) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), 25.0, (COLUMNS, ROWS))
    assert writer.isOpened()
    for number in range(count):
        writer.write(drawn(number)[..., ::-1])
    writer.release()
    return path


@pytest.mark.parametrize(("name", "codec"), KINDS)
def test_frames_come_in_order_with_their_times_and_colours(tmp_path: Path, name: str, codec: str) -> None:
    video = Video(write_video(tmp_path / name, codec))
    assert video.shape == (COLUMNS, ROWS) and "pixel_spacing_unknown" in video.report.codes
    for _ in range(2):
        frames = list(video)
        assert [frame.index for frame in frames] == list(range(COUNT))
        assert [frame.time_ms for frame in frames] == pytest.approx([40.0 * n for n in range(COUNT)], abs=1)
        for frame in frames:
            assert frame.array.shape == (3, COLUMNS, ROWS)
            expected = drawn(frame.index).transpose(2, 1, 0)
            assert np.abs(frame.array.astype(int) - expected).mean() < 6
            assert frame.array[0, 8:24, 6:18].mean() == pytest.approx(10 * frame.index, abs=6)


def test_lossless_video_is_exact_up_to_its_colour_space(tmp_path: Path) -> None:
    frames = [frame.array for frame in Video(write_video(tmp_path / "a.mkv", "FFV1"))]
    capture = cv2.VideoCapture(str(tmp_path / "a.mkv"))
    for array in frames:
        np.testing.assert_array_equal(array, capture.read()[1][..., ::-1].transpose(2, 1, 0))


def test_a_variable_rate_keeps_its_timestamps(tmp_path: Path) -> None:
    stored = bytearray(write_video(tmp_path / "a.mkv", "FFV1").read_bytes())
    # SimpleBlock: its id, its length, track 1, the time in ms since its cluster, flags.
    blocks = list(re.finditer(rb"\xa3(?:[\x80-\xff]|[\x40-\x7f].)\x81(..)[\x80\x00]", bytes(stored), re.DOTALL))
    times = [struct.unpack(">h", block[1])[0] for block in blocks]
    assert times == [40 * n for n in range(COUNT)]
    for number, block in enumerate(blocks):
        stored[block.start(1) : block.end(1)] = struct.pack(">h", 2 * number * number + number)
    (tmp_path / "a.mkv").write_bytes(stored)
    found = [frame.time_ms for frame in Video(tmp_path / "a.mkv")]
    assert found == pytest.approx([2 * n * n + n for n in range(COUNT)], abs=1)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_in_the_file_is_applied_and_noted(tmp_path: Path, degrees: int) -> None:
    stored = bytearray(write_video(tmp_path / "a.mp4", "mp4v").read_bytes())
    # The matrix of the track header (tkhd, version 0) stands 44 bytes behind its name; 16.16 and 2.30 numbers.
    at = stored.index(b"tkhd") + 44
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    matrix = [cosine, sine, 0, -sine, cosine, 0, 0, 0, 1]
    fixed = [value * (1 << (30 if place % 3 == 2 else 16)) for place, value in enumerate(matrix)]
    stored[at : at + 36] = struct.pack(">9i", *fixed)
    (tmp_path / "a.mp4").write_bytes(stored)
    video = Video(tmp_path / "a.mp4")
    assert "video_rotated" in video.report.codes
    assert video.shape == ((COLUMNS, ROWS) if degrees == 180 else (ROWS, COLUMNS))
    # The matrix turns clockwise, numpy's rot90 the other way round.
    upright = np.rot90(drawn(15), -degrees // 90)
    frame = list(video)[15]
    assert np.abs(frame.array.astype(int) - upright.transpose(2, 1, 0)).mean() < 8


@pytest.mark.parametrize(("name", "codec"), KINDS)
@pytest.mark.parametrize("share", [0.1, 0.4, 0.7, 0.95])
def test_files_that_are_cut_short_are_refused(tmp_path: Path, name: str, codec: str, share: float) -> None:
    path = write_video(tmp_path / name, codec)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(RefusedError, match=r"video_cut_short|unreadable_video"):
        Video(path)


def test_other_content_under_the_name_of_a_video_is_refused(tmp_path: Path) -> None:
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n"
    (tmp_path / "a.mp4").write_text(playlist)
    with pytest.raises(RefusedError, match="unsupported_format"):
        Video(tmp_path / "a.mp4")
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(RefusedError, match="unsupported_format"):
        Video(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes(struct.pack(">I4s8x", 16, b"ftyp"))
    with pytest.raises(RefusedError, match="unreadable_video"):
        Video(tmp_path / "b.mp4")
    with pytest.raises(FileNotFoundError):
        Video(tmp_path / "nothing.mp4")


def test_frames_that_the_file_counts_and_does_not_hold_are_told_at_the_end(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", "FFV1")
    stored = bytearray(path.read_bytes())
    # dwLength of the stream header.
    stored[stored.index(b"strh") + 40 : stored.index(b"strh") + 44] = struct.pack("<I", 2 * COUNT)
    path.write_bytes(stored)
    video = Video(path)
    with pytest.raises(RefusedError, match="video_cut_short"):
        list(video)


def test_limits_hold(tmp_path: Path) -> None:
    for name, codec in (("a.mp4", "mp4v"), ("a.mkv", "FFV1")):
        path = write_video(tmp_path / name, codec)
        with pytest.raises(RefusedError, match="limit_exceeded"):
            list(Video(path, Limits(frames=10)))
        with pytest.raises(RefusedError, match="limit_exceeded"):
            Video(path, Limits(image_bytes=1000))


def test_without_the_extra_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", "mp4v")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(RefusedError, match=r"mtnet\[video\].*missing_extra"):
        Video(path)
