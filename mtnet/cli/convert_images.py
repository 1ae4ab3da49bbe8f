"""2D images and cines of ``mtnet convert``: an image as one lossless file, a cine as a folder of numbered ones."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtnet.io.dicom_images import DicomFrames
    from mtnet.io.video import Video
    from mtnet.structures.image import Image

IMAGE_FILES = ("image-*.png", "image-*.tif")
CINE_FOLDERS = "cine-*"
_FRAME_FILES = ("frame-*.png", "frame-*.tif")


@contextmanager
def image_files(image: Image, out: Path, name: str) -> Iterator[dict[str, Any]]:
    """Give what the report says of ``name.png`` (or ``.tif``, where PNG cannot hold the values), then write it.

    Raises:
        ValueError: no format holds the values.
    """
    from mtnet.io.image_out import image_suffix, write_image

    yield {
        "file": f"{name}{image_suffix(image.array)}",
        "shape": image.shape,
        "channels": image.array.shape[0],
        "spacing_mm": image.spacing_mm,
        "value_type": image.array.dtype.name,
        "repaired": any(item.severity == "repaired" for item in image.report),
    }
    write_image(image.array, out, name)


@contextmanager
def cine_files(frames: DicomFrames | Video, out: Path, name: str) -> Iterator[dict[str, Any]]:
    """Write the frames as numbered files, give what the report says of them, then put them into place as ``out/name``.

    Raises:
        RefusedError: a frame cannot be decoded right.
        ValueError: no format holds the values.
    """
    from mtnet.io.image_out import write_image

    temporary = out / f".{name}.tmp-{secrets.token_hex(4)}"
    temporary.mkdir()
    listed, channels, value_type = [], 0, ""
    try:
        for frame in frames:
            path = write_image(frame.array, temporary, f"frame-{frame.index:05d}")
            listed.append({"file": f"{name}/{path.name}", "time_ms": frame.time_ms})
            channels, value_type = frame.array.shape[0], frame.array.dtype.name
        yield {
            "file": name,
            "shape": frames.shape,
            "channels": channels,
            "spacing_mm": frames.spacing_mm,
            "value_type": value_type,
            "repaired": any(item.severity == "repaired" for item in frames.report),
            "frames": listed,
        }
        temporary.rename(out / name)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def earlier_outputs(out: Path) -> Iterator[Path]:
    """What an earlier run left: image files, and cine folders in which nothing else lies.

    Raises:
        ValueError: a cine folder holds something else.
    """
    for pattern in IMAGE_FILES:
        yield from sorted(out.glob(pattern))
    for folder in sorted(path for path in out.glob(CINE_FOLDERS) if path.is_dir()):
        known = {file for pattern in _FRAME_FILES for file in folder.glob(pattern)}
        foreign = sorted(set(folder.iterdir()) - known)
        if foreign:
            raise ValueError(f"{foreign[0]} was not written by mtnet convert; give an empty or another folder.")
        yield folder


def remove(path: Path) -> None:
    """Remove a file, or a folder of frames."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
